"""Specs of the paths of flow matching: straight, and SiT's curved one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from ditzoo.specs import Positive, ScheduleSpec, SpacingSlot, SpacingSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Schedule, Spacing


class EvenSpec(SpacingSpec):
    """Evenly from 1 to `least`, and then clean data: diffusers' flow schedulers end so, with the smallest trained time.

    A shift of the schedule comes after it.
    """

    kind: Literal["even"] = "even"
    least: float = Field(1e-3, gt=0, lt=1)

    def build(self) -> Spacing:
        from ditzoo_flow.schedule import Even

        return Even(self.least)


class PathSpec(ScheduleSpec):
    """Common fields. `shift` moves the walked times toward noise: t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23).

    With `shift_cells` it is meant for latents of so many cells, and at m cells it is shift * sqrt(m / shift_cells). `time_scale` is
    what t is multiplied by before the network sees it; with `time_reversed` it sees 1 - t in place of t.
    """

    family: ClassVar[str] = "flow"
    free_fields: ClassVar[frozenset[str]] = frozenset({"shift", "shift_cells", "spacing"})

    prediction: Literal["velocity", "velocity-to-data", "eps", "x0", "v", "score"] = "velocity"
    shift: float = Field(1.0, gt=0)
    shift_cells: Positive | None = None
    spacing: SpacingSlot | None = Field(None, description="which times are walked; None: evenly")
    time_scale: float = Field(1000.0, gt=0)
    time_reversed: bool = False

    @property
    def provides_now(self) -> frozenset[str]:
        return self.provides | ({"falling-time"} if self.time_reversed else set())

    def at(self, size: Sequence[int]) -> Self:
        if self.shift_cells is None:
            return self
        return self.model_copy(update={"shift": self.shift * math.sqrt(math.prod(size) / self.shift_cells), "shift_cells": None})


class FlowSpec(PathSpec):
    """Rectified flow (Liu et al. 2022), x_t = (1 - t) x_0 + t eps; the network predicts the velocity eps - x_0, or x_0 - eps as
    `velocity-to-data`. SiT's linear interpolant (Ma et al. 2024) is velocity-to-data, reversed, at scale 1.
    """

    kind: Literal["flow"] = "flow"
    provides: ClassVar[frozenset[str]] = frozenset({"straight-path"})

    def build(self) -> Schedule:
        from ditzoo_flow.schedule import Flow

        return Flow(self)


class GVPSpec(PathSpec):
    """SiT's generalised variance-preserving interpolant, x_t = cos(pi t / 2) x_0 + sin(pi t / 2) eps; the velocity is its derivative."""

    kind: Literal["gvp"] = "gvp"
    provides: ClassVar[frozenset[str]] = frozenset({"variance-preserving"})

    def build(self) -> Schedule:
        from ditzoo_flow.schedule import GVP

        return GVP(self)
