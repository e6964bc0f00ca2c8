"""Specs of the depth policies, and the table of depths that one of them follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ditzoo.specs import PolicySpec, Positive, Spec
from ditzoo_dynamic.points import solver_of

if TYPE_CHECKING:
    from ditzoo.interfaces import DepthPolicy
    from ditzoo.model_spec import ModelSpec


def unreadable(model: ModelSpec, depth: int) -> str | None:
    """Say why a model cannot be read out after `depth` blocks, or return None if it can."""
    if depth in model.readable:
        return None
    named = ", ".join(str(exit) for exit in model.readable)
    if len(model.readable) > 1:
        return f"'{model.name}' is read out after {named} blocks alone"
    return f"'{model.name}' has no exits, and is read out after all {named} blocks alone; policy exit-residual needs none"


class UniformSpec(PolicySpec):
    """The same depth for every look; None is all of it."""

    kind: Literal["uniform"] = "uniform"
    depth: Positive | None = None

    def check(self, model: ModelSpec) -> str | None:
        problem = None if self.depth is None else unreadable(model, self.depth)
        return problem and f"sampler.policy.depth={self.depth}: {problem}"

    def build(self) -> DepthPolicy:
        from ditzoo_dynamic.planned import Planned

        return Planned(cond=(self.depth,), null=(self.depth,))


class DepthTable(Spec):
    """Depths by noise level, and what they were calibrated on: they serve that model, solver, schedule and guidance alone.

    Bin i is t in [edges[i], edges[i + 1]); 1 is noise. `cond` and `null` are the depths there of the two branches of guidance.
    """

    model: str
    fingerprint: str = Field(description="of the backbone's weights")
    solver: dict[str, Any]
    schedule: dict[str, Any]
    guidance: dict[str, Any]
    steps: tuple[Positive, Positive] = Field(description="numbers of steps that it serves, from and to")
    edges: tuple[float, ...]
    cond: tuple[Positive, ...]
    null: tuple[Positive, ...]
    budget: float = Field(gt=0, le=1, description="share of all block evaluations that it was allowed")
    figures: dict[str, float] = Field(default_factory=dict, description="of the calibration: errors predicted and measured")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        bins = len(self.edges) - 1
        if bins < 1 or list(self.edges) != sorted(set(self.edges)) or (self.edges[0], self.edges[-1]) != (0.0, 1.0):
            raise ValueError(f"edges rise from 0 to 1, found {list(self.edges)}")
        if not len(self.cond) == len(self.null) == bins:
            raise ValueError(f"{bins} bins, and {len(self.cond)} depths of cond and {len(self.null)} of null; one a bin is due")
        return self

    def strange(self, model: ModelSpec) -> str | None:
        """Say in what a composition is not the one that this table was calibrated on, or return None if it is that."""
        for field, own, found in (
            ("sampler.inner", self.solver, solver_of(model).model_dump(mode="json")),
            ("schedule", self.schedule, model.schedule.model_dump(mode="json")),
            ("guidance", self.guidance, model.guidance.model_dump(mode="json")),
        ):
            for name in sorted(own.keys() | found.keys(), key=lambda name: (name != "kind", name)):
                if own.get(name) != found.get(name):
                    return f"it was calibrated with {field}.{name}={own.get(name)}, and that is {found.get(name)} here"
        low, high = self.steps
        if not low <= model.sampling.steps <= high:
            return f"it serves {low} to {high} steps, and sampling.steps is {model.sampling.steps}"
        return None


def _read_table(value: Any) -> Any:
    """Read the table from the file that `ditzoo calibrate` wrote, where its path is given; the spec then holds the table itself."""
    if not isinstance(value, str | Path):
        return value
    try:
        return json.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PydanticCustomError(
            "ditzoo",
            "cannot read the table '{path}': {error}; 'ditzoo calibrate MODEL' writes one",
            {"path": str(value), "error": str(error)},
        ) from error


class TableSpec(PolicySpec):
    """Depths by noise level, from the table that `ditzoo calibrate` makes; `depth-table:FILE` reads it."""

    kind: Literal["depth-table"] = "depth-table"
    shorthand: ClassVar[str | None] = "table"
    expected_failures: ClassVar[Mapping[str, str]] = {"has an example": "a table belongs to trained weights"}
    table: Annotated[DepthTable, BeforeValidator(_read_table)]

    def check(self, model: ModelSpec) -> str | None:
        if strange := self.table.strange(model):
            return f"sampler.policy.table is of another composition: {strange}; calibrate anew with 'ditzoo calibrate'"
        for depth in sorted({*self.table.cond, *self.table.null}):
            if problem := unreadable(model, depth):
                return f"sampler.policy.table has depth {depth}: {problem}"
        return None

    def build(self) -> DepthPolicy:
        from ditzoo_dynamic.planned import Planned

        return Planned(self.table.cond, self.table.null, self.table.edges, self.table.fingerprint)


class ConfidenceSpec(PolicySpec):
    """A depth for each picture in each look: it leaves at the first exit that says nearly what the exit before it said.

    Nearly is |v_k - v_j| <= threshold |v_k|, with a threshold for each of equal parts of t, data first, or one for all. With `quota` that
    share of the pictures, those least sure, goes on at each exit instead: looks then cost the same, and a picture depends on its batch.
    """

    kind: Literal["confidence"] = "confidence"
    threshold: Annotated[tuple[float, ...], BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value)] = (0.1,)
    quota: float | None = Field(None, ge=0, le=1)
    exits: tuple[Positive, ...] | None = Field(None, description="those asked, rising; None: all that the model has")

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"threshold": 0.5}}

    def check(self, model: ModelSpec) -> str | None:
        asked = self.asked(model)
        if len(asked) < 2:
            return (
                f"sampler.policy 'confidence' compares two exits before the last block, and '{model.name}' "
                f"has {len(asked)}; train it with more exits"
            )
        for depth in asked:
            if problem := unreadable(model, depth):
                return f"sampler.policy.exits names {depth}: {problem}"
        return None

    def asked(self, model: ModelSpec) -> tuple[int, ...]:
        """Return the exits that are asked, those before the last block."""
        return tuple(sorted(self.exits if self.exits is not None else model.readable[:-1]))

    def build(self) -> DepthPolicy:
        from ditzoo_dynamic.confidence import Confidence

        return Confidence(self.threshold, self.quota, self.exits)


class ResidualSpec(PolicySpec):
    """Looks that run `prefix` blocks, or none, and guess what the others would add, from the last looks that ran them: no exits are needed.

    The first `warmup` looks are whole, and all at t above `whole_above`, where the residual changes fastest and what is wrong has the
    longest way to grow; after these every `every`-th. Between, the deep residual is extrapolated in t along the line through the last two,
    but no farther than `reach` times the distance between them: all of the way is too far, and to hold the last one not far enough. Of the
    family of Delta-DiT (Chen et al. 2024) and TaylorSeer (Liu et al. 2025), which hold it and go all of the way.

    With `null_every` above 1 guidance is cheaper in the looks that are whole: the first branch alone runs all blocks, and what they would
    add to the others is guessed from what they add to it now and the difference last seen, at every `null_every`-th whole look and above
    `whole_above`. It is FasterCache's idea (Lyu et al. 2024), who keep that difference of outputs, in bands of frequency.
    """

    kind: Literal["exit-residual"] = "exit-residual"
    prefix: int = Field(ge=0, description="blocks that every look runs; 0: a guessed look embeds its tokens and reads them")
    every: Positive = Field(3, description="1: no look is guessed, `null_every` alone saves")
    reach: float = Field(0.5, ge=0, description="0 holds the last residual")
    warmup: Positive = 2
    whole_above: float = Field(0.8, ge=0, le=1, description="of t; 1 leaves it to `warmup`")
    null_every: Positive = Field(1, description="of the whole looks, those in which all branches run all blocks; 1: every one")

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {"prefix": 1}, "guidance": {"prefix": 0, "null_every": 3}}

    def check(self, model: ModelSpec) -> str | None:
        if "windows" in model.sampler.provides_now:
            return (
                "sampler.policy 'exit-residual' remembers the last look at the same frames, and this sampler moves on; use another policy"
            )
        if self.every == self.null_every == 1:
            return "sampler.policy has every=1 and null_every=1, so every look is whole and nothing is saved; set one of them to 2 or more"
        if self.null_every > 1 and (exit := getattr(model.sampler, "null_exit", None)) is not None:
            return f"sampler.policy.null_every={self.null_every} guesses a branch that sampler.null_exit={exit} cuts short; set one of them"
        if self.prefix < model.backbone.depth:
            return None
        return f"sampler.policy.prefix={self.prefix} leaves none of backbone.depth={model.backbone.depth} to guess; set it below that"

    def build(self) -> DepthPolicy:
        from ditzoo_dynamic.residual import Residuals

        return Residuals(self.prefix, self.every, self.reach, self.warmup, self.whole_above, self.null_every)
