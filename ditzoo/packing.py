"""Clips of several sizes in one row: their patches one after another, nothing padded (Dehghani et al. 2023, "Patch n' Pack").

Shapes: K clips, N patches of all of them together, C channels, `*S` axes of a clip, `*P` sides of a patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor


@lru_cache(maxsize=32)  # all blocks of a look ask for the same
def numbered(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Return 0 as often as the first count says, 1 as often as the second, and so on: (sum(counts),)."""
    return torch.arange(len(counts), device="cpu").repeat_interleave(torch.tensor(counts, device="cpu")).to(device)


@dataclass(frozen=True)
class Packing:
    """The grids of clips whose tokens lie one after another."""

    grids: tuple[tuple[int, ...], ...]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(math.prod(grid) for grid in self.grids)

    def clip_of_token(self, device: torch.device) -> Tensor:
        """Return the number of the clip that each token is of, (N,)."""
        return numbered(self.counts, device)

    def clip_of_beside(self, length: int, device: torch.device) -> Tensor:
        """Return the number of the clip of each of `length` tokens a clip, (K length,)."""
        return torch.arange(len(self.grids), device=device).repeat_interleave(length)

    def at_tokens(self, values: Tensor) -> Tensor:
        """Give values (F, ...), one a place on the grids' first axis, clip after clip, to the tokens there: (N, ...)."""
        return values[numbered(tuple(math.prod(grid[1:]) for grid in self.grids for _ in range(grid[0])), values.device)]

    def means(self, values: Tensor) -> Tensor:
        """Return the mean of each clip's values, one a token (N,): (K,)."""
        return torch.stack([part.mean() for part in values.split(self.counts)])


@dataclass(frozen=True)
class Pack:
    """Clips cut into patches, a row each: what a backbone may be given in place of a batch of one size."""

    patches: Tensor  # (N, C, *P)
    packing: Packing

    @classmethod
    def of(cls, clips: Sequence[Tensor], patch: Sequence[int]) -> Pack:
        """Cut clips (C, *S) of any sizes that the patch divides."""
        outer, inner = ([f"{name}{axis}" for axis in range(len(patch))] for name in "oi")
        pairs = " ".join(f"({o} {i})" for o, i in zip(outer, inner, strict=True))
        sides = dict(zip(inner, patch, strict=True))
        rows = [rearrange(clip, f"c {pairs} -> ({' '.join(outer)}) c {' '.join(inner)}", **sides) for clip in clips]
        grids = tuple(tuple(extent // side for extent, side in zip(clip.shape[1:], patch, strict=True)) for clip in clips)
        return cls(torch.cat(rows), Packing(grids))

    def clips(self) -> list[Tensor]:
        """Return the clips (C, *S) again."""
        rank = self.patches.dim() - 2
        outer, inner = ([f"{name}{axis}" for axis in range(rank)] for name in "oi")
        pairs = " ".join(f"({o} {i})" for o, i in zip(outer, inner, strict=True))
        parts = self.patches.split(self.packing.counts)
        return [
            rearrange(part, f"({' '.join(outer)}) c {' '.join(inner)} -> c {pairs}", **dict(zip(outer, grid, strict=True)))
            for part, grid in zip(parts, self.packing.grids, strict=True)
        ]
