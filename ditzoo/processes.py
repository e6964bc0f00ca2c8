"""The processes that a launcher started, as accelerate finds them; on a machine without an accelerator they meet over gloo.

Left to itself accelerate takes each of several processes on a CPU for the only one, so that all of them would write the same files.
"""

from __future__ import annotations

import os

import torch
from accelerate import PartialState

from ditzoo.errors import TrainingError


def on_cpu() -> bool:
    """Say whether there is no accelerator here; `ACCELERATE_USE_CPU=true` leaves one aside, as accelerate has it."""
    return not torch.accelerator.is_available()


def processes() -> PartialState:
    """Return this process' place among those that were started; raise `TrainingError` if they do not see each other."""
    state = PartialState(cpu=on_cpu())
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != state.num_processes:
        raise TrainingError(
            f"{started} processes were started and accelerate sees {state.num_processes}; "
            f"set ACCELERATE_USE_CPU=true to run them on CPUs, or start them with 'accelerate launch --multi_gpu'"
        )
    return state
