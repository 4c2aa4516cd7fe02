"""How a command ends: one line on stderr, and an exit code.

0: done. 2: invalid configuration or data. 130 / 143: interrupted by SIGINT / SIGTERM. 1: anything else, including a
sweep with a failed job.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

from siamese.config.load import composition_error, is_composition_error
from siamese.errors import TrainingError, UserError, one_line
from siamese.runs.locks import is_first
from siamese.runs.signals import REQUEUE, Interrupted, requeue


class JobFailedError(Exception):
    """A job of a sweep ended with an error; the message has the job's number and the reason."""


def end(error: BaseException, hint: str = "") -> NoReturn:
    """Print the reason as one line and end the process with the exit code of ``error``."""
    if not isinstance(error, Interrupted):
        print(f"error: {reason(error)}{hint}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, UserError) or is_composition_error(error) else 1) from None
    queue_again = error.signal == REQUEUE and is_first()
    text = "interrupted by SIGUSR1; asking SLURM to queue this job again" if queue_again else f"{error}{hint}"
    print(f"error: {text}", file=sys.stderr, flush=True)  # first: SLURM ends srun, which forwards it, at once
    if queue_again:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it, but this process is ending anyway
        if not requeue():
            print(f"warning: SLURM refused; {error}{hint}", file=sys.stderr)
    raise SystemExit(error.code) from None


def reason(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, UserError | TrainingError | Interrupted | JobFailedError):
        return str(error)
    if is_composition_error(error):
        return str(composition_error(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'the disk'}: {error.strerror}"
    if isinstance(error, MemoryError):
        return (
            f"out of memory{': ' if str(error) else ''}{one_line(error)}; end other programs, or use a larger machine"
        )
    return f"{type(error).__name__}: {one_line(error)}"


def discard_output() -> None:
    """After a `BrokenPipeError`: give the interpreter somewhere to flush to when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
