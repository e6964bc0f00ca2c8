"""A rehearsal: a few steps of a recipe at its true size, to tell time and memory before the run."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ditzoo.errors import TrainingError
from ditzoo.training.ema import own_parameters
from ditzoo.training.loop import prepare
from ditzoo.training.meter import Meter
from ditzoo.training.recipe import Recipe

STEPS = 4


def rehearse(recipe: Recipe) -> dict[str, Any]:
    """Make a few steps that leave nothing behind; return what a step takes and what the run would, on this machine as it is now.

    The first step, which allocates, is left out of the time. Raises `TrainingError` where memory does not suffice.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe, Path(folder))
        meter = Meter(recipe, run.accelerator, 0)
        seconds = []
        try:
            for pixels, items in islice(run.batches(), min(STEPS, recipe.length.steps)):
                begun = time.perf_counter()
                run.step(run.done, pixels, items)
                run.done += 1
                seconds.append(time.perf_counter() - begun)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            raise TrainingError(
                f"a step of batch_size={recipe.length.batch_size} does not fit into memory ({str(error).splitlines()[0]}); raise "
                f"length.accumulate, or set length.segments to compute activations anew"
            ) from error
        parameters = sum(p.numel() for p in run.trainee.parameters())
        kept = sum(p.numel() for p in own_parameters(run.trainee).values())  # an adapter alone, where there is one
        step = statistics.median(seconds[1:] or seconds)
        return {
            "parameters": parameters,
            "processes": run.accelerator.num_processes,
            "seconds_per_step": round(step, 4),
            "images_per_second": round(recipe.length.batch_size / step, 2),
            "mfu": round(recipe.length.batch_size / step * meter.flops / meter.peak, 3),
            "hours": round(step * recipe.length.steps / 3600, 3),
            "epochs": round(recipe.length.steps * recipe.length.batch_size / len(run.dataset), 2),
            "peak_memory_mb": round(meter.memory() / 1e6, 1),
            "checkpoint_mb": round(kept * 16 / 1e6, 1),  # fp32 weights, their average, and AdamW's two moments
            "disk_mb": round(kept * (16 * recipe.output.keep + 4) / 1e6, 1),
        }
