"""Checks of the parts that make up a network: backbones, conditionings, prompts; and of codecs and checkpoint layouts."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ditzoo.assemble import Model, build, build_meta
from ditzoo.errors import DitzooError
from ditzoo.layouts import Layout, checked, to_ours, to_theirs
from ditzoo.matrix import Data, examples, matched
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import BackboneSpec, CodecSpec, ConditioningSpec, PromptSpec
from ditzoo.testing.findings import Checks, NotApplicableError, hold
from ditzoo.zoo import Zoo

TIMES = (30.0, 600.0, 990.0)


def woken(spec: ModelSpec) -> Model:
    """Return a model whose every parameter has a random value, so that gates and heads that begin at zero do something."""
    model, draws = build(spec), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=draws) * 0.05)
    return model


def _inputs(spec: ModelSpec, size: tuple[int, ...] | None = None, rows: int = 3) -> tuple[Tensor, Tensor, list[object]]:
    x = torch.randn(rows, spec.backbone.in_channels, *(size or spec.backbone.input_size), generator=torch.Generator().manual_seed(2))
    return x, torch.tensor(TIMES[:rows]), spec.prompt.default(rows)


def backbone_checks(spec: BackboneSpec, zoo: Zoo) -> Checks:
    """Return the checks of a backbone, with the first conditioning, prompt and schedule that it goes with."""
    whole = matched(zoo, backbone=spec.model_dump())
    hold(whole, "no installed conditioning, prompt, codec, schedule and sampler go with it")
    assert whole is not None
    model = woken(whole)
    return {
        "runs in parts, bit for bit": partial(_parts, model),
        "rows are apart": partial(_rows, model),
        "gradients reach every parameter": partial(_gradients, model),
        "keeps no state": partial(_stateless, model),
        "serves the sizes it says": partial(_sizes, model),
        "meta shapes are the real ones": partial(_meta, model),
        "saves and loads": partial(_saved, model),
        "early exits can be read": partial(_exits, model),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


@torch.no_grad()
def _parts(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    backbone = model.backbone
    stream = backbone.begin(x, t, model.prompt.encode(items))
    whole = backbone.run(stream, 0, backbone.depth)
    for middle in range(backbone.depth + 1):
        found = backbone.run(backbone.run(stream, 0, middle), middle, backbone.depth)
        hold(
            torch.equal(found.tokens, whole.tokens),
            f"run(0, {middle}) and then run({middle}, {backbone.depth}) is not run(0, {backbone.depth})",
        )
    hold(torch.equal(backbone.head(whole), model(x, t, items)), "head(run(begin(...))) is not forward(...)")


@torch.no_grad()
def _rows(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    together = model(x, t, items)
    channels = model.spec.backbone.in_channels
    hold(
        together.shape[0] == 3 and together.shape[1] in (channels, 2 * channels),
        f"it puts out {tuple(together.shape)} for {tuple(x.shape)}",
    )
    hold(together.shape[2:] == x.shape[2:], f"it puts out {tuple(together.shape)} for {tuple(x.shape)}")
    for row in range(3):
        alone = model(x[row : row + 1], t[row : row + 1], items[row : row + 1])
        off = float((together[row : row + 1] - alone).abs().max() / together.abs().max())
        hold(off < 1e-4, f"a row changes by {off:.2g} of the scale with its batch: times and items may differ by row")
    hold(not torch.allclose(together, model(x, t.flip(0), items)), "the time changes nothing")


def _gradients(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    model.requires_grad_(True).zero_grad(set_to_none=True)
    model(x, t, items).square().sum().backward()
    unseen = [name for name, p in model.backbone.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    hold(not unseen, f"no gradient reaches {', '.join(unseen[:5])}")


@torch.no_grad()
def _stateless(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    first = model(x, t, items)
    model(x * 2, t.flip(0), items)
    hold(torch.equal(first, model(x, t, items)), "a call changes the next one")


@torch.no_grad()
def _sizes(model: Model) -> None:
    own = model.spec.backbone.input_size
    for size in (own, tuple(2 * n for n in own), (own[0] * 2, *own[1:]), (*own[:-1], own[-1] * 3), tuple(n + 1 for n in own)):
        x, t, items = _inputs(model.spec, size, rows=1)
        if model.spec.backbone.check_size(size) is None:
            found = model(x, t, items)
            hold(found.shape[2:] == x.shape[2:], f"check_size allows {size}, and {tuple(found.shape[2:])} comes out")


def _meta(model: Model) -> None:
    real, meta = model.state_dict(), build_meta(model.spec).state_dict()
    wrong = [name for name in {*real, *meta} if name not in real or name not in meta or real[name].shape != meta[name].shape]
    hold(not wrong, f"built on meta {', '.join(sorted(wrong)[:5])} differ from the real ones")


def _saved(model: Model) -> None:
    import tempfile
    from pathlib import Path

    from ditzoo.checkpoints import open_file
    from ditzoo.layouts import Own
    from ditzoo.weights import fill, save_weights

    x, t, items = _inputs(model.spec)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        (file,) = save_weights(model, Path(folder) / "model.safetensors")
        again = build_meta(model.spec)
        fill(again, open_file(file), model.spec, Own())
        hold(torch.equal(again(x, t, items), model(x, t, items)), "saved and loaded it is another function")


@torch.no_grad()
def _exits(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    for depth in (*model.backbone.exits, model.backbone.depth):
        found = model.backbone(x, t, model.prompt.encode(items), depth)
        hold(torch.isfinite(found).all(), f"what is read out after {depth} blocks is not finite")


def conditioning_checks(spec: ConditioningSpec, zoo: Zoo) -> Checks:
    """Return the checks of a conditioning, on the first backbone and prompt that it goes with."""
    whole = next(
        filter(None, (matched(zoo, backbone=data, conditioning=spec.model_dump()) for data in examples(zoo, "backbone").values())), None
    )
    hold(whole, "no installed backbone and prompt go with it")
    assert whole is not None
    model = woken(whole)
    return {
        "the prompt reaches the picture": partial(_prompted, model),
        "the time reaches the picture": partial(_rows, model),
        "its tokens leave before the head": partial(_tokens, model),
        "blocks begin as they promise": partial(_identity, whole),
        "gradients reach every parameter": partial(_gradients, model),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


@torch.no_grad()
def _prompted(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    if "null" not in model.spec.prompt.provides_now:
        raise NotApplicableError("the prompt has no null")
    null = model.backbone(x, t, model.prompt.null(3))
    hold(not torch.allclose(model(x, t, items), null), "with and without a prompt the same comes out")


@torch.no_grad()
def _tokens(model: Model) -> None:
    x, t, items = _inputs(model.spec)
    stream = model.backbone.begin(x, t, model.prompt.encode(items))
    count = 1
    for extent in stream.grid:
        count *= extent
    hold(stream.tokens.shape[1] >= count, f"{stream.tokens.shape[1]} tokens are fewer than the grid's {count}")


@torch.no_grad()
def _identity(spec: ModelSpec) -> None:
    if "identity-at-start" not in spec.conditioning.provides_now:
        raise NotApplicableError("it promises nothing of its beginning")
    model = build(spec)
    x, t, items = _inputs(spec)
    stream = model.backbone.begin(x, t, model.prompt.encode(items))
    hold(torch.equal(model.backbone.run(stream, 0, model.backbone.depth).tokens, stream.tokens), "a fresh block is not the identity")


def prompt_checks(spec: PromptSpec) -> Checks:
    prompt = spec.build(32)
    with torch.no_grad():
        for p in prompt.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    return {
        "a row an item": partial(_encoded, spec, prompt),
        "rows are apart": partial(_prompt_rows, spec, prompt),
        "its null is another prompt": partial(_null, spec, prompt),
        "what makes no sense is refused": partial(_refused, spec),
        "says what it shows": lambda: hold(all(isinstance(spec.caption(item), str) for item in spec.default(3)), "a caption is no text"),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _encoded(spec: PromptSpec, prompt: nn.Module) -> None:
    cond = prompt.encode(spec.default(4))  # type: ignore[operator]
    hold(cond.vec.shape == (4, 32), f"4 items of width 32 give a vector {tuple(cond.vec.shape)}")
    hold(cond.tokens.shape[0] == 4 and cond.tokens.shape[2] == 32, f"4 items of width 32 give tokens {tuple(cond.tokens.shape)}")


def _prompt_rows(spec: PromptSpec, prompt: nn.Module) -> None:
    items = spec.default(3)
    together = prompt.encode(items)  # type: ignore[operator]
    for row in range(3):
        alone = prompt.encode(items[row : row + 1])  # type: ignore[operator]
        hold(torch.allclose(together.vec[row], alone.vec[0], atol=1e-5), "an item's vector changes with its batch")


def _null(spec: PromptSpec, prompt: nn.Module) -> None:
    if "null" not in spec.provides_now:
        raise NotApplicableError("it has no null")
    null, asked = prompt.null(2), prompt.encode(spec.default(2))  # type: ignore[operator]
    same = torch.equal(null.vec, asked.vec) and null.tokens.shape == asked.tokens.shape and torch.equal(null.tokens, asked.tokens)
    hold(not same, "its null is what a prompt is")


def _refused(spec: PromptSpec) -> None:
    if spec.argument is None:
        raise NotApplicableError("nothing can be asked of it")
    try:
        spec.parse([object()])
    except DitzooError:
        return
    raise AssertionError("an object that is no prompt is not refused with a ditzoo error")


def codec_checks(spec: CodecSpec) -> Checks:
    return {
        "sizes are what it says": partial(_codec_sizes, spec),
        "sizes that do not fit are refused": partial(_codec_refusal, spec),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _codec_sizes(spec: CodecSpec) -> None:
    if spec.files_used():
        raise NotApplicableError("its weights have to be fetched")
    size = (8 * spec.factor, 4 * spec.factor)
    pixels = torch.rand(2, spec.pixel_channels, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codec = spec.build().open()
    code = codec.encode(pixels)
    hold(
        tuple(code.shape) == (2, spec.channels, *spec.latent_size(size)),
        f"pictures {tuple(pixels.shape)} become latents {tuple(code.shape)}",
    )
    hold(codec.decode(code).shape == pixels.shape, f"latents {tuple(code.shape)} become pictures {tuple(codec.decode(code).shape)}")


def _codec_refusal(spec: CodecSpec) -> None:
    if spec.factor == 1:
        raise NotApplicableError("every size fits")
    try:
        spec.latent_size((spec.factor + 1, spec.factor))
    except ValueError:
        return
    raise AssertionError(f"{spec.factor + 1} pixels are no multiple of factor {spec.factor}, and are not refused")


def layout_checks(layout: Layout, zoo: Zoo) -> Checks:
    """Return a check a model of the catalogue's examples that the layout takes."""
    return {f"there and back on {name}": partial(_bijection, layout, spec) for name, spec in _models(zoo, layout)}


def _models(zoo: Zoo, layout: Layout) -> Iterator[tuple[str, ModelSpec]]:
    for name, data in examples(zoo, "backbone").items():
        for change in ({}, {"learn_sigma": True}):
            whole = matched(zoo, backbone=_changed(zoo, data, change), settings=[f"{path}={value}" for path, value in layout.means.items()])
            if whole is not None and layout.refuse(whole) is None:
                yield name + (" with a learned variance" if change else ""), whole


def _changed(zoo: Zoo, data: Data, change: Data) -> Data:
    return data | {name: value for name, value in change.items() if name in zoo.kinds["backbone"][data["kind"]].model_fields}


def _bijection(layout: Layout, spec: ModelSpec) -> None:
    own = woken(spec).state_dict()
    rows = checked(layout, layout.rows(spec, own), own)
    theirs = to_theirs(rows, own)
    again = to_ours(rows, theirs)
    wrong = [name for name in own if name not in again or not torch.equal(again[name], own[name])]
    hold(not wrong, f"there and back {', '.join(sorted(wrong)[:5])} are not what they were")
