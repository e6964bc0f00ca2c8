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

from ditzoo.errors import DitzooError, TrainingError
from ditzoo.interfaces import Dataset
from ditzoo.noise import generator
from ditzoo.training.sizes import Mixed


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


@dataclass(frozen=True)
class Clips:
    """Items of several sizes, row by row: what is packed together."""

    rows: list[list[Tensor]]  # (C, *S) each


def batches(dataset: Dataset, order: Order | Mixed, workers: int) -> Iterator[tuple[Tensor | Clips, list[Any]]]:
    """Yield (pixels or latents (b, C, *S), items) of each step; of several sizes in a step `Clips`, and items row after row.

    Raises what an item's reading raises, as it was raised, and `TrainingError` where a worker process died.
    """
    loader: DataLoader[Any] = DataLoader(
        cast(Any, _Told(dataset)), batch_sampler=cast(Any, order), num_workers=workers, collate_fn=_collate
    )
    rows = iter(loader)
    while True:
        try:
            batch = next(rows)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"a process that reads data died, often for want of memory ({str(error).splitlines()[0].rstrip('. ')}); "
                f"the last checkpoint is sound: lower length.workers={workers}, or read in the run's own process with 0, and resume"
            ) from error
        if isinstance(batch, DitzooError):
            raise batch
        yield batch


class _Told:
    """A dataset whose errors come as values, so that those of a worker process are told as if it were ours."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any] | DitzooError:
        row, index = index if isinstance(index, tuple) else (None, index)
        try:
            return self.dataset[index] | {"row": row}
        except DitzooError as error:
            return error


def _collate(read: list[dict[str, Any] | DitzooError]) -> tuple[Tensor | Clips, list[Any]] | DitzooError:
    found, rows = list[Tensor](), list[list[Tensor]]()
    items = []
    for one in read:
        if isinstance(one, DitzooError):
            return one
        found.append(one["latents"] if "latents" in one else one["pixels"])
        items.append(one["item"])
        if one["row"] is not None:
            rows += [[] for _ in range(one["row"] + 1 - len(rows))]
            rows[one["row"]].append(found[-1])
    if len(rows) in (0, len(found)) and len({part.shape for part in found}) == 1:
        return torch.stack(found), items
    return Clips(rows), items
