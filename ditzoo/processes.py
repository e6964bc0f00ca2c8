"""The processes that a launcher started, as accelerate finds them; on a machine without an accelerator they meet over gloo.

Left to itself accelerate takes each of several processes on a CPU for the only one, so that all of them would write the same files.
"""

from __future__ import annotations

import atexit
import os

import torch
import torch.distributed as dist
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
    if state.num_processes > 1:
        atexit.unregister(_part)
        atexit.register(_part)  # gloo's threads abort a process that ends while they run
    return state


def _part() -> None:
    """Leave the group of processes, where it has not been left."""
    if dist.is_initialized():
        dist.destroy_process_group()
