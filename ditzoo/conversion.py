"""Converting a model between layouts, with the proof on the spot that it is the same model and the same function."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditzoo.assemble import Model, load_found
from ditzoo.errors import CheckpointError, LayoutError, OutputError, SpecError, listed, suggest
from ditzoo.files import replacing, replacing_folder
from ditzoo.layouts import Component, Layout, Own, to_theirs
from ditzoo.model_spec import ModelSpec, Weights
from ditzoo.places import Folder
from ditzoo.sources import Found, resolve
from ditzoo.weights import save_weights
from ditzoo.zoo import Zoo

TOLERANCE = 1e-5  # of another implementation's output, relative to its scale


@dataclass(frozen=True)
class Conversion:
    """What was written, and what `verify` measured: tensors that are equal bit by bit, and the largest difference of outputs."""

    path: Path
    layout: str
    tensors: int | None = None
    apart: float | None = None
    judge: str | None = None


def layout_for(spec: ModelSpec, family: str, zoo: Zoo) -> Layout:
    """Return the layout of a family that can hold a model; raise `LayoutError` with the reason of each that cannot."""
    families = sorted({layout.family for layout in zoo.layouts.values()})
    if family not in (*families, *zoo.layouts):
        raise SpecError(
            f"no layout or family of layouts '{family}'{suggest(family, (*families, *zoo.layouts))} (families: {listed(families)})"
        )
    asked = [layout for layout in zoo.layouts.values() if family in (layout.family, layout.name)]
    reasons = {layout.name: refused(layout, spec, zoo) for layout in asked}
    able = [layout for layout in asked if reasons[layout.name] is None]
    if not able:
        raise LayoutError("\n".join(f"'{spec.name}' cannot be written in layout '{name}': {reason}" for name, reason in reasons.items()))
    return able[0]


def refused(layout: Layout, spec: ModelSpec, zoo: Zoo) -> str | None:
    """Say why a layout cannot hold a model, its pipeline's other parts included; None if it can."""
    reason = layout.refuse(spec)
    if reason:
        return reason
    for member in layout.members_of(spec):
        reasons = [component.write(spec, None) for component in _components(zoo, member)]
        if None not in reasons:
            return next(iter(reasons), f"no installed plugin writes the {member} of a {layout.pipeline}")
    return None


def convert(found: Found, target: Path, family: str, *, verify: bool = False, max_shard_size: int | str | None = "5GB") -> Conversion:
    """Write a model in another layout: a folder, or a checkpoint file where the layout is a single file.

    Refused before anything is loaded if the layout cannot hold the model. Numbers keep their type. With `verify` the result is read
    back: every tensor must be equal bit by bit, and outputs must agree, with diffusers' own network where there is one.
    """
    layout = layout_for(found.spec, family, found.zoo)
    whole = layout.pipeline is not None or isinstance(layout, Own)
    if target.exists() and (not whole or not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"'{target}' exists{' and is not an empty folder' if whole else ''}; choose another name, nothing is overwritten")
    if not whole and target.suffix not in (".pt", ".pth", ".safetensors"):
        raise OutputError(f"layout '{layout.name}' is a single file: write '{target}.pt' or '{target}.safetensors'")
    model = load_found(found, dtype="keep")
    if isinstance(layout, Own):
        with replacing_folder(target) as aside:
            model.save_pretrained(aside, max_shard_size=max_shard_size)
    elif layout.pipeline is not None:
        with replacing_folder(target) as aside:
            write_pipeline(model, layout, aside, found.zoo, max_shard_size=max_shard_size)
    else:
        _write_file(translated(model, layout), target)
    return check(model, target, layout, found.zoo) if verify else Conversion(target, layout.name)


def translated(model: Model, layout: Layout) -> dict[str, Tensor]:
    """Return a model's tensors under a layout's names."""
    own = model.state_dict()
    return to_theirs(layout.rows(model.spec, own), own)


