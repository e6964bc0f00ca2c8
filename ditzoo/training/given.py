"""Which frames of a clip are given in a step of training: those stay clean, at their own time 0, and their errors do not count.

So one network learns to go on from first frames, to lead up to last ones, to fill in between, and all else that a mask says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ditzoo.packing import Packing

# which of `order`, a permutation of the frames, are given when so many are
Pattern = Callable[[int, list[int]], Sequence[int]]


def _ends(count: int, order: list[int]) -> Sequence[int]:
    first = -(-count // 2)
    return [*range(first), *range(len(order) - max(count - first, 1), len(order))] if len(order) > 2 else [0]


PATTERNS: dict[str, Pattern] = {
    "first": lambda count, order: range(count),
    "last": lambda count, order: range(len(order) - count, len(order)),
    "ends": _ends,
    "scattered": lambda count, order: order[:count],
}


def masks(share: float, lengths: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw which frames of clips of such lengths are given, (T,) bool each: some of a `share` of the clips, and few more often than many.

    How many is log-uniform over 1 to T - 1; which is one of `PATTERNS`, each as often.
    """
    found = []
    for length in lengths:
        whether, which, many = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        order, mask = torch.randperm(length, generator=generator).tolist(), torch.zeros(length, dtype=torch.bool)
        if whether < share and length > 1:
            pattern = list(PATTERNS.values())[int(which * len(PATTERNS))]
            mask[list(pattern(int(length**many), order))] = True
        found.append(mask)
    return found


class Times(NamedTuple):
    """The times of a step: what the network is told, those of the noise in its rows, and what their errors count."""

    told: Tensor  # (B,), or of frames (B, T), of a pack (F,)
    rows: Tensor  # (R,) or (R, T)
    counts: Tensor | None  # (R, 1, T, 1, ...): 1 on average over the frames of an item that are not given, and 0 where they are


def with_given(own: Tensor, given: Tensor | None, packing: Packing | None, rank: int) -> Times:
    """Return the times of items (B,) at `own`, of whose frames some are given: (B, T) bool, or of a pack (F,) for the frames of all.

    A row is an item, or of a pack a patch; `rank` is the number of its axes.
    """
    clip = None if packing is None else packing.clip_of_token(own.device)
    if given is None:
        return Times(own, own if clip is None else own[clip], None)
    if packing is None:
        frames, times = ~given, own[:, None].where(~given, 0.0)
        shares = frames.double().mean(1)
        return Times(times, times, _counts(frames, shares, rank))
    spans = len(given) // sum(grid[0] for grid in packing.grids)
    lengths = [grid[0] * spans for grid in packing.grids]
    times = own.repeat_interleave(torch.tensor(lengths)).where(~given, 0.0)
    shares = torch.stack([part.double().mean() for part in (~given).split(lengths)])
    frames, laid = (packing.at_tokens(values.unflatten(0, (-1, spans))) for values in (~given, times))
    return Times(times, laid, _counts(frames, shares[clip], rank))


def _counts(frames: Tensor, shares: Tensor, rank: int) -> Tensor:
    counts = frames / shares[:, None]
    return counts.reshape(len(counts), 1, -1, *[1] * (rank - 3)).float()
