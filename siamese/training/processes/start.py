"""Start, watch and end the helpers of a run: the processes that train together with the first one."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from siamese.config.schema import TrainConfig
from siamese.errors import TrainingError, UserError
from siamese.runs import signals
from siamese.runs.folder import RunFolder
from siamese.training.processes.collective import leave

GRACE = 20.0
"""Seconds that the first process has to end by itself after a helper died; then it is ended."""

SAVING_MAY_TAKE = 120.0
"""The same after a signal: helpers end earlier than the first process, which still saves a checkpoint."""

LOST = (
    "lost the connection to another process of this run; see the output of that process, and give resume=true to "
    "continue from the last checkpoint"
)

FIRST_PROCESS = "SIAMESE_FIRST_PROCESS"
"""Environment variable of a helper: process id of the process that started it."""


@contextlib.contextmanager
def helpers(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Context of ``trainer.fit`` with the helpers running; does nothing if a single process trains.

    If torchrun or SLURM started the processes, they stay connected until they end, for the next fold of View 2.

    Raises:
        TrainingError: another process of the run died.
    """
    processes = config.trainer.processes
    if processes == 1:
        yield
    elif started_outside(processes):
        atexit.register(leave)
        with _explained_loss():
            yield
    else:
        with _own_helpers(processes, folder):
            yield


@contextlib.contextmanager
def _explained_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if re.search("gloo|nccl", str(error), re.IGNORECASE):
            raise TrainingError(LOST) from error
        raise


@contextlib.contextmanager
def _own_helpers(processes: int, folder: RunFolder) -> Iterator[None]:
    environment = _environment(processes)
    started = [_start_helper(rank, environment, folder) for rank in range(1, processes)]
    threads = torch.get_num_threads()  # Lightning divides the cores among the processes
    over = threading.Event()
    threading.Thread(target=_watch, args=(started, folder, over), daemon=True).start()
    try:
        with _environment_variables(environment):
            try:
                yield
            finally:
                leave()
            for process in started:
                process.wait(timeout=60)
    except Exception as error:
        if not isinstance(error, TrainingError | UserError) and (death := _first_death(started, wait=2.0)):
            raise TrainingError(death) from error
        raise
    finally:
        over.set()
        for process in started:
            process.kill()
        torch.set_num_threads(threads)


def started_outside(processes: int) -> bool:
    """Whether torchrun or SLURM started this number of processes."""
    return any(os.environ.get(name) == str(processes) for name in ("WORLD_SIZE", "SLURM_NTASKS"))


def _environment(processes: int) -> dict[str, str]:
    """The variables that torchrun would set for the first process; Lightning then starts no processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": secrets.token_hex(8),
        "RANK": "0", "LOCAL_RANK": "0", FIRST_PROCESS: str(os.getpid()),
    }  # fmt: skip


def _start_helper(rank: int, environment: dict[str, str], folder: RunFolder) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[3])
    found = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": found}
    command = [sys.executable, "-m", "siamese.training.processes.helper", str(folder.path.resolve())]
    return subprocess.Popen(command, env=os.environ | environment | own)


@contextlib.contextmanager
def _environment_variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables; restore them afterwards, and OMP_NUM_THREADS, which Lightning sets."""
    before = {name: os.environ.get(name) for name in (*values, "OMP_NUM_THREADS")}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_death(started: list[subprocess.Popen[bytes]], wait: float) -> str:
    """Say which helper ended with an error; empty if none did within ``wait`` seconds."""
    deadline = time.monotonic() + wait
    while True:
        for rank, process in enumerate(started, start=1):
            if process.poll():
                return (
                    f"process {rank} of {len(started) + 1} ended with code {process.returncode}; give resume=true to "
                    "continue from the last checkpoint"
                )
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.1)


def _watch(started: list[subprocess.Popen[bytes]], folder: RunFolder, over: threading.Event) -> None:
    """End this process if it waits for a helper that died, which it would do forever on a GPU."""
    while not over.wait(1.0):
        if death := _first_death(started, wait=0.0):
            if over.wait(SAVING_MAY_TAKE if signals.waiting() else GRACE):
                return
            error: BaseException = TrainingError(death)
            if signum := signals.waiting():
                error = signals.Interrupted(signum)
            with contextlib.suppress(OSError):
                folder.record_failure(error)
            hint = "; give resume=true to continue from the last checkpoint" if signum else ""
            print(f"error: {error}{hint}", file=sys.stderr, flush=True)
            for process in started:
                process.kill()
            os._exit(128 + signum if signum else 1)
