"""Decide which process may write to a run folder: one at a time, and only the first of those that train together."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout

from siamese.errors import ConfigError

log = logging.getLogger(__name__)

SWEEP_PROCESS = "SIAMESE_SWEEP_PROCESS"
"""Environment variable: process id of the running sweep or search, set for the processes that it starts."""

ORPHANS_MAY_TAKE = 60.0
"""Seconds that a job may take to stop and save after its sweep or search was killed; a resumed job waits this long."""

_held: dict[Path, FileLock] = {}


def is_first() -> bool:
    """Return whether this process is the first of those that a launcher started, or the only one."""
    ranks = ("RANK", "LOCAL_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") in ("", "0") for name in ranks)


def is_main(processes: int) -> bool:
    """Return whether this process may write: it is the only one or the first of those that train together."""
    return processes == 1 or is_first()


def claim(folder: Path, wait: float = 0.0) -> None:
    """Lock a folder for this process until `release` or the end of the process; create the folder if necessary.

    Args:
        folder: folder of a run or of a sweep.
        wait: seconds to wait if another process has the lock.

    Raises:
        ConfigError: another process has the lock, or the folder cannot be written.
    """
    key = folder.resolve()
    if key in _held:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=wait)
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by another process; wait until that process ends, or give another output folder"
        ) from None
    except NotImplementedError:
        log.warning("%s: the file system has no locks; make sure that no other process uses this folder", folder)
        return
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); give another output folder") from None
    _held[key] = lock


def release(folder: Path) -> None:
    """Unlock a folder that this process has claimed."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        lock.release()
