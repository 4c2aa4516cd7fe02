"""Stop the jobs of a sweep or search whose own process was killed."""

from __future__ import annotations

import os
import signal
import threading
import time

from siamese.runs.locks import SWEEP_PROCESS


def end_with_sweep() -> None:
    """In a process started by joblib or a search: end it, as after SIGTERM, soon after the sweep's process is gone.

    Processes started by submitit are meant to outlive the sweep's process and are left alone.
    """
    sweep = os.environ.get(SWEEP_PROCESS, "")
    if sweep in ("", str(os.getpid())) or "SUBMITIT_EXECUTOR" in os.environ:
        return
    if _is_gone(int(sweep)):  # joblib's processes take further jobs from their queue
        os._exit(128 + signal.SIGTERM)
    if not any(thread.name == SWEEP_PROCESS for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(int(sweep),), name=SWEEP_PROCESS, daemon=True).start()


def _watch(process: int) -> None:
    while not _is_gone(process):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False
