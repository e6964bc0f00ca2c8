"""What layouts read off the keys and shapes of a checkpoint alike: shapes, the number of blocks, the grid of a position table. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ditzoo.errors import LayoutError, listed
from ditzoo.parts import shape

if TYPE_CHECKING:
    from torch import Tensor

SAME_TABLE = 1e-3  # tables of two grids differ by about 1; an average of one with itself, as checkpoints hold, by up to 2e-4


def shape_of(tensors: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a tensor of `rank` axes; raise `LayoutError` if it is absent, empty or of another rank."""
    if name not in tensors:
        raise LayoutError(f"the checkpoint has no {name}")
    found = tuple(tensors[name].shape)
    if len(found) != rank or 0 in found:
        raise LayoutError(f"{name} is {shape(found) or 'a number'}, where {rank} axes are expected")
    return found


def depth_of(tensors: Iterable[str], stem: str) -> int:
    """Return how many blocks `stem.0`, `stem.1`, ... there are; raise `LayoutError` naming those that are absent in between."""
    found = {int(match.group(1)) for name in tensors if (match := re.match(rf"{stem}\.(\d+)\.", name))}
    gaps = sorted(set(range(max(found) + 1)) - found)
    if gaps:
        raise LayoutError(f"blocks {listed(gaps)} are absent, and there are blocks up to {max(found)}; the checkpoint is incomplete")
    return len(found)


def grid_of(table: Tensor, name: str, width: int) -> tuple[int, int]:
    """Find the grid whose sine-cosine table (1, N, D) this is: a square one if it can be, else any whose product is the token count."""
    from ditzoo.layers import sincos_table

    tokens = table.shape[-2]
    pairs = [(h, tokens // h) for h in range(1, tokens + 1) if tokens % h == 0]
    for grid in sorted(pairs, key=lambda pair: abs(pair[0] - pair[1])):
        if width % 4 == 0 and table.shape[-1] == width and float((sincos_table(grid, width) - table.float()).abs().max()) < SAME_TABLE:
            return grid
    raise LayoutError(
        f"{name} ({shape(table.shape)}) is the sine-cosine table of no grid of {tokens} tokens: it was trained or stretched, "
        f"and this backbone computes its own"
    )
