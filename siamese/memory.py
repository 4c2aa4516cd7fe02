"""How the C library handles large blocks of memory; apart from torch, since it must be set before torch allocates."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system; returns whether it is set.

    A training step on the CPU frees and allocates the same gigabyte of activations again; given back, every page
    of it is cleared and faulted in anew, which takes up to half of the step. Does nothing outside Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 * 2**20))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
