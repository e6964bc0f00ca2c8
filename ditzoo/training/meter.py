"""What a run makes of its machine: pictures a second, multiply-adds a second, their share of what matrices reach, memory."""

from __future__ import annotations

import resource
import sys
import time

import torch
from accelerate import Accelerator

from ditzoo.figures import figures
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


class Meter:
    """Reads since the last reading. A training step is taken as three forward passes (Kaplan et al. 2020)."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, step: int) -> None:
        self.batch, self.device = recipe.length.batch_size, accelerator.device
        self.flops = 3 * 2 * figures(recipe.model).macs
        self.peak = peak_rate(self.device) * accelerator.num_processes
        self.started, self.step = time.perf_counter(), step

    def read(self, step: int) -> dict[str, float]:
        """Return `images_per_second`, `gflops`, `mfu`, `memory_mb` and `seconds` since the last reading, which was at another step."""
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        rate, self.step = (step - self.step) * self.batch / seconds, step
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
