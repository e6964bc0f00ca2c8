"""Checks of exits and of depth policies."""

from __future__ import annotations

import pickle
from functools import partial

import torch
from torch import Tensor

from ditzoo.assemble import Model
from ditzoo.interfaces import Cond
from ditzoo.matrix import examples, matched
from ditzoo.model_spec import ModelSpec
from ditzoo.noise import Noise
from ditzoo.passes import Branch, Ledger, Passes
from ditzoo.specs import ExitsSpec, PolicySpec
from ditzoo.testing.findings import Checks, hold
from ditzoo.testing.of_networks import gradients_reach, saved_is_loaded, woken
from ditzoo.zoo import Zoo

DEPTH, LOOKS = 6, 5
READ_AT = (2, 4)  # of the exits that a policy is tried on


def exits_checks(spec: ExitsSpec, zoo: Zoo) -> Checks:
    """Return the checks of exits, on the first installed backbone that they go with."""
    model = woken(_whole_model(spec, zoo))
    return {
        "read at each of their depths": partial(_read, model),
        "leave the whole depth alone": partial(_whole, model),
        "gradients reach every parameter": partial(gradients_reach, model, depths=model.spec.readable),
        "saves and loads": partial(saved_is_loaded, model, depth=spec.at[0]),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _whole_model(spec: ExitsSpec, zoo: Zoo) -> ModelSpec:
    for data in examples(zoo, "backbone").values():
        whole = matched(zoo, backbone=data | {"depth": max(*spec.at, 1) + 1}, exits=spec.model_dump())
        if whole is not None:
            return whole
    raise AssertionError("no installed backbone goes with them")


@torch.no_grad()
def _read(model: Model) -> None:
    x, t, cond = _inputs(model)
    for depth in model.spec.readable[:-1]:
        found = model.backbone(x, t, cond, depth)
        hold(found.shape == model.backbone(x, t, cond).shape, f"another shape is read after {depth} blocks")
        for row in range(len(x)):
            own = slice(row, row + 1)
            off = float((found[own] - model.backbone(x[own], t[own], cond.rows(own), depth)).abs().max() / found.abs().max())
            hold(off < 1e-4, f"after {depth} blocks a row changes by {off:.2g} of the scale with its batch")


@torch.no_grad()
def _whole(model: Model) -> None:
    x, t, cond = _inputs(model)
    whole, given = model.backbone(x, t, cond), model.backbone.given_exits
    model.backbone.given_exits = None
    hold(torch.equal(model.backbone(x, t, cond), whole), "with them all blocks together say something else")
    model.backbone.given_exits = given


def _inputs(model: Model) -> tuple[Tensor, Tensor, Cond]:
    spec = model.spec
    x = Noise.seeded(2, range(2)).draw(torch.empty(2, spec.backbone.in_channels, *spec.backbone.input_size))
    return x, torch.tensor([30.0, 600.0]), model.prompt.encode(spec.prompt.default(2))


def policy_checks(spec: PolicySpec, zoo: Zoo) -> Checks:
    """Return the checks of a depth policy, on a backbone with exits."""
    whole = None
    for data in examples(zoo, "exits").values():
        whole = whole or matched(zoo, settings=[f"backbone.depth={DEPTH}"], exits=data | {"at": list(READ_AT)})
    hold(whole, "no installed exits and backbone go together")
    assert whole is not None
    hold(spec.check(whole) is None, f"on a model with {DEPTH} blocks and exits at {READ_AT}: {spec.check(whole)}")
    model = woken(whole)
    return {
        "an output a branch, within all blocks": partial(_spent, spec, model),
        "a picture apart from its batch": partial(_apart, spec, model),
        "no state between runs": partial(_stateless, spec, model),
        "keeps a depth that a branch has": partial(_kept, spec, model),
        "pickles": lambda: hold(pickle.loads(pickle.dumps(spec)) == spec, "the spec is another one after pickling"),
    }


def _looks(spec: PolicySpec, model: Model, rows: slice, null_depth: int | None = None) -> tuple[list[list[Tensor]], Ledger]:
    """Return what a run of some looks, at falling times, says of two branches."""
    passes = Passes(model.backbone, model.spec.schedule.build(), Ledger())
    evaluate, items = spec.build().follow(passes), model.spec.prompt.default(3)
    cond, null = model.prompt.encode(items).rows(rows), model.prompt.null(3).rows(rows)
    branches = [Branch(cond, 2.0), Branch(null, -1.0, null_depth, name="null")]
    x = Noise.seeded(2, range(3)).draw(torch.empty(3, model.spec.backbone.in_channels, *model.spec.backbone.input_size))[rows]
    with torch.no_grad():
        return [evaluate(branches, x * t, t) for t in torch.linspace(0.9, 0.1, LOOKS, dtype=torch.float64)], passes.ledger


def _spent(spec: PolicySpec, model: Model) -> None:
    found, ledger = _looks(spec, model, slice(0, 3))
    hold(all(len(outs) == 2 and all(torch.isfinite(out).all() for out in outs) for outs in found), "not a finite output for each branch")
    most = LOOKS * 2 * 3 * DEPTH
    hold(0 < ledger.block_evals <= most, f"{ledger.block_evals} block evaluations are counted, and all blocks are {most}")


def _apart(spec: PolicySpec, model: Model) -> None:
    together, _ = _looks(spec, model, slice(0, 3))
    for row in range(3):
        alone, _ = _looks(spec, model, slice(row, row + 1))
        for whole, own in zip(together, alone, strict=True):
            off = max(float((a[row : row + 1] - b).abs().max() / a.abs().max()) for a, b in zip(whole, own, strict=True))
            hold(off < 1e-4, f"a picture is off by {off:.2g} of the scale when it is looked at alone")


def _stateless(spec: PolicySpec, model: Model) -> None:
    first, second = _looks(spec, model, slice(0, 3))[0], _looks(spec, model, slice(0, 3))[0]
    same = all(torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True))
    hold(same, "a run changes the next one: what a run remembers belongs to what follow returns")


def _kept(spec: PolicySpec, model: Model) -> None:
    schedule, x = model.spec.schedule.build(), _inputs(model)[0]
    t, null = torch.tensor(0.9, dtype=torch.float64), model.prompt.null(2)
    passes = Passes(model.backbone, schedule, Ledger())
    cond = model.prompt.encode(model.spec.prompt.default(2))
    with torch.no_grad():
        _, found = spec.build().follow(passes)([Branch(cond, 2.0), Branch(null, -1.0, READ_AT[0], name="null")], x, t)
        due = model.backbone(x, schedule.model_time(t).float().expand(2), null, READ_AT[0])
    hold(torch.allclose(found, due, atol=1e-5), f"a branch that leaves after {READ_AT[0]} blocks is made to leave elsewhere")
