"""The spec of `moving-fashion`: real articles of clothing in synthetic motion, made when they are asked for."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from ditzoo.specs import DatasetSlot, DatasetSpec, Positive

if TYPE_CHECKING:
    from ditzoo.interfaces import Dataset

MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "bouncing")
SPEEDS = ("slow", "fast")


class MovingFashionSpec(DatasetSpec):
    """Clips of an article that goes left, right, up or down, turns, or bounces, slowly or fast; what leaves comes back opposite.

    Items have captions such as "ankle boot, left, fast", of which `unsaid` leaves a part out. Clip i has article i of `articles`, over and
    over, and otherwise depends on (`seed`, i) alone. Its frames, height, width and motion are each one of `frames`, `heights`, `widths` and
    `motions`, and what is there twice comes twice as often; `one_size` makes every clip of the largest. Of one frame it is a still. Of the
    clips that turn a share `upright` begins as the article stands in its picture, the others turned by any angle.
    """

    kind: Literal["moving-fashion"] = "moving-fashion"
    articles: DatasetSlot = Field({"kind": "fashion-mnist"})  # type: ignore[assignment]
    count: Positive | None = None
    seed: int = Field(0, ge=0)
    frames: tuple[Positive, ...] = Field((8, 12, 16), min_length=1)
    heights: tuple[Positive, ...] = Field((28, 36), min_length=1)
    widths: tuple[Positive, ...] = Field((28, 36, 40), min_length=1)
    motions: tuple[Literal[MOTIONS], ...] = Field(MOTIONS, min_length=1)  # type: ignore[valid-type]
    one_size: bool = False
    upright: float = Field(0, ge=0, le=1)
    unsaid: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits_articles(self) -> MovingFashionSpec:
        if self.articles.item_channels != 1 or len(self.articles.item_size) != 2:
            raise ValueError(f"articles are grey pictures, and '{self.articles.kind}' has {self.articles.item_channels} channels")
        height, width = self.articles.item_size
        if min(self.heights) < height or min(self.widths) < width:
            raise ValueError(
                f"articles are {height}x{width}, and the smallest clip is {min(self.heights)}x{min(self.widths)}; make it as large at least"
            )
        return self

    @property
    def item_size(self) -> tuple[int, ...]:
        return max(self.frames), max(self.heights), max(self.widths)

    @property
    def item_sizes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(sorted(set(self.sizes)))

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """One of these is drawn for each clip."""
        if self.one_size:
            return (self.item_size,)
        return tuple(product(sorted(self.frames), sorted(self.heights), sorted(self.widths)))

    @property
    def item_channels(self) -> int:
        return 1

    def build(self) -> Dataset:
        from ditzoo_video.moving import MovingFashion

        return MovingFashion(self)

    @classmethod
    def examples(cls) -> dict[str, dict[str, Any]]:
        return {"": {}}
