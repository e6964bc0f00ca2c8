"""How many pictures go through a network at once: measured, up to what memory holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ditzoo.model_spec import ModelSpec
from ditzoo.room import bytes_a_picture, free_bytes

LARGEST, ROUNDS = 256, 3
SHARE_OF_MEMORY = 0.5
GAIN = 1.03  # what twice the batch has to bring, to be worth its memory and its wait
SECONDS = 10.0  # a look that takes longer ends the search


def best_batch(look: Callable[[int], object], most: int) -> int:
    """Return the smallest batch size of 1, 2, 4 ... `most` beyond which twice as many pictures a look are hardly faster a picture."""
    best, rate, batch = 1, 0.0, 1
    while batch <= most:
        seconds = _seconds(look, batch)
        if batch / seconds < rate * GAIN:
            break
        best, rate = batch, batch / seconds
        if seconds > SECONDS:
            break
        batch *= 2
    return best


def _seconds(look: Callable[[int], object], batch: int) -> float:
    """Return the median time of a look, after one that does not count unless it took long."""
    found: list[float] = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        look(batch)
        found.append(time.perf_counter() - begun)
        if found[0] > SECONDS:
            return found[0]
    return statistics.median(found[1:])


def most_that_fit(spec: ModelSpec, device: torch.device, processes: int = 1) -> int:
    """Return how many pictures' activations fit into this process' part of half the memory that is free, up to `LARGEST`."""
    free = free_bytes(device)
    return LARGEST if free is None else max(1, min(LARGEST, int(free * SHARE_OF_MEMORY / processes / max(bytes_a_picture(spec), 1))))
