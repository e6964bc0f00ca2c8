"""Clips of articles in motion. Everything about a clip but its article is drawn from (seed, index).

Shapes: T frames, (H, W) a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ditzoo.noise import generator
from ditzoo_video.moving_spec import MOTIONS, SPEEDS

if TYPE_CHECKING:
    from ditzoo_video.moving_spec import MovingFashionSpec

PIXELS = (1, 2)  # a frame, of slow and of fast
DEGREES = (9.0, 18.0)
HEIGHT, PERIOD = 9.0, (12, 6)  # of a bounce, in pixels and frames


class Told(NamedTuple):
    """What is drawn of a clip."""

    size: tuple[int, ...]
    motion: int
    speed: int
    place: tuple[float, float]  # of the article at first, as shares of the room that it leaves
    phase: float  # of a bounce
    angle: float  # at first, of a turn; degrees
    said: tuple[bool, bool, bool]  # article, motion and speed in the caption


class MovingFashion:
    """Items `{"pixels": (1, T, H, W), "item": caption}`; `size_of` tells a clip's size without making it."""

    names: tuple[str, ...] = ()

    def __init__(self, spec: MovingFashionSpec) -> None:
        self.spec, self.articles = spec, spec.articles.build()
        self.count = spec.count or len(self.articles)
        self.words = [name.lower() for name in self.articles.names]
        self.values = {"article": self.words, "motion": list(MOTIONS), "speed": list(SPEEDS)}
        self.sizes = spec.sizes

    def __len__(self) -> int:
        return self.count

    def told(self, index: int) -> Told:
        """Draw what clip `index` is like, all but its article."""
        numbers = torch.rand(10, generator=generator(self.spec.seed, "clip", index), dtype=torch.float64).tolist()
        size = self.sizes[int(numbers[0] * len(self.sizes))]
        said = tuple(number >= self.spec.unsaid for number in numbers[6:9])
        motion = MOTIONS.index(self.spec.motions[int(numbers[1] * len(self.spec.motions))])
        angle = 0.0 if numbers[9] < self.spec.upright else 360 * numbers[5]
        return Told(size, motion, int(numbers[2] * 2), (numbers[3], numbers[4]), numbers[5], angle, said)

    def size_of(self, index: int) -> tuple[int, ...]:
        return self.told(index).size

    @cached_property
    def attributes(self) -> Tensor:
        """What each clip shows (N, 3), by number: article, motion, speed."""
        rows = []
        for index in range(self.count):
            told = self.told(index)
            rows.append((self.articles[index % len(self.articles)]["item"], told.motion, told.speed))
        return torch.tensor(rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        article, told = self.articles[index % len(self.articles)], self.told(index)
        picture = article["pixels"][0] / 2 + 0.5  # (h, w) in [0, 1]
        frames = torch.stack([self._frame(picture, told, time) for time in range(told.size[0])])
        named = (self.words[article["item"]], MOTIONS[told.motion], SPEEDS[told.speed])
        words = [word for word, said in zip(named, told.said, strict=True) if said]
        return {"pixels": frames[None] * 2 - 1, "item": ", ".join(words or named[:1])}

    def _frame(self, picture: Tensor, told: Told, time: int) -> Tensor:
        turned, down, right = MOVES[MOTIONS[told.motion]](picture, time, told)
        spare = [extent - own for extent, own in zip(told.size[1:], turned.shape, strict=True)]
        canvas = F.pad(turned, (0, spare[1], 0, spare[0]))
        top, left = (int(share * (left_over + 1)) for share, left_over in zip(told.place, spare, strict=True))
        return canvas.roll((top + down, left + right), (0, 1))


Move = Callable[[Tensor, int, Told], tuple[Tensor, int, int]]  # the picture at a time, and how far down and right it has gone


def _goes(down: int, right: int) -> Move:
    return lambda picture, time, told: (picture, down * time * PIXELS[told.speed], right * time * PIXELS[told.speed])


def _turns(sign: int) -> Move:
    def move(picture: Tensor, time: int, told: Told) -> tuple[Tensor, int, int]:
        angle = math.radians(told.angle + sign * time * DEGREES[told.speed])
        turn = torch.tensor([[math.cos(angle), math.sin(angle), 0.0], [-math.sin(angle), math.cos(angle), 0.0]])
        grid = F.affine_grid(turn[None], [1, 1, *picture.shape], align_corners=False)
        return F.grid_sample(picture[None, None], grid, align_corners=False)[0, 0], 0, 0

    return move


def _bounces(picture: Tensor, time: int, told: Told) -> tuple[Tensor, int, int]:
    return picture, -round(HEIGHT * abs(math.sin(math.pi * (told.phase + time / PERIOD[told.speed])))), 0


MOVES: dict[str, Move] = {
    "left": _goes(0, -1),
    "right": _goes(0, 1),
    "up": _goes(-1, 0),
    "down": _goes(1, 0),
    "clockwise": _turns(1),
    "anticlockwise": _turns(-1),
    "bouncing": _bounces,
}
