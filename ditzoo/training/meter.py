"""What a run makes of its machine: pictures a second, multiply-adds a second, their share of what matrices reach, memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time

import torch
from accelerate import Accelerator

from ditzoo.figures import figures
from ditzoo.request import adjusted
from ditzoo.training.recipe import Recipe

SIDE, TRIES = 1024, 4


def peak_rate(device: torch.device) -> float:
    """Return the FLOP/s that a square fp32 matrix product reaches here, the best of a few tries."""
    a = torch.randn(SIDE, SIDE, device=device)
    best = float("inf")
    for _ in range(TRIES):
        begun = time.perf_counter()
        b = a @ a
        float(b[0, 0])  # wait for a device that works on its own
        best = min(best, time.perf_counter() - begun)
    return 2 * SIDE**3 / best


def macs(recipe: Recipe) -> float:
    """Return the multiply-adds of an item's forward pass; where items have several sizes, the mean over these."""
    if recipe.mixing is None:
        return figures(recipe.model).macs
    axes = ("num_frames", "height", "width")
    sizes = [dict(zip(axes[-len(size) :], size, strict=True)) for size in recipe.data.item_sizes]
    return statistics.mean(figures(adjusted(recipe.model, **size)).macs for size in sizes)


class Meter:
    """Reads since the last reading. A training step is taken as three forward passes (Kaplan et al. 2020)."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator) -> None:
        self.device = accelerator.device
        self.flops = 3 * 2 * macs(recipe)
        self.peak = peak_rate(self.device) * accelerator.num_processes
        self.started, self.items = time.perf_counter(), 0  # items of all processes since the last reading

    def read(self) -> dict[str, float]:
        """Return `images_per_second`, `gflops`, `mfu`, `memory_mb` and `seconds` since the last reading."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        rate, self.items = self.items / seconds, 0
        return {
            "images_per_second": rate,
            "gflops": rate * self.flops / 1e9,
            "mfu": rate * self.flops / self.peak,
            "memory_mb": self.memory() / 1e6,
            "seconds": seconds,
        }

    def memory(self) -> float:
        """Return the peak memory of the device, or of this process on a CPU, in bytes."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(peak) * (1 if sys.platform == "darwin" else 1024)
