"""A rehearsal: a few steps of a recipe at its true size, to tell time and memory before the run."""

from __future__ import annotations

import statistics
import tempfile
import time
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

    The first step, which allocates, is left out of the time. Where steps have one size each, these are of the largest, so that time and
    memory are those at most. Raises `TrainingError` where memory does not suffice.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe, Path(folder))
        meter = Meter(recipe, run.accelerator)
        seconds, items = [], list[int]()
        try:
            for batch in run.feed.heaviest(min(STEPS, recipe.length.steps)):
                begun = time.perf_counter()
                run.step(run.done, batch)
                run.done += 1
                items.append(run.feed.items(batch))
                seconds.append(time.perf_counter() - begun)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            raise TrainingError(
                f"a step of batch_size={recipe.length.batch_size} does not fit into memory ({str(error).splitlines()[0]}); raise "
                f"length.accumulate, or lower mixing.tokens of packed rows, or set length.segments to compute activations anew"
            ) from error
        parameters = sum(p.numel() for p in run.trainee.parameters())
        kept = sum(p.numel() for p in own_parameters(run.trainee).values())  # an adapter alone, where there is one
        step, held = statistics.median(seconds[1:] or seconds), statistics.mean(items)
        return {
            "parameters": parameters,
            "processes": run.accelerator.num_processes,
            "seconds_per_step": round(step, 4),
            "images_per_second": round(held / step, 2),
            "mfu": round(held / step * meter.flops / meter.peak, 3),
            "hours": round(step * recipe.length.steps / 3600, 3),
            "epochs": round(recipe.length.steps * held / len(run.dataset), 2),
            "peak_memory_mb": round(meter.memory() / 1e6, 1),
            "checkpoint_mb": round(kept * 16 / 1e6, 1),  # fp32 weights, their average, and AdamW's two moments
            "disk_mb": round(kept * (16 * recipe.output.keep + 4) / 1e6, 1),
        }
