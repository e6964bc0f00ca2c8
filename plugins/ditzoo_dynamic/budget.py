"""The table of least error under a budget, by dynamic programming. Errors of bins and branches are taken to add up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Choice(NamedTuple):
    """One way through a bin: its cost in block evaluations, the error that it brings, and the depths of both branches."""

    cost: int
    error: float
    cond: int
    null: int


def cheapest(bins: Sequence[Sequence[Choice]], budget: int) -> list[Choice] | None:
    """Return a choice for each bin, of the least summed error whose summed cost is within `budget`; None if none is.

    The table has a column for each cost up to the budget: best[c] is the least error of the bins so far at cost c exactly.
    """
    best: dict[int, tuple[float, list[Choice]]] = {0: (0.0, [])}
    for choices in bins:
        grown: dict[int, tuple[float, list[Choice]]] = {}
        for spent, (error, taken) in best.items():
            for choice in choices:
                cost, total = spent + choice.cost, error + choice.error
                if cost <= budget and total < grown.get(cost, (math.inf,))[0]:
                    grown[cost] = (total, [*taken, choice])
        best = grown
    return min(best.values(), key=lambda found: found[0])[1] if best else None
