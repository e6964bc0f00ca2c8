"""Memory of mapped files: giving pages back that have been read and are not needed again."""

from __future__ import annotations

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DONTNEED, PAGEOUT = 4, 21  # madvise's numbers on Linux; elsewhere nothing is done, and the kernel takes pages back when it must
WORTH = 2**22  # bytes of a tensor: less is not worth looking up where it lies


@lru_cache(maxsize=1)
def _madvise() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    found = ctypes.CDLL(None, use_errno=True).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found


def drop(tensor: Tensor) -> None:
    """Take the whole pages of a tensor that is mapped read-only from a file out of memory; reading it again reads the file.

    Only for tensors straight out of a mapped checkpoint: on memory that was written to, the content would be lost.
    """
    _advise(tensor, DONTNEED)


def release(tensors: Iterable[Tensor]) -> None:
    """Take the pages of large tensors that lie in mapped files out of this process' memory, of which a copy was made or that have served.

    For any tensors: what was written since, or lies in no file, stays. Reading one again maps its pages anew.
    """
    large = [tensor for tensor in tensors if tensor.device.type == "cpu" and tensor.nbytes >= WORTH]
    if not large or _madvise() is None:
        return
    starts, ends = _of_files()
    for tensor in large:
        at = bisect_right(starts, tensor.data_ptr()) - 1
        if at >= 0 and tensor.data_ptr() + tensor.nbytes <= ends[at]:
            _advise(tensor, PAGEOUT)


def _advise(tensor: Tensor, advice: int) -> None:
    """Advise the kernel on the pages that lie in a tensor whole."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    advise = _madvise()
    if advise is not None and last > first:
        advise(first, last - first, advice)


def _of_files() -> tuple[list[int], list[int]]:
    """Return where the mappings of files begin, in rising order, and where they end."""
    starts, ends = [], []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        place, *_, file = line.split(maxsplit=5)
        if file.startswith("/"):
            low, high = place.split("-")
            starts.append(int(low, 16))
            ends.append(int(high, 16))
    return starts, ends