def write_pipeline(model: Model, layout: Layout, folder: Path, zoo: Zoo, *, max_shard_size: int | str | None = "5GB") -> None:
    """Write a whole repository that the layout's pipeline of diffusers loads: network, scheduler, autoencoder, label names."""
    from importlib.metadata import version

    from ditzoo.model_card import write_card

    stem = folder / layout.files[0]
    stem.parent.mkdir(parents=True)
    config = layout.write_config(model.spec)
    released = version("diffusers")
    _write_json(stem.parent / "config.json", {"_class_name": config["_class_name"], "_diffusers_version": released} | config)
    save_weights(translated(model, layout), stem.with_name(f"{stem.name}.safetensors"), max_shard_size=max_shard_size)
    index: dict[str, Any] = {"_class_name": layout.pipeline_of(model.spec), "_diffusers_version": released}
    names = getattr(model.spec.prompt, "names", ())
    if names:
        index["id2label"] = {str(number): name for number, name in enumerate(names)}
    index[stem.parent.name] = ["diffusers", config["_class_name"]]
    for member in layout.members_of(model.spec):
        component = next(one for one in _components(zoo, member) if one.write(model.spec, None) is None)
        (folder / member).mkdir()
        component.write(model.spec, folder / member)
        written = json.loads((folder / member / component.config).read_text(encoding="utf-8"))
        index[member] = [component.library, component.class_of(written)]
    _write_json(folder / "model_index.json", index)
    write_card(model.spec, folder)


@torch.no_grad()
def check(model: Model, target: Path, layout: Layout, zoo: Zoo) -> Conversion:
    """Read a conversion back and hold it to the model that it came from; raise `CheckpointError` on any difference."""
    if target.is_dir():
        again = resolve(f"local-dir:{target}", zoo)
    else:
        weights = Weights(file=target.name, layout=layout.name, schedule=model.spec.schedule, latent=model.spec.codec.latent())
        again = Found(target.name, model.spec.model_copy(update={"weights": weights}), Folder(target.parent), zoo)
    back = load_found(again, dtype="keep")
    own, theirs = model.state_dict(), back.state_dict()
    differing = [name for name, tensor in own.items() if name not in theirs or not same_bits(tensor, theirs[name])]
    if differing or own.keys() != theirs.keys():
        raise CheckpointError(
            f"{target} is not the model that was written: {listed(differing or sorted(own.keys() ^ theirs.keys()))} differ; delete it"
        )
    expected, inputs = outputs(model)
    apart, judge = difference(outputs(back, inputs)[0], expected), "read back"
    theirs_out = layout.their_output(target, *inputs)
    if theirs_out is not None:
        apart, judge = max(apart, difference(theirs_out, expected)), layout.family
    if not apart <= TOLERANCE:
        raise CheckpointError(
            f"{target} is another function than the model it came from: outputs are {apart:.2e} of their scale apart ({judge}); delete it"
        )
    return Conversion(target, layout.name, len(own), apart, judge)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are the same numbers bit by bit, NaN included."""
    return a.dtype == b.dtype and a.shape == b.shape and bool(a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8)))


def outputs(model: Model, inputs: tuple[Tensor, Tensor, list[Any]] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor, list[Any]]]:
    """Return a model's output in fp32 on inputs, or on two latents drawn from a seed at two of its times."""
    spec = model.spec
    if inputs is None:
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, spec.backbone.in_channels, *spec.backbone.input_size, generator=generator)
        times = spec.schedule.build().model_time(torch.tensor([0.9, 0.2])).float()
        inputs = latents, times, spec.prompt.default(2)
    if model.dtype != torch.float32:
        model = _in_fp32(model)
    return model(inputs[0], inputs[1], inputs[2]), inputs


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest value expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def _in_fp32(model: Model) -> Model:
    from ditzoo.assemble import build_meta

    copy = build_meta(model.spec)
    copy.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()}, assign=True)
    return copy.eval()


def _write_file(tensors: Mapping[str, Tensor], target: Path) -> None:
    if target.suffix == ".safetensors":
        save_weights(tensors, target)
        return
    try:
        with replacing(target) as aside:
            torch.save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, aside)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot write {target}: {error}") from error


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _components(zoo: Zoo, folder: str) -> list[Component]:
    """Return the writers of a folder of pipelines, each once."""
    return list({id(one): one for one in zoo.components.values() if one.writes(folder)}.values())
