"""Checks of the parts that make up a network: backbones and conditionings."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ditzoo.assemble import Model, build, build_meta
from ditzoo.matrix import examples, matched
from ditzoo.model_spec import ModelSpec
from ditzoo.packing import Pack
from ditzoo.specs import BackboneSpec, ConditioningSpec
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


def inputs(spec: ModelSpec, size: tuple[int, ...] | None = None, rows: int = 3) -> tuple[Tensor, Tensor, list[object]]:
    """Return noisy latents of some rows, a time of the model for each, and an item of the prompt for each."""
    x = torch.randn(rows, spec.backbone.in_channels, *(size or spec.backbone.input_size), generator=torch.Generator().manual_seed(2))
    return x, torch.tensor(TIMES[:rows]), spec.prompt.default(rows)


def backbone_checks(spec: BackboneSpec, zoo: Zoo) -> Checks:
    """Return the checks of a backbone, with the first conditioning, prompt and schedule that it goes with."""
    whole = matched(zoo, backbone=spec.model_dump())
    hold(whole, "no installed conditioning, prompt, codec, schedule and sampler go with it")
    assert whole is not None
    model = woken(whole)
    return {
        "runs in parts, bit for bit": partial(runs_in_parts, model),
        "rows are apart": partial(rows_are_apart, model),
        "gradients reach every parameter": partial(gradients_reach, model),
        "keeps no state": partial(_stateless, model),
        "serves the sizes it says": partial(_sizes, model),
        "packed clips are apart": partial(_packs, model),
        "meta shapes are the real ones": partial(_meta, model),
        "saves and loads": partial(saved_is_loaded, model),
        "early exits can be read": partial(_exits, model),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


@torch.no_grad()
def runs_in_parts(model: Model) -> None:
    """Hold that blocks in two runs are blocks in one, bit for bit, however the backbone is prepared to run."""
    x, t, items = inputs(model.spec)
    backbone = model.runner
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
def rows_are_apart(model: Model) -> None:
    """Hold that a row with its own time and item is the row by itself, and that the time changes it."""
    x, t, items = inputs(model.spec)
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


def gradients_reach(model: Model, depths: Sequence[int | None] = (None,)) -> None:
    """Hold that what is read after each of `depths` blocks sends a gradient to every parameter of the backbone."""
    x, t, items = inputs(model.spec)
    model.requires_grad_(True).zero_grad(set_to_none=True)
    for depth in depths:
        model.backbone(x, t, model.prompt.encode(items), depth).square().sum().backward()
    unseen = [name for name, p in model.backbone.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    hold(not unseen, f"no gradient reaches {', '.join(unseen[:5])}")


@torch.no_grad()
def _stateless(model: Model) -> None:
    x, t, items = inputs(model.spec)
    first = model(x, t, items)
    model(x * 2, t.flip(0), items)
    hold(torch.equal(first, model(x, t, items)), "a call changes the next one")


@torch.no_grad()
def _sizes(model: Model) -> None:
    own = model.spec.backbone.input_size
    for size in (own, tuple(2 * n for n in own), (own[0] * 2, *own[1:]), (*own[:-1], own[-1] * 3), tuple(n + 1 for n in own)):
        x, t, items = inputs(model.spec, size, rows=1)
        if model.spec.backbone.check_size(size) is None:
            found = model(x, t, items)
            hold(found.shape[2:] == x.shape[2:], f"check_size allows {size}, and {tuple(found.shape[2:])} comes out")


@torch.no_grad()
def _packs(model: Model) -> None:
    """A clip in a row with others is the clip alone."""
    spec = model.spec
    if not all("packs" in part.provides_now for part in (spec.backbone, spec.conditioning)):
        raise NotApplicableError("it takes batches of one size alone")
    own = spec.backbone.input_size
    larger = tuple(2 * n for n in own)
    sizes = [own, own if spec.backbone.check_size(larger) else larger, own]
    clips = [inputs(spec, size, rows=1)[0][0] for size in sizes]
    t, items = torch.tensor(TIMES), spec.prompt.default(3)
    pack = model.backbone.pack(clips)
    counts, told = pack.packing.counts, [spec.backbone.tokens_of(size) for size in sizes]
    hold(list(counts) == told, f"tokens_of says {told} of clips that have {list(counts)}")
    together = Pack(model.backbone(pack, t, model.prompt.encode(items)), pack.packing).clips()
    for row, clip in enumerate(clips):
        alone = model(clip[None], t[row : row + 1], items[row : row + 1])[0]
        off = float((together[row] - alone).abs().max() / alone.abs().max())
        hold(off < 1e-4, f"a clip changes by {off:.2g} of the scale with what it is packed with")


def _packing(zoo: Zoo, conditioning: ConditioningSpec) -> None:
    if "packs" not in conditioning.provides_now:
        raise NotApplicableError("it takes batches of one size alone")
    for data in examples(zoo, "backbone").values():
        whole = matched(zoo, backbone=data, conditioning=conditioning.model_dump())
        if whole is not None and "packs" in whole.backbone.provides_now:
            return _packs(woken(whole))
    raise NotApplicableError("no installed backbone that it goes with takes packed clips")


def _meta(model: Model) -> None:
    real, meta = model.state_dict(), build_meta(model.spec).state_dict()
    wrong = [name for name in {*real, *meta} if name not in real or name not in meta or real[name].shape != meta[name].shape]
    hold(not wrong, f"built on meta {', '.join(sorted(wrong)[:5])} differ from the real ones")


def saved_is_loaded(model: Model, depth: int | None = None) -> None:
    """Hold that a model that was saved and loaded says the same after `depth` blocks."""
    import tempfile
    from pathlib import Path

    from ditzoo.checkpoints import open_file
    from ditzoo.layouts import Own
    from ditzoo.weights import fill, save_weights

    x, t, items = inputs(model.spec)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        (file,) = save_weights(model, Path(folder) / "model.safetensors")
        again = build_meta(model.spec)
        fill(again, open_file(file), model.spec, Own())
        said = [one.backbone(x, t, one.prompt.encode(items), depth) for one in (model, again)]
        hold(torch.equal(*said), "saved and loaded it is another function")


@torch.no_grad()
def _exits(model: Model) -> None:
    x, t, items = inputs(model.spec)
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
        "the time reaches the picture": partial(rows_are_apart, model),
        "its tokens leave before the head": partial(_tokens, model),
        "packed clips are apart": partial(_packing, zoo, spec),
        "blocks begin as they promise": partial(_identity, whole),
        "gradients reach every parameter": partial(gradients_reach, model),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


@torch.no_grad()
def _prompted(model: Model) -> None:
    x, t, items = inputs(model.spec)
    if "null" not in model.spec.prompt.provides_now:
        raise NotApplicableError("the prompt has no null")
    null = model.backbone(x, t, model.prompt.null(3))
    hold(not torch.allclose(model(x, t, items), null), "with and without a prompt the same comes out")


@torch.no_grad()
def _tokens(model: Model) -> None:
    x, t, items = inputs(model.spec)
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
    x, t, items = inputs(spec)
    stream = model.backbone.begin(x, t, model.prompt.encode(items))
    hold(torch.equal(model.backbone.run(stream, 0, model.backbone.depth).tokens, stream.tokens), "a fresh block is not the identity")
