"""Work in parts that any number of processes share, and that goes on where it was cut off: a part is a file, whole or not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from accelerate import PartialState
from tqdm import tqdm

from ditzoo.processes import processes

Part = TypeVar("Part")


def share(
    parts: Sequence[Part], done: Callable[[Part], bool], begin: Callable[[], Callable[[Part], None]], *, what: str, unit: str
) -> PartialState:
    """Do this process' share of the parts that are not done yet, and return once all processes have done theirs.

    `begin` makes what does a part, and is called only where there is one to do: by the first process before the others, so that what is
    measured or fetched on the way is there for them.
    """
    state = processes()
    mine = [part for part in parts[state.process_index :: state.num_processes] if not done(part)]
    do: Callable[[Part], None] | None = None
    with state.main_process_first():
        if mine:
            do = begin()
    if do is not None:
        for part in tqdm(mine, desc=what, unit=unit, disable=None if state.is_main_process else True):
            do(part)
    state.wait_for_everyone()
    return state
