"""Specs of positions on a grid: tables of sines and cosines, and rotary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ditzoo.specs import PositionsSpec

if TYPE_CHECKING:
    from ditzoo.interfaces import Positions

Beyond = Literal["extend", "interpolate"]


class SineCosineSpec(PositionsSpec):
    """A table over rows and columns, as DiT's, and one over frames, each as wide as the tokens; their sum is separable.

    The frames' table is zero at the first frame unless `anchored` is false, so that one frame is what an image is. It joins the tokens
    before block `joins` (Latte's before its first block along time, 1). Beyond the trained grid `extend` continues both tables, and
    `interpolate` squeezes the positions of an axis into its trained range.
    """

    kind: Literal["sincos"] = "sincos"
    beyond: Beyond = "extend"
    anchored: bool = True
    joins: int = Field(0, ge=0)

    def build(self, width: int, heads: int, trained: Sequence[int]) -> Positions:
        from ditzoo_video.positions import SineCosine

        return SineCosine(self, width, trained)


class RotarySpec(PositionsSpec):
    """Rotary positions (Su et al. 2021) on each axis: a head's channel pairs are shared out among time, rows and columns.

    Time has a quarter of the pairs and the rest goes to rows and columns. Beyond the trained grid as for `sincos`.
    """

    kind: Literal["rotary"] = "rotary"
    beyond: Beyond = "extend"
    theta: float = Field(10_000.0, gt=1)

    def check(self, width: int, heads: int, rank: int) -> str | None:
        channels = width // heads
        if channels % 2:
            return f"rotary positions turn pairs of channels, and a head has {channels}; choose backbone.width={heads * (channels + 1)}"
        if channels < 2 * rank:
            return (
                f"rotary positions on {rank} axes need {2 * rank} channels a head, and a head has {channels}; choose fewer backbone.heads"
            )
        return None

    def build(self, width: int, heads: int, trained: Sequence[int]) -> Positions:
        from ditzoo_video.positions import Rotary

        return Rotary(self, width // heads, trained)
