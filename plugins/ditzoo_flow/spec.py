"""The spec of the straight-path schedule: x_t = (1 - t) x_0 + t eps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ditzoo.specs import ScheduleSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Schedule


class FlowSpec(ScheduleSpec):
    """Rectified flow (Liu et al. 2022); the network predicts the velocity eps - x_0, or x_0 - eps as `velocity-to-data`.

    `shift` moves the walked times toward noise: t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23).
    `time_scale` is what t is multiplied by before the network sees it; with `time_reversed` it sees 1 - t in place of t.
    SiT (Ma et al. 2024) is velocity-to-data, reversed, at scale 1.
    """

    kind: Literal["flow"] = "flow"
    family: ClassVar[str] = "flow"
    free_fields: ClassVar[frozenset[str]] = frozenset({"shift"})
    prediction: Literal["velocity", "velocity-to-data"] = "velocity"
    shift: float = Field(1.0, gt=0)
    time_scale: float = Field(1000.0, gt=0)
    time_reversed: bool = False

    def build(self) -> Schedule:
        from ditzoo_flow.schedule import Flow

        return Flow(self)
