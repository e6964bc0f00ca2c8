"""Times of several ways to do a thing, taken in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """The median over rounds of a time against that of the reference in the same round, and its 95 % interval by the bootstrap."""

    median: float
    low: float
    high: float


def interleaved(work: Sequence[Callable[[], object]], rounds: int) -> torch.Tensor:
    """Return seconds (rounds, ways): every round does all once, forwards and backwards in turn, after one round that does not count."""
    seconds = torch.zeros(rounds + 1, len(work), dtype=torch.float64)
    for turn in range(rounds + 1):
        order = range(len(work)) if turn % 2 else range(len(work) - 1, -1, -1)
        for way in order:
            started = time.perf_counter()
            work[way]()
            seconds[turn, way] = time.perf_counter() - started
    return seconds[1:]


def ratios(seconds: torch.Tensor, reference: int, *, resamples: int = 1000) -> list[Ratio]:
    """Return each way's time in shares of the reference's, from seconds (rounds, ways)."""
    shares = seconds / seconds[:, reference : reference + 1]
    rows = torch.randint(len(shares), (resamples, len(shares)), generator=torch.Generator().manual_seed(0))
    medians = shares[rows].median(dim=1).values  # (resamples, ways)
    low, high = torch.quantile(medians, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return [Ratio(*map(float, found)) for found in zip(shares.median(dim=0).values, low, high, strict=True)]
