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
from ditzoo.specs import Positive, Spec
from ditzoo.zoo import Zoo

SOLVERS = ("ab2", "dpm-solver++", "unipc")  # beside the model's own, where steps are few
STEPS = (3, 4, 5, 6, 8, 10, 14, 20)


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


def own_solver(spec: ModelSpec) -> dict[str, Any]:
    """Return the model's solver as data, without what is as always."""
    return {"kind": spec.sampler.kind} | spec.sampler.model_dump(mode="json", exclude_defaults=True)


def solvers(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return the solvers that a frontier is drawn with: the model's own, and those that need few steps; clipping as it does."""
    own, clip = own_solver(spec), getattr(spec.sampler, "clip", None)
    others = ({"kind": kind} | ({"clip": clip} if clip is not None else {}) for kind in SOLVERS)
    return {str(own["kind"]): own} | {str(one["kind"]): one for one in others if one["kind"] != own["kind"]}


def full(spec: ModelSpec, steps: Iterable[int]) -> Iterator[Point]:
    """Yield every solver at full depth in every number of steps that it can have."""
    for name, solver in solvers(spec).items():
        for count in steps:
            if count >= solver.get("order", 2):
                yield Point(name=f"{name} {count}", family="full", settings=(f"sampler={inline(solver)}", f"sampling.steps={count}"))


def dynamic(spec: ModelSpec, solver: str, steps: Iterable[int], tables: Mapping[str, Mapping[str, Any]]) -> Iterator[Point]:
    """Yield the ways to leave early with one solver: guidance's depth, residuals, confidence, calibrated tables by their names."""
    inner, depth, exits = solvers(spec)[solver], spec.backbone.depth, spec.readable[:-1]
    ways: dict[str, dict[str, Any]] = {}
    prefix = max(1, depth // 4)
    residuals = {"kind": "exit-residual", "prefix": prefix, "every": 3, "order": 1}
    ways["residuals"] = {"policy": residuals}
    if exits:
        ways[f"null {exits[0]}"] = {"null_exit": exits[0]}
        ways[f"null {exits[0]} + residuals"] = {"null_exit": exits[0], "policy": residuals}
        ways |= {
            f"null {exits[0]} + all {exit}": {"null_exit": exits[0], "policy": {"kind": "uniform", "depth": exit}} for exit in exits[1:]
        }
        ways |= {f"all {exit}": {"policy": {"kind": "uniform", "depth": exit}} for exit in exits[1:]}
        ways |= {name: {"policy": {"kind": "depth-table", "table": table}} for name, table in tables.items()}
    if len(exits) > 1:
        ways[f"null {exits[0]} + confidence"] = {"null_exit": exits[0], "policy": {"kind": "confidence", "threshold": [0.1]}}
    for name, fields in ways.items():
        sampler = {"kind": "early-exit", "inner": inner, **fields}
        for count in steps:
            yield Point(
                name=f"{solver} {count}, {name}", family="dynamic", settings=(f"sampler={inline(sampler)}", f"sampling.steps={count}")
            )


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
