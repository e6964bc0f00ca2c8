"""Rows of a batch shared out among cores: each runs all blocks on its own, with one thread, where torch would share out every operation.

So cores wait for one another once a run of blocks and not after each operation, and what a core has just written is in its own cache.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import islice, pairwise
from threading import Barrier, Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

from ditzoo.interfaces import Backbone, Cond, Runtime, Stream
from ditzoo.views import before, hooked, view

LEAST = 3e8  # multiply-adds of a block on what one core gets: with fewer, Python's own time between operations tells
IDLE = 0.1  # of the cores' time that may be lost where rows do not come out even
Result = TypeVar("Result")
_lock = Lock()


@dataclass(frozen=True)
class ByRows(Runtime):
    """What another runtime prepares, on a CPU of several cores, its rows shared out where there are enough of them."""

    inner: Runtime

    def prepare(self, backbone: Backbone) -> Backbone:
        seen = self.inner.prepare(backbone)
        first = next(seen.parameters(), None)
        return seen if first is None or first.device.type != "cpu" else shared(seen)

    @property
    def told(self) -> str:
        return f"{self.inner.told}, by rows"


def shared(backbone: Backbone) -> Backbone:
    """Return a view of a backbone that shares rows out."""
    return view(backbone, lambda one: before(_Shared, type(one)) if one is backbone else None)


class _Shared(Backbone):
    """Comes before a class of backbones, whose blocks it calls."""

    def run(self, stream: Stream, lo: int, hi: int) -> Stream:
        slices = slices_of(stream)
        if not slices or any(map(hooked, islice(self.blocks, lo, hi))):
            return super().run(stream, lo, hi)
        whole = super().run
        cut = [stream.rows(rows) for rows in slices]
        return joined(stream, cut, in_parts(lambda part: whole(part, lo, hi), cut))


def slices_of(stream: Stream) -> list[slice]:
    """Return the rows of each core, or none where blocks had better be run on all rows together."""
    if stream.packing is not None or stream.tokens.device.type != "cpu":
        return []
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or _watched():
        return []
    (rows, tokens, width), cores = stream.tokens.shape, torch.get_num_threads()
    most = -(-rows // cores)
    if cores < 2 or most * cores > (1 + IDLE) * rows or most < least_rows(tokens, width):
        return []
    ends = [rows * core // cores for core in range(cores + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def least_rows(tokens: int, width: int) -> int:
    """Return how many rows of so many tokens a core has to have."""
    return max(1, math.ceil(LEAST / (12 * tokens * width**2)))


def _watched() -> bool:
    """Say whether a mode of torch sees the operations of this thread, as FlopCounterMode does: it would not see those of others."""
    return torch._C._len_torch_function_stack() > 0 or torch._C._len_torch_dispatch_stack() > 0


def joined(stream: Stream, cut: Sequence[Stream], made: Sequence[Stream]) -> Stream:
    """Return what blocks made of a stream, of what they made of its parts; what they left is the whole stream's own."""
    changes: dict[str, Any] = {}
    for name in (f.name for f in fields(stream)):
        before, after = [getattr(part, name) for part in cut], [getattr(part, name) for part in made]
        if all(map(lambda one, other: one is other, before, after)):
            continue
        several = name != "positions" and after[0] is not None
        if several and isinstance(after[0], Tensor):
            changes[name] = torch.cat(after)
        else:
            changes[name] = Cond.cat(after) if several and isinstance(after[0], Cond) else after[0]
    return replace(stream, **changes)


def in_parts(work: Callable[[Any], Result], parts: Sequence[Any]) -> list[Result]:
    """Do some work on each of as many parts as there are threads, at once, a thread each; what one raises is raised here."""
    inference = torch.is_inference_mode_enabled()

    def alone(part: Any) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(part)

    with _lock:
        pool = _pool(os.getpid(), len(parts))
    return list(pool.map(alone, parts))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return a pool whose every thread computes by itself. A process that was forked has none of its parent's threads."""
    begun = Barrier(threads)

    def begin(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread that has not asked yet would take the process's number at its first operation
        begun.wait()  # until all are there, for the first would do the next one's part too

    own = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ditzoo-rows")
    list(pool.map(begin, range(threads)))
    torch.set_num_threads(own)  # what a thread sets is taken for the process's number too
    return pool
