"""Which items make the batch of which step: a pure function of the seed, so a run resumes where it was.

Each epoch is a permutation of the dataset; batches run on from one epoch into the next and none is short.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ditzoo.errors import DitzooError, TrainingError
from ditzoo.interfaces import Dataset
from ditzoo.noise import generator
from ditzoo.training.sizes import Rows


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


class Batch(NamedTuple):
    """Items of one size."""

    pixels: Tensor  # (b, C, *S) pixels, or latents where the dataset has them
    items: list[Any]


class Clips(NamedTuple):
    """Items of several sizes, row by row."""

    wanted: Rows
    pixels: list[list[Tensor]]  # (C, *S) each
    items: list[list[Any]]


def batches(dataset: Dataset, order: Iterable[list[int]] | Iterable[Rows], workers: int) -> Iterator[Batch | Clips]:
    """Yield what each step reads.

    Raises what an item's reading raises, as it was raised, and `TrainingError` where a worker process died.
    """
    loader: DataLoader[Any] = DataLoader(
        cast(Any, _Told(dataset)),
        batch_size=None,
        sampler=cast(Any, order),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_heeds_the_run,
    )
    rows = iter(loader)
    try:
        while True:
            try:
                batch = next(rows)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise TrainingError(
                    f"a process that reads data died, often for want of memory ({str(error).splitlines()[0].rstrip('. ')}); the last "
                    f"checkpoint is sound: lower length.workers={workers}, or read in the run's own process with 0, and resume"
                ) from error
            if isinstance(batch, DitzooError):
                raise batch
            yield batch
    finally:
        del rows  # ends the workers now: an error would keep this frame, and them, for as long as it is kept


class _Told:
    """Reads what a step wants. Errors come as values, so that those of a worker process are told as if it were ours."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, wanted: list[int] | Rows) -> Batch | Clips | DitzooError:
        try:
            if isinstance(wanted, Rows):
                rows = [self._read(row) for row in wanted.held]
                return Clips(wanted, [pixels for pixels, _ in rows], [items for _, items in rows])
            pixels, items = self._read(wanted)
            return Batch(torch.stack(pixels), items)
        except DitzooError as error:
            return error

    def _read(self, indices: list[int]) -> tuple[list[Tensor], list[Any]]:
        read = [self.dataset[index] for index in indices]
        return [one["latents"] if "latents" in one else one["pixels"] for one in read], [one["item"] for one in read]


def _heeds_the_run(worker: int) -> None:
    """Have a worker end by the SIGTERM of its run alone: what tells a whole job to stop tells workers too, and the last step still reads.

    Where the system does not tell who sends a signal, as macOS, any ends it.
    """
    run = multiprocessing.parent_process()
    if run is not None and hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_ends_with, args=(run.pid,), daemon=True).start()


def _ends_with(run: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)


def _as_it_is(read: Any) -> Any:
    return read
