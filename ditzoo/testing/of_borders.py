"""Checks of the parts at a model's borders: prompts, codecs, checkpoint layouts."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial

import torch
from pydantic import ValidationError
from torch import nn

from ditzoo.errors import DitzooError
from ditzoo.layouts import Layout, checked, to_ours, to_theirs
from ditzoo.matrix import Data, examples, matched
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import CodecSpec, PromptSpec
from ditzoo.testing.findings import Checks, NotApplicableError, hold
from ditzoo.testing.of_networks import woken
from ditzoo.zoo import Zoo


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
            try:
                zoo.part("backbone", changed := _changed(zoo, data, change))
            except ValidationError:  # it has none with a learned variance
                continue
            whole = matched(zoo, backbone=changed, settings=[f"{path}={value}" for path, value in layout.means.items()])
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
