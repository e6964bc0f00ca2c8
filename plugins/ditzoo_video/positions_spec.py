"""Specs of positions on a grid: tables of sines and cosines, and rotary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ditzoo.specs import PositionsSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Positions


class SineCosineSpec(PositionsSpec):
    """A table over rows and columns, as DiT's, and one over frames, each as wide as the tokens; their sum is separable.

    The frames' table is zero at the first frame unless `anchored` is false, and a frame alone has none, so that it is what an image is.
    It joins the tokens before block `joins` (Latte's before its first block along time, 1). Beyond the trained grid `extend` continues
    both tables, and `interpolate` squeezes the positions of an axis into its trained range; `stretch` does so too, and rows and columns
    span that range whatever their number, as in diffusers. Positions of rows and columns are divided by `interpolation_scale`, as where
    training went on from a smaller size. Clips of fewer frames than the trained grid are remarked on, unless they are as long as the
    `shortest` of training.
    """

    kind: Literal["sincos"] = "sincos"
    beyond: Literal["extend", "interpolate", "stretch"] = "extend"
    interpolation_scale: float = Field(1.0, gt=0)
    anchored: bool = True
    joins: int = Field(0, ge=0)
    shortest: Positive | None = None

    def remark(self, grid: Sequence[int], trained: Sequence[int]) -> str | None:
        frames, known = grid[0], trained[0]
        if frames in (1, known) or (self.shortest or known) <= frames < known:
            return None
        if frames < known:
            return f"{frames} frames, and the table of frames was trained with {known}: they have its first {frames}"
        how = "it is continued" if self.beyond == "extend" else "it is interpolated"
        return f"{frames} frames, and the table of frames was trained with {known}: {how} (backbone.positions.beyond={self.beyond})"

    def build(self, width: int, heads: int, trained: Sequence[int]) -> Positions:
        from ditzoo_video.positions import SineCosine

        return SineCosine(self, width, trained)


class RotarySpec(PositionsSpec):
    """Rotary positions (Su et al. 2021) on each axis: a head's channel pairs are shared out among time, rows and columns.

    Time has a quarter of the pairs and the rest goes to rows and columns. Beyond the trained grid as for `sincos`.
    """

    kind: Literal["rotary"] = "rotary"
    beyond: Literal["extend", "interpolate"] = "extend"
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
