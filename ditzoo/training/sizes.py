"""Which items of several sizes make the batch of which step: rows filled up to a number of tokens, or batches of one size.

As with items of one size it is a pure function of the seed: epochs are permutations, and what is left of one goes on in the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ditzoo.noise import generator

Step = list[list[int]]  # the rows of a global batch, each the indices of its items
AHEAD = 64  # items that may wait for a row that they fit into


def walked(items: int, seed: int) -> Iterator[int]:
    """Yield the items of epoch after epoch, in the order of training."""
    epoch = 0
    while True:
        yield from torch.randperm(items, generator=generator(seed, "order", epoch)).tolist()
        epoch += 1


def filled(order: Iterator[int], tokens: Callable[[int], int], most: int) -> Iterator[list[int]]:
    """Yield rows of items of `most` tokens together at most; what does not fit waits for a later row, a few items at a time."""
    waiting: list[int] = []
    while True:
        row, room = list[int](), most
        while True:
            waiting += [next(order) for _ in range(AHEAD - len(waiting))]
            place = next((place for place, item in enumerate(waiting) if tokens(item) <= room), None)
            if place is None:
                break
            item = waiting.pop(place)
            row.append(item)
            room -= tokens(item)
        yield row


def gathered(order: Iterator[int], size: Callable[[int], tuple[int, ...]], count: int) -> Iterator[list[int]]:
    """Yield `count` items of one size whenever there are as many."""
    waiting: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for item in order:
        same = waiting[size(item)]
        same.append(item)
        if len(same) == count:
            yield same.copy()
            same.clear()


@dataclass(frozen=True)
class Mixed:
    """The rows of steps [first, last), those of [lo, hi) of each global batch: items packed in a row each, or a row an item."""

    items: int
    size: Callable[[int], tuple[int, ...]]
    tokens: Callable[[tuple[int, ...]], int]
    packed: int | None  # tokens of a row at most; None: batches of one size
    batch_size: int
    seed: int
    first: int
    last: int
    lo: int
    hi: int
    _known: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.last - self.first

    def size_of(self, item: int) -> tuple[int, ...]:
        """Return an item's size, which is asked for once."""
        if item not in self._known:
            self._known[item] = self.size(item)
        return self._known[item]

    def steps(self) -> Iterator[Step]:
        """Yield the global batch of every step from the first of the run."""
        order = walked(self.items, self.seed)
        if self.packed is None:
            for batch in gathered(order, self.size_of, self.batch_size):
                yield [[item] for item in batch]
        rows = filled(order, lambda item: self.tokens(self.size_of(item)), self.packed or 0)
        while True:
            yield [next(rows) for _ in range(self.batch_size)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield (row, item) of this process' rows, step by step."""
        for step, rows in enumerate(self.steps()):
            if step >= self.last:
                return
            if step >= self.first:
                yield [(row, item) for row, held in enumerate(rows[self.lo : self.hi]) for item in held]
