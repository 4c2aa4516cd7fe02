"""Signals: SIGINT, SIGTERM, and SLURM's signal before the time limit, each raised as `Interrupted`.

During training the first signal waits until a checkpoint is saved; a second one ends the process at once.
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
"""Sent by SLURM before the time limit (``sbatch --signal=USR1@SECONDS``): save, and put the job in the queue again."""

_ours: set[signal.Signals] = set()
_deferring = False
_shared = False
_waiting: signal.Signals | None = None
_agreed: signal.Signals | None = None


class Interrupted(SystemExit):
    """A signal was received.

    It is a `SystemExit`, not an `Exception`, because libraries that catch everything else let that pass. (tqdm's log
    handler would print it as a logging error and continue.)
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum
        self.signal = signal.Signals(signum)

    def __str__(self) -> str:
        return f"interrupted by {self.signal.name}"


def end_on_signals() -> None:
    """Until `catch_signals`, end the process with one line on SIGINT and SIGTERM: while a command imports modules."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(signum, _end)


def catch_signals() -> None:
    """Raise `Interrupted` on SIGINT and SIGTERM, and in a SLURM job on `REQUEUE`.

    Leave a signal alone if a launcher has already set a handler for it.
    """
    for signum in (signal.SIGINT, signal.SIGTERM, *([REQUEUE] if "SLURM_JOB_ID" in os.environ else [])):
        if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler, _end):
            signal.signal(signum, _receive)
            _ours.add(signum)


def reclaim_signals() -> None:
    """Set our handlers again after Lightning has replaced them."""
    for signum in _ours:
        signal.signal(signum, _receive)


@contextmanager
def deferred(shared: bool = False) -> Iterator[None]:
    """Context in which the first signal is not raised but returned by `received`; it is raised at the end.

    Args:
        shared: several processes train together and must stop at the same step; `received` then returns a signal only
            after `agree`.
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
    """Return the signal that this process has received and not yet raised; None without one."""
    return _waiting if _deferring else None


def agree(signum: int) -> None:
    """Record the signal that all processes of a run know of (0 for none)."""
    global _agreed
    _agreed = signal.Signals(signum) if signum else None


def received() -> signal.Signals | None:
    """Return the signal to stop for once a checkpoint is saved; None without one."""
    return _agreed if _shared and _deferring else waiting()


def requeue() -> bool:
    """Ask SLURM to start this job again, and return whether it agreed."""
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
    """Return whether SLURM has started this job before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def _end(signum: int, frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"error: {Interrupted(signum)}\n".encode())
    os._exit(128 + signum)


def _receive(signum: int, frame: FrameType | None) -> None:
    global _waiting
    if _deferring and _waiting is None:
        _waiting = signal.Signals(signum)
        # Do not use the log: the signal may have interrupted it.
        with suppress(OSError):  # the reader of stderr may have been stopped by the same Ctrl-C
            os.write(2, f"{_waiting.name}: stopping after this step; send it again to stop at once\n".encode())
        return
    raise Interrupted(signum)
