"""Checks of runtimes: whatever they prepare computes what the plain backbone does, and the backbone that was given stays as it is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ditzoo.assemble import Model
from ditzoo.matrix import examples, matched
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import RuntimeSpec
from ditzoo.testing.findings import Checks, NotApplicableError, hold
from ditzoo.testing.of_networks import inputs, rows_are_apart, runs_in_parts, woken
from ditzoo.zoo import Zoo

EXACT, LOSSY = 1e-5, 0.2  # of the largest value


def runtime_checks(spec: RuntimeSpec, zoo: Zoo) -> Checks:
    """Return the checks of a runtime, on the first installed backbone, and of its output on one of each kind."""
    kinds: dict[str, ModelSpec] = {}
    for data in examples(zoo, "backbone").values():
        if data["kind"] not in kinds and (whole := matched(zoo, backbone=data)) is not None:
            kinds[data["kind"]] = whole
    hold(kinds, "no backbone is installed")
    first = next(iter(kinds.values()))
    on_first = {
        "runs in parts, bit for bit": runs_in_parts,
        "rows are apart": rows_are_apart,
        "leaves the backbone as it is": _leaves,
        "runs on its parameters": _shares,
        "calls the hooks of blocks": _hooks,
        "prepared anew it has the new weights": _anew,
    }
    return {
        **{f"computes what {kind} does": partial(_same, spec, whole) for kind, whole in kinds.items()},
        **{name: partial(_on, spec, first, check) for name, check in on_first.items()},
        "says what it changes": partial(_tells, spec, first),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _on(spec: RuntimeSpec, whole: ModelSpec, check: Callable[[Model], None]) -> None:
    check(_prepared(spec, whole))


def _prepared(spec: RuntimeSpec, whole: ModelSpec) -> Model:
    model = woken(whole).requires_grad_(False)
    model.runtime = spec.build()
    return model


@torch.no_grad()
def _said(model: Model, backbone: nn.Module) -> Tensor:
    x, t, items = inputs(model.spec)
    found: Tensor = backbone(x, t, model.prompt.encode(items))
    return found


@torch.no_grad()
def _off(model: Model, backbone: nn.Module) -> float:
    """Return by how much of the scale a prepared backbone is off the plain one."""
    found, plain = _said(model, backbone), _said(model, model.backbone)
    hold(found.shape == plain.shape and found.dtype == plain.dtype, f"{_kind(found)} comes out in place of {_kind(plain)}")
    hold(torch.isfinite(found).all(), "what comes out is not finite")
    return float((found - plain).abs().max() / plain.abs().max())


def _kind(x: Tensor) -> str:
    return f"{tuple(x.shape)} of {x.dtype}"


@torch.no_grad()
def _same(spec: RuntimeSpec, whole: ModelSpec) -> None:
    model = _prepared(spec, whole)
    off, allowed = _off(model, model.runner), LOSSY if spec.lossy else EXACT
    more = "" if spec.lossy else "; a runtime that changes what comes out says so by its spec's `lossy`"
    hold(off <= allowed, f"what comes out is off by {off:.2g} of the scale, and {allowed:g} is allowed{more}")


@torch.no_grad()
def _tells(spec: RuntimeSpec, whole: ModelSpec) -> None:
    model = _prepared(spec, whole)
    given, made = type(model.backbone), type(model.runner)
    hold(issubclass(made, given), f"of a {given.__name__} a {made.__name__} is prepared, which does not derive from it")
    hold(model.runtime is not None and model.runtime.told.strip(), "`told` is empty")
    hold(spec.lossy is None or spec.lossy.strip(), "`lossy` is empty: say what it changes, or None where nothing is")


@torch.no_grad()
def _leaves(model: Model) -> None:
    backbone = model.backbone
    before, plain = copy.deepcopy(backbone.state_dict()), _said(model, backbone)
    modules = [(name, type(one)) for name, one in backbone.named_modules()]
    _said(model, model.runner)
    hold([(name, type(one)) for name, one in backbone.named_modules()] == modules, "modules of the backbone that was given are others")
    after = backbone.state_dict()
    changed = [name for name in {*before, *after} if name not in before or name not in after or not torch.equal(before[name], after[name])]
    hold(not changed, f"values of the backbone that was given change: {', '.join(sorted(changed)[:5])}")
    hold(torch.equal(_said(model, backbone), plain), "the backbone that was given computes something else now")


@torch.no_grad()
def _shares(model: Model) -> None:
    own = {name: p.data_ptr() for name, p in model.backbone.named_parameters()}
    found = {name: p.data_ptr() for name, p in model.runner.named_parameters()}
    wrong = sorted(name for name in {*own, *found} if own.get(name) != found.get(name))
    hold(not wrong, f"parameters are copies, absent or of other names: {', '.join(wrong[:5])}")


@torch.no_grad()
def _hooks(model: Model) -> None:
    _said(model, model.runner)  # prepared before there are hooks
    rows = [0] * model.backbone.depth
    handles = []
    for index, block in enumerate(model.backbone.blocks):

        def count(module: nn.Module, given: tuple[object, ...], out: object, index: int = index) -> None:
            rows[index] += len(given[0].tokens)  # type: ignore[attr-defined]

        handles.append(block.register_forward_hook(count))
    _said(model, model.runner)
    for handle in handles:
        handle.remove()
    asked = len(inputs(model.spec)[0])
    hold(rows == [asked] * len(rows), f"hooks of the blocks of the backbone that was given see {rows} rows, and {asked} went through each")


@torch.no_grad()
def _anew(model: Model) -> None:
    runtime, before = model.runtime, _said(model, model.runner)
    assert runtime is not None
    for p in model.backbone.blocks.parameters():
        p.mul_(1.5)
    if torch.allclose(_said(model, model.backbone), before, rtol=1e-3):
        raise NotApplicableError("the blocks' weights change nothing")
    off = _off(model, runtime.prepare(model.backbone))
    hold(off <= LOSSY, f"after its weights changed what is prepared of it is off by {off:.2g} of the scale")
