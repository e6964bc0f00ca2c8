"""The points of a frontier: settings over one model, each measured for time and quality. Imports no torch.

A plan is a TOML file, so that it can be read, changed and run again; `standard` writes one for a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ditzoo.catalogue import read_toml
from ditzoo.errors import EvaluationError
from ditzoo.model_spec import ModelSpec
from ditzoo.specs import Positive, SamplerSpec, Spec
from ditzoo.zoo import Zoo

SOLVERS = ("ab2", "dpm-solver++", "unipc")  # beside the model's own, where steps are few
STEPS = (3, 4, 5, 6, 8, 10, 14, 20)
GUIDED_TO = 0.8  # where guidance is left out of the noisiest looks, as Kynkäänniemi et al. 2024 do


class Point(Spec):
    """One way to sample. `full` goes through all blocks in every look; `dynamic` does not.

    `model` is another model than the one that is measured: a smaller one, or one with routers.
    """

    name: str
    family: Literal["full", "dynamic"]
    settings: tuple[str, ...] = ()
    model: str | None = None


class Plan(Spec):
    """What is measured. Every point draws the same pictures: `count` for each of `seeds`, pooled into one set."""

    protocol: str
    count: Positive = 2000
    seeds: tuple[int, ...] = (0,)
    reference: str = Field(description="the point that losses and times are told against")
    points: tuple[Point, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _told_apart(self) -> Plan:
        names = [point.name for point in self.points]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"points share a name: {', '.join(sorted(twice))}")
        if self.reference not in names:
            raise ValueError(f"reference '{self.reference}' is none of the points: {', '.join(names)}")
        return self


def read_plan(path: Path, zoo: Zoo) -> Plan:
    """Read a plan from a TOML file."""
    return zoo.validate(Plan, read_toml(path), source=str(path))


def inline(value: Any) -> str:
    """Write plain data as an inline TOML value, for a setting."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {inline(one)}" for key, one in value.items() if one is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else repr(value)


def solver_of(spec: ModelSpec) -> SamplerSpec:
    """Return the model's solver: its sampler, or what that lies around, as early exit and windows do."""
    part = spec.sampler
    while isinstance(inner := getattr(part, "inner", None), SamplerSpec):
        part = inner
    return part


def own_solver(spec: ModelSpec) -> dict[str, Any]:
    """Return the model's solver as data, without what is as always."""
    solver = solver_of(spec)
    return {"kind": solver.kind} | solver.model_dump(mode="json", exclude_defaults=True)


def solvers(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return the solvers that a frontier is drawn with: the model's own, and those that need few steps; clipping as it does."""
    own, clip = own_solver(spec), getattr(solver_of(spec), "clip", None)
    others = ({"kind": kind} | ({"clip": clip} if clip is not None else {}) for kind in SOLVERS)
    return {str(own["kind"]): own} | {str(one["kind"]): one for one in others if one["kind"] != own["kind"]}


def full(spec: ModelSpec, steps: Iterable[int], *, of: Iterable[str] = (), guided_to: float | None = None) -> Iterator[Point]:
    """Yield every solver, or those named in `of`, at full depth in every number of steps that it can have.

    With `guided_to` guidance is left out where t is above it.
    """
    tag, more = _less_guided(guided_to) if guided_to is not None else ("", ())
    for name, solver in solvers(spec).items():
        for count in steps:
            if count >= solver.get("order", 2) and (not of or name in of):
                settings = (f"sampler={inline(solver)}", f"sampling.steps={count}", *more)
                yield Point(name=f"{name} {count}{tag}", family="full", settings=settings)


def dynamic(spec: ModelSpec, solver: str, steps: Iterable[int], tables: Mapping[str, Mapping[str, Any]]) -> Iterator[Point]:
    """Yield the ways to leave early with one solver: residuals, guidance by an exit, confidence, calibrated tables by their names."""
    inner, exits, guided = solvers(spec)[solver], spec.readable[:-1], is_guided(spec)
    ways: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}
    residuals = {"kind": "exit-residual", "prefix": max(1, spec.backbone.depth // 8)}
    for every in (2, 3, 4):
        ways[f"residuals every {every}"] = {"policy": residuals | {"every": every}}, ()
    if guided:
        tag, more = _less_guided(GUIDED_TO)
        ways[f"residuals every 2{tag}"] = {"policy": residuals | {"every": 2}}, more
        cheap = residuals | {"prefix": 0, "every": 2, "null_every": 5, "whole_above": 1.0}  # for few steps
        ways[f"residuals every 2, null every 5{tag}"] = {"policy": cheap}, more
    if exits:
        middle = exits[len(exits) // 2]
        ways |= {f"all {exit}": ({"policy": {"kind": "uniform", "depth": exit}}, ()) for exit in exits[1:]}
        ways |= {name: ({"policy": {"kind": "depth-table", "table": table}}, ()) for name, table in tables.items()}
        for exit in dict.fromkeys((exits[0], middle)) if guided else ():
            ways[f"null {exit}"] = {"null_exit": exit}, ()
            ways[f"internal {exit}"] = {"internal": {"exit": exit, "scale": spec.guidance.scale}}, ("guidance.scale=1.0",)
    if len(exits) > 1:
        ways["confidence"] = {"policy": {"kind": "confidence", "threshold": [0.1]}}, ()
    for name, (fields, more) in ways.items():
        sampler = {"kind": "early-exit", "inner": inner, **fields}
        for count in steps:
            settings = (f"sampler={inline(sampler)}", f"sampling.steps={count}", *more)
            yield Point(name=f"{solver} {count}, {name}", family="dynamic", settings=settings)


def is_guided(spec: ModelSpec) -> bool:
    """Say whether guidance acts at all times, so that its interval may be tried."""
    return spec.guidance.scale != 1 and spec.guidance.interval == (0.0, 1.0)


def _less_guided(to: float) -> tuple[str, tuple[str, ...]]:
    return f", guided to {to:g}", (f"guidance.interval=[0.0, {to}]",)


def as_toml(plan: Plan) -> str:
    """Write a plan as the TOML file that `read_plan` reads."""
    lines = [f'protocol = "{plan.protocol}"', f"count = {plan.count}", f"seeds = {list(plan.seeds)}", f'reference = "{plan.reference}"']
    for point in plan.points:
        lines += ["", "[[points]]", f'name = "{point.name}"', f'family = "{point.family}"', f"settings = {_strings(point.settings)}"]
        lines += [f'model = "{point.model}"'] if point.model is not None else []
    return "\n".join(lines) + "\n"


def _strings(values: Sequence[str]) -> str:
    return "[" + ", ".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values) + "]"


def check(plan: Plan, specs: Mapping[str, ModelSpec]) -> None:
    """Raise `EvaluationError` unless all points that name no other model are of one network; only how it is sampled may differ."""
    first = specs[plan.reference]
    for point in plan.points:
        for field in ("backbone", "conditioning", "prompt", "codec", "exits", "weights"):
            if point.model is None and getattr(specs[point.name], field) != getattr(first, field):
                raise EvaluationError(
                    f"point '{point.name}' has another {field} than '{plan.reference}'; name the model that it is of: model = ..."
                )
