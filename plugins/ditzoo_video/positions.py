"""Positions on a grid (T, H, W) of tokens: separable sine-cosine tables, and rotary angles.

Shapes: N tokens, D width, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditzoo.interfaces import Positions
from ditzoo.layers import sincos_table

if TYPE_CHECKING:
    from ditzoo_video.positions_spec import RotarySpec, SineCosineSpec


class SineCosine(Positions):
    """table(row, column) + table(frame)."""

    def __init__(self, spec: SineCosineSpec, width: int, trained: Sequence[int]) -> None:
        self.spec, self.width, self.trained = spec, width, tuple(trained)

    def tables(self, grid: Sequence[int]) -> Mapping[int, Tensor]:
        scale = tuple(scales(grid, self.trained, self.spec.beyond))
        places, frames = _separate(tuple(grid), self.width, scale, self.spec.anchored)
        return {0: places + frames} if self.spec.joins == 0 else {0: places, self.spec.joins: frames}


class Rotary(Positions):
    """Pair i of an axis turns by position * theta^(-i / pairs of the axis)."""

    def __init__(self, spec: RotarySpec, head: int, trained: Sequence[int]) -> None:
        self.spec, self.head, self.trained = spec, head, tuple(trained)

    def angles(self, grid: Sequence[int]) -> Tensor:
        return _angles(tuple(grid), self.head // 2, self.spec.theta, tuple(scales(grid, self.trained, self.spec.beyond)))


def scales(grid: Sequence[int], trained: Sequence[int], beyond: str) -> list[float]:
    """Return what positions of each axis are multiplied by: 1, or what brings an axis longer than the trained one into its range."""
    return [own / n if beyond == "interpolate" and n > own else 1.0 for n, own in zip(grid, trained, strict=True)]


def shares(pairs: int, axes: int) -> list[int]:
    """Share out channel pairs among axes: a quarter to the first, at least one, and the rest evenly, the last taking what is over."""
    first = max(pairs // 4, 1) if axes > 2 else pairs // axes
    others = (pairs - first) // (axes - 1)
    return [first, *[others] * (axes - 2), pairs - first - others * (axes - 2)]


@lru_cache(maxsize=64)
def _separate(grid: tuple[int, ...], width: int, scale: tuple[float, ...], anchored: bool) -> tuple[Tensor, Tensor]:
    frames = sincos_table(grid[:1], width, scale=scale[:1])  # (T, D)
    if anchored:
        frames = frames - sincos_table((1,), width)
    places = sincos_table(grid[1:], width, scale=scale[1:])  # (H W, D)
    return places.repeat(grid[0], 1), frames.repeat_interleave(math.prod(grid[1:]), dim=0)


@lru_cache(maxsize=64)
def _angles(grid: tuple[int, ...], pairs: int, theta: float, scale: tuple[float, ...]) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64, device="cpu") * s for n, s in zip(grid, scale, strict=True)]
    parts = []
    for positions, share in zip(torch.meshgrid(*axes, indexing="ij"), shares(pairs, len(grid)), strict=True):
        turns = theta ** (-torch.arange(share, dtype=torch.float64, device="cpu") / share)
        parts.append(positions.reshape(-1, 1) * turns)
    return torch.cat(parts, dim=1).float()  # (N, d / 2)
