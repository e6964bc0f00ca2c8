"""What a step is fed: batches of one size in portions of rows, or packed rows one by one; and the random numbers that go with them.

Shapes: b rows of a process, C latent channels, `*S` latent axes; N patches of a pack, `*P` sides of a patch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ditzoo.errors import DataError
from ditzoo.interfaces import Backbone, Codec, Dataset
from ditzoo.noise import generator
from ditzoo.packing import Pack
from ditzoo.training.data import Batch, Clips, Order, batches
from ditzoo.training.frames import drawn_frames
from ditzoo.training.loss import Draws
from ditzoo.training.mixing import tokens_of
from ditzoo.training.objective import drawn_times
from ditzoo.training.recipe import Recipe
from ditzoo.training.sizes import OneSize, Packed, Rows


@dataclass(frozen=True)
class Portion:
    """What goes through the network at once, on the run's device."""

    latents: Tensor | Pack
    pixels: Tensor  # (b, C, *S); none of a pack
    items: list[Any]
    draws: Draws
    divisor: float  # of the mean loss of its items, so that those of a step add up to the mean of the step's


class Feed(ABC):
    """A process' share of a run's data. It depends on the seed and the step alone, whatever the number of processes."""

    def __init__(self, recipe: Recipe, dataset: Dataset, codec: Codec, backbone: Backbone, accelerator: Accelerator) -> None:
        self.recipe, self.dataset, self.codec, self.backbone = recipe, dataset, codec, backbone
        self.device, self.coded = accelerator.device, getattr(dataset, "coded", False)
        self.index, self.processes = accelerator.process_index, accelerator.num_processes
        self.rows = recipe.length.batch_size // self.processes
        self.lo = self.index * self.rows

    def batches(self, done: int) -> Iterator[Any]:
        """Yield what is left to read after `done` steps."""
        return batches(self.dataset, self.order(done, self.recipe.length.steps), self.recipe.length.workers)

    def heaviest(self, count: int) -> Iterator[Any]:
        """Yield the first steps, or where steps are unlike those of the most memory among the first few times as many."""
        return batches(self.dataset, self.order(0, count), self.recipe.length.workers)

    @abstractmethod
    def order(self, first: int, last: int) -> Iterable[Any]:
        """Return what is read for steps [first, last)."""

    @abstractmethod
    def portions(self, step: int, batch: Any) -> list[Portion]:
        """Return what was read for a step in portions, with the step's random numbers."""

    @abstractmethod
    def items(self, batch: Any) -> int:
        """Return how many items the step that `batch` is of has in all processes."""

    @abstractmethod
    def seen(self, done: int, batch: Any) -> int:
        """Return how many items `done` steps have, the last of which `batch` is of."""

    def latents(self, pixels: Tensor) -> Tensor:
        return pixels if self.coded else self.codec.encode(pixels)

    def frames(self, draws: Draws, lengths: Sequence[int], *place: int) -> list[Tensor]:
        """Draw numbers for the frames of clips of such lengths; none where the recipe gives frames no times of their own."""
        objective = self.recipe.objective
        return drawn_frames(objective, draws.time, lengths, generator(self.recipe.seed, "frames", *place)) if objective.by_frame else []

    def size_of(self) -> Callable[[int], tuple[int, ...]]:
        """Return what tells the pixel size of an item, of which each is asked for once."""
        sizes, told = self.recipe.data.item_sizes, getattr(self.dataset, "size_of", None)
        if told is None and len(sizes) > 1:
            raise DataError(f"data '{self.recipe.data.kind}' has items of {len(sizes)} sizes and no size_of that tells which has which")
        return cache(told) if told is not None else lambda index: sizes[0]


