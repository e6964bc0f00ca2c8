"""Memory of mapped files: giving pages back that have been read and are not needed again."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

DONTNEED = 4  # madvise's number on Linux; elsewhere nothing is done, and the kernel takes pages back when it must


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
    advise = _madvise()
    if advise is None:
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        advise(first, last - first, DONTNEED)
