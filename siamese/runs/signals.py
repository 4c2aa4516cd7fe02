"""SIGINT, SIGTERM, and what SLURM sends before a job's time is up, each raised as `Interrupted`.

While a network is trained the first one waits for a moment at which nothing is lost; a second one does not.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REQUEUE = signal.SIGUSR1
"""Sent ahead of the time limit by SLURM where ``sbatch --signal=USR1@SECONDS`` asks for it: save, and queue again."""

_ours: set[signal.Signals] = set()
_deferring = False
_shared = False
_waiting: signal.Signals | None = None
_agreed: signal.Signals | None = None


class Interrupted(SystemExit):
    """A signal was received; not an Exception, so that nothing mistakes it for a failed job.

    A `SystemExit`, because libraries let that pass where they catch all else (tqdm's log handler: a signal that came
    while a line was written was printed as a logging error, and training went on).
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum
        self.signal = signal.Signals(signum)

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}; training goes on with the same command, its folder and resume=true"


def catch_signals() -> None:
    """Raise `Interrupted` for SIGINT and SIGTERM, and in a job of SLURM for `REQUEUE`.

    A signal for which a launcher has plans of its own is left to it.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, *([REQUEUE] if "SLURM_JOB_ID" in os.environ else [])):
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, _receive)
            _ours.add(signum)


def reclaim_signals() -> None:
    """Take the signals back that were caught here before others (Lightning) set handlers of their own."""
    for signum in _ours:
        signal.signal(signum, _receive)


@contextmanager
def deferred(shared: bool = False) -> Iterator[None]:
    """Within, the first signal only waits, for `received` to tell; it is raised at the end at the latest.

    Args:
        shared: several processes train together, and must stop at the same step: `received` tells of a signal only
            when they have agreed on it.
    """
    global _deferring, _shared, _waiting, _agreed
    _deferring, _shared, _waiting, _agreed = True, shared, None, None
    try:
        yield
    finally:
        _deferring = False
    if signum := _agreed or _waiting:
        raise Interrupted(signum)


def waiting() -> signal.Signals | None:
    """The signal that this process has received and not yet raised."""
    return _waiting if _deferring else None


def agree(signum: int) -> None:
    """All processes that train together know of a signal (0 for none)."""
    global _agreed
    _agreed = signal.Signals(signum) if signum else None


def received() -> signal.Signals | None:
    """The signal for which to stop at the next moment at which nothing is lost."""
    return _agreed if _shared and _deferring else waiting()


def requeue() -> bool:
    """Ask SLURM to start this job again; whether it will."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def was_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def _receive(signum: int, frame: FrameType | None) -> None:
    global _waiting
    if _deferring and _waiting is None:
        _waiting = signal.Signals(signum)
        # Not the log: it may be what was interrupted.
        with suppress(OSError):  # as when whoever read it was stopped by the same Ctrl-C
            os.write(2, f"{_waiting.name}: stopping after this step; once more to stop at once\n".encode())
        return
    raise Interrupted(signum)