class Batches(Feed):
    """Batches of one size, `length.accumulate` portions a step."""

    def order(self, first: int, last: int) -> Iterable[list[int]]:
        return Order(len(self.dataset), self.recipe.length.batch_size, self.recipe.seed, first, last, self.lo, self.lo + self.rows)

    def portions(self, step: int, batch: Batch) -> list[Portion]:
        pixels = batch.pixels.to(self.device)
        latents, parts = self.latents(pixels), self.recipe.length.accumulate
        draws, rows = self.draws(step, latents), len(latents) // parts
        return [
            Portion(latents[part], pixels[part], batch.items[part], draws.rows(part, latents.device), parts)
            for part in (slice(first, first + rows) for first in range(0, len(latents), rows))
        ]

    def draws(self, step: int, latents: Tensor) -> Draws:
        """Draw for the whole batch and take this process' rows, so that the number of processes changes nothing."""
        rows = len(latents)
        whole = latents.new_empty(rows * self.processes, *latents.shape[1:], device="cpu")
        drawn = Draws.of(whole, generator(self.recipe.seed, "draws", step))
        drawn = Draws(drawn.noise, drawn_times(drawn.time, self.recipe.objective), drawn.drop)
        if frames := self.frames(drawn, [whole.shape[2]] * len(whole), step):
            drawn = replace(drawn, frames=torch.stack(frames))
        return drawn.rows(slice(rows * self.index, rows * (self.index + 1)), latents.device)

    def items(self, batch: Batch) -> int:
        return self.recipe.length.batch_size

    def seen(self, done: int, batch: Batch) -> int:
        return done * self.recipe.length.batch_size


class Buckets(Batches):
    """Batches of one size, which is another from step to step."""

    def __init__(self, recipe: Recipe, dataset: Dataset, codec: Codec, backbone: Backbone, accelerator: Accelerator) -> None:
        super().__init__(recipe, dataset, codec, backbone, accelerator)
        self.size, self.count = self.size_of(), cache(self._count)
        self.counted, self.total = 0, 0  # steps, and their items
        self.ahead = self.order(0, recipe.length.steps).whole()

    def order(self, first: int, last: int) -> OneSize:
        return OneSize(len(self.dataset), self.size, self.count, self.recipe.seed, first, last, self.index, self.processes)

    def _count(self, size: tuple[int, ...]) -> int:
        """Return how many items a step of a size has."""
        few, mixing = self.recipe.length.batch_size, self.recipe.mixing
        assert mixing is not None, "one-size is said by the table"
        return few if mixing.tokens is None else mixing.tokens // (tokens_of(self.recipe, size) * few) * few

    def items(self, batch: Batch) -> int:
        return len(batch.items) * self.processes

    def seen(self, done: int, batch: Batch) -> int:
        while self.counted < done:
            self.total += len(next(self.ahead))
            self.counted += 1
        return self.total

    def heaviest(self, count: int) -> Iterator[Any]:
        ahead = count * 4 * len(self.recipe.data.item_sizes)
        steps = sorted(self.order(0, ahead), key=lambda held: len(held) * math.prod(self.size(held[0])), reverse=True)
        return batches(self.dataset, steps[:count], self.recipe.length.workers)


class Packs(Feed):
    """Rows of packed clips, each a portion of its own; a row's random numbers depend on its place in the step alone."""

    def order(self, first: int, last: int) -> Iterable[Rows]:
        recipe, size = self.recipe, self.size_of()
        assert recipe.mixing is not None, "packed is said by the table"
        assert recipe.mixing.tokens is not None, "Mixing.problem refuses packed without tokens"
        most = recipe.mixing.tokens
        tokens = cache(lambda item: tokens_of(recipe, size(item)))
        rows, hi = recipe.length.batch_size, self.lo + self.rows
        return Packed(len(self.dataset), tokens, most, rows, recipe.seed, first, last, self.lo, hi)

    def portions(self, step: int, batch: Clips) -> list[Portion]:
        rows = zip(batch.pixels, batch.items, strict=True)
        return [self._portion(step, batch.wanted, row, *read) for row, read in enumerate(rows, batch.wanted.first)]

    def _portion(self, step: int, wanted: Rows, row: int, pixels: list[Tensor], items: list[Any]) -> Portion:
        latents = [self.latents(clip[None].to(self.device))[0] for clip in pixels]
        pack = self.backbone.pack(latents)
        drawn = Draws.of(pack.patches, generator(self.recipe.seed, "draws", step, row), len(items))
        draws = Draws(drawn.noise, drawn_times(drawn.time, self.recipe.objective), drawn.drop)
        if frames := self.frames(draws, [clip.shape[1] for clip in latents], step, row):
            draws = replace(draws, frames=torch.cat(frames))
        return Portion(pack, pack.patches[:0], items, draws, wanted.items / (len(items) * self.processes))

    def items(self, batch: Clips) -> int:
        return batch.wanted.items

    def seen(self, done: int, batch: Clips) -> int:
        return batch.wanted.seen


FEEDS: dict[str | None, type[Feed]] = {None: Batches, "one-size": Buckets, "packed": Packs}
