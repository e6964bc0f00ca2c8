"""Which items of several sizes make the batch of which step: rows filled up to a number of tokens, or batches of one size.

As with items of one size it is a pure function of the seed: epochs are permutations, and what is left of one goes on in the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch

from ditzoo.noise import generator

AHEAD = 64  # items that may wait for a row that they fit into


class Rows(NamedTuple):
    """What a process reads for a step of packed rows."""

    first: int  # the place of its first row in the whole step
    held: list[list[int]]  # the items of its rows
    items: int  # those of the whole step
    seen: int  # those of all steps up to this one


@dataclass(frozen=True)
class OneSize:
    """The items of steps [first, last), share `part` of `parts` of each: of one size, and as many as `count` says of that size."""

    items: int
    size: Callable[[int], tuple[int, ...]]
    count: Callable[[tuple[int, ...]], int]
    seed: int
    first: int
    last: int
    part: int
    parts: int

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.whole():
            rows = len(batch) // self.parts
            yield batch[rows * self.part : rows * (self.part + 1)]

    def whole(self) -> Iterator[list[int]]:
        """Yield the items of the steps, of all processes."""
        return islice(gathered(walked(self.items, self.seed), self.size, self.count), self.first, self.last)


@dataclass(frozen=True)
class Packed:
    """The rows of steps [first, last), those of [lo, hi) of the `rows` of each, of `most` tokens at most."""

    items: int
    tokens: Callable[[int], int]
    most: int
    rows: int
    seed: int
    first: int
    last: int
    lo: int
    hi: int

    def __iter__(self) -> Iterator[Rows]:
        rows, seen = filled(walked(self.items, self.seed), self.tokens, self.most), 0
        for step in range(self.last):
            held = list(islice(rows, self.rows))
            items = sum(map(len, held))
            seen += items
            if step >= self.first:
                yield Rows(self.lo, held[self.lo : self.hi], items, seen)


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
            waiting += islice(order, AHEAD - len(waiting))
            place = next((place for place, item in enumerate(waiting) if tokens(item) <= room), None)
            if place is None:
                break
            row.append(waiting.pop(place))
            room -= tokens(row[-1])
        yield row


def gathered(order: Iterator[int], size: Callable[[int], tuple[int, ...]], count: Callable[[tuple[int, ...]], int]) -> Iterator[list[int]]:
    """Yield items of one size whenever there are as many as its `count`."""
    waiting: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for item in order:
        same = waiting[size(item)]
        same.append(item)
        if len(same) == count(size(item)):
            yield same.copy()
            same.clear()
