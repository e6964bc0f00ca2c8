"""The partitions of a grid (T, H, W) of tokens within which tokens look at one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ditzoo.interfaces import Pattern


class Joint(Pattern):
    """One group of all tokens."""

    def groups(self, grid: Sequence[int], block: int) -> Sequence[Tensor]:
        return _whole(math.prod(grid))


class Factorised(Pattern):
    """Even blocks: a group a frame. Odd blocks: a group a place, along time."""

    def groups(self, grid: Sequence[int], block: int) -> Sequence[Tensor]:
        return _frames_or_places(tuple(grid), block % 2 == 1)


class Windowed(Pattern):
    """A group a window. Windows of odd blocks begin half a window earlier, along axes that are longer than a window; those that the grid
    cuts are groups of what is left.
    """

    def __init__(self, window: Sequence[int]) -> None:
        self.window = tuple(window)

    def groups(self, grid: Sequence[int], block: int) -> Sequence[Tensor]:
        return _windows(tuple(grid), self.window, block % 2 == 1)


@lru_cache(maxsize=64)
def _whole(count: int) -> tuple[Tensor, ...]:
    return (torch.arange(count)[None],)


@lru_cache(maxsize=64)
def _frames_or_places(grid: tuple[int, ...], along_time: bool) -> tuple[Tensor, ...]:
    frames = torch.arange(math.prod(grid)).view(grid[0], -1)
    return (frames.T.contiguous() if along_time else frames,)


@lru_cache(maxsize=64)
def _windows(grid: tuple[int, ...], window: tuple[int, ...], moved: bool) -> tuple[Tensor, ...]:
    axes = [_cuts(extent, side, side // 2 if moved and extent > side else 0) for extent, side in zip(grid, window, strict=True)]
    tokens, by_size = torch.arange(math.prod(grid)).view(grid), dict[int, list[Tensor]]()
    for frames in axes[0]:
        for rows in axes[1]:
            for columns in axes[2]:
                group = tokens[frames, rows, columns].flatten()
                by_size.setdefault(len(group), []).append(group)
    return tuple(torch.stack(groups) for groups in by_size.values())


def _cuts(extent: int, side: int, offset: int) -> list[slice]:
    """Cut an axis into windows of `side`, the first of them `offset` short of whole."""
    edges = [0, *range(side - offset if offset else side, extent, side), extent]
    return [slice(lo, hi) for lo, hi in pairwise(edges)]
