"""Which items make the batch of which step: a pure function of the seed, so a run resumes where it was.

Each epoch is a permutation of the dataset; batches run on from one epoch into the next and none is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ditzoo.interfaces import Dataset
from ditzoo.noise import generator


@dataclass(frozen=True)
class Order:
    """The index lists of steps [first, last) for the rows [lo, hi) of each global batch."""

    items: int
    batch_size: int
    seed: int
    first: int
    last: int
    lo: int
    hi: int

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self.first, self.last):
            rows = []
            for position in range(step * self.batch_size + self.lo, step * self.batch_size + self.hi):
                if position // self.items != epoch:
                    epoch = position // self.items
                    order = torch.randperm(self.items, generator=generator(self.seed, "order", epoch))
                rows.append(int(order[position % self.items]))
            yield rows


def batches(dataset: Dataset, order: Order, workers: int) -> Iterator[tuple[Tensor, list[Any]]]:
    """Yield (pixels or latents (b, C, *S), items) of each step."""
    loader: DataLoader[Any] = DataLoader(cast(Any, dataset), batch_sampler=cast(Any, order), num_workers=workers, collate_fn=_collate)
    yield from loader


def _collate(rows: list[dict[str, Any]]) -> tuple[Tensor, list[Any]]:
    return torch.stack([row["latents"] if "latents" in row else row["pixels"] for row in rows]), [row["item"] for row in rows]
