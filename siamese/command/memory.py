"""Settings of the C library's memory allocator, which it reads only when a program starts."""

from __future__ import annotations

import os
import sys

TUNABLES = (
    # Blocks of any size come from the heap, which is never returned to the system: its pages are faulted in once.
    "glibc.malloc.mmap_max=0",
    "glibc.malloc.trim_threshold=18446744073709551615",
    "glibc.malloc.top_pad=67108864",
    # The thread cache would keep the small remainders of aligned blocks. Freed blocks could then not be merged, the
    # next block of the same size would not fit, and the heap would grow (by a quarter in training).
    "glibc.malloc.tcache_count=0",
)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory: restart this program with `TUNABLES`, unless they are set already.

    A training step on the CPU frees the same gigabytes of activations that the next one allocates. If they are returned
    to the system, every page is faulted in and cleared again, which takes half of the step or more. glibc reads these
    settings from the environment when a program starts, so call this function before anything else. The process keeps
    its id. Does nothing without glibc, and respects ``glibc.malloc`` settings made by the user.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc." in tunables or not sys.executable or not _has_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, *TUNABLES)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # other systems have no such name, or no such function
        return False
