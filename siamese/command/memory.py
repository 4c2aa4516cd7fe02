"""How the C library handles memory: settings that it reads when a program starts."""

from __future__ import annotations

import os
import sys

TUNABLES = (
    # A block of any size comes from the heap, which is never given back: its pages are faulted in and cleared once.
    "glibc.malloc.mmap_max=0",
    "glibc.malloc.trim_threshold=18446744073709551615",
    "glibc.malloc.top_pad=67108864",
    # The thread cache would keep the splinters that aligned blocks are cut with, so that a freed block never grows
    # whole again, the next one of its size does not fit, and the heap creeps (a quarter more memory in training).
    "glibc.malloc.tcache_count=0",
)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: start this program anew with `TUNABLES`, unless they are set already.

    A training step on the CPU frees and allocates the same gigabytes of activations again; given back to the system,
    every page of them is faulted in and cleared anew, which takes half of the step and more. glibc reads these settings
    from the environment only, when a program starts, so this is to be called first of all; the process keeps its
    number. Does nothing without glibc, and leaves the user's own ``glibc.malloc`` settings alone.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc." in tunables or not sys.executable or not _has_glibc():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, *TUNABLES)))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _has_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # no such name, or no such function, elsewhere
        return False
