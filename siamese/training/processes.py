"""The processes that train one network together (`siamese.collective`): started, watched, ended.

The first of them writes the run folder. It starts the others as ``python -m siamese.training.processes FOLDER``, unless
torchrun or SLURM has started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from siamese.config.schema import TrainConfig
from siamese.errors import DataError, TrainingError, UserError
from siamese.runs import signals
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_config
from siamese.runs.signals import Interrupted, catch_signals, waiting
from siamese.scoring.run_data import load_run_data
from siamese.training.collective import leave

log = logging.getLogger(__name__)

NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "could not create a primitive")
"""Messages of torch (and, the last one, of oneDNN) when a batch does not fit into memory."""

PATIENCE = 20.0
"""Seconds in which the first process may end by itself after another one has died, before it is ended."""

SAVING_MAY_TAKE = 120.0
"""The same after a signal, when the others end as soon as the first one alone is still writing."""

FIRST_PROCESS = "SIAMESE_FIRST_PROCESS"
"""Environment variable with the number of the process that has started this one."""


def started_outside(processes: int) -> bool:
    """Whether torchrun or SLURM has started as many processes as train together."""
    return any(os.environ.get(name) == str(processes) for name in ("WORLD_SIZE", "SLURM_NTASKS"))


@contextlib.contextmanager
def other_processes(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Within, the processes that train with this one run; does nothing for a single one, or where others start them.

    Raises:
        TrainingError: one of them died.
    """
    processes = config.trainer.processes
    if processes == 1 or started_outside(processes):
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As torchrun sets them: Lightning then takes the processes for started.
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": secrets.token_hex(8),
        "RANK": "0", "LOCAL_RANK": "0", FIRST_PROCESS: str(os.getpid()),
    }  # fmt: skip
    found = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH"))))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "siamese.training.processes", str(folder.path.resolve())],
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": found},
        )
        for rank in range(1, processes)
    ]
    before = {name: os.environ.get(name) for name in (*environment, "OMP_NUM_THREADS")}
    threads = torch.get_num_threads()  # Lightning gives each process its part of the cores
    os.environ.update(environment)
    over = threading.Event()
    threading.Thread(target=_watch, args=(started, folder, over), daemon=True).start()
    try:
        yield
        for process in started:
            process.wait(timeout=60)
    except Exception as error:
        if not isinstance(error, TrainingError | UserError) and (told := _dead(started, wait=2.0)):
            raise TrainingError(f"{told}; what was saved goes on with resume=true") from error
        raise
    finally:
        over.set()
        for process in started:
            process.kill()
        torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _dead(started: list[subprocess.Popen[bytes]], wait: float) -> str:
    """What the process that has died first died of; empty when all live or ended well."""
    deadline = time.monotonic() + wait
    while True:
        for rank, process in enumerate(started, start=1):
            if process.poll():
                return f"process {rank} of {len(started) + 1} ended with code {process.returncode}"
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.1)


def _watch(started: list[subprocess.Popen[bytes]], folder: RunFolder, over: threading.Event) -> None:
    """End this process where it waits for one that has died, as it would on a GPU."""
    while not over.wait(1.0):
        if told := _dead(started, wait=0.0):
            if over.wait(SAVING_MAY_TAKE if waiting() else PATIENCE):
                return
            error: BaseException = TrainingError(f"{told}; what was saved goes on with resume=true")
            if signum := waiting():
                error = Interrupted(signum)
            with contextlib.suppress(OSError):
                folder.record_failure(error)
            print(f"error: {error}", file=sys.stderr, flush=True)
            for process in started:
                process.kill()
            os._exit(128 + signum if signum else 1)


def _end_with_the_first() -> None:
    first = int(os.environ[FIRST_PROCESS])

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def helpers_and_signals(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Context of ``trainer.fit``: start the helper processes, and make the first signal wait until all is saved."""
    with signals.deferred(shared=config.trainer.processes > 1), other_processes(config, folder):
        try:
            yield
        except SIGTERMException:  # raised by Lightning for a signal before its handlers are replaced
            raise Interrupted(signal.SIGTERM) from None
        finally:
            leave()


@contextlib.contextmanager
def explained_failures(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Context of ``trainer.fit``: turn errors about memory and foreign checkpoints into one line with a remedy.

    Raises:
        TrainingError: a batch does not fit into memory.
        DataError: the weights in ``last.ckpt`` do not fit the network.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if "error(s) in loading state_dict" in text:
            raise DataError(
                f"{folder.last}: its weights do not fit the run's config.yaml; delete it to start again"
            ) from None
        if isinstance(error, RuntimeError) and not any(words in text for words in NO_MEMORY):
            raise
        raise TrainingError(
            f"out of memory with batch_size={config.batch_size}; give a smaller batch_size or data.image_size"
        ) from error


def train_as_helper(config: TrainConfig, folder: RunFolder) -> None:
    """Train as one of the processes that are not the first: compute a share of every batch and write nothing."""
    from siamese.training.fit import fit, start_session

    session = start_session(config, folder)
    fit(config, folder, session, load_run_data(config, folder))


def main(folder: str) -> None:
    """Entry point of the helper processes that the first process starts."""
    logging.basicConfig(level=logging.WARNING)
    catch_signals()
    _end_with_the_first()
    run = RunFolder(Path(folder))
    try:
        train_as_helper(read_config(run.config), run)
    except (TrainingError, UserError):
        raise SystemExit(1) from None  # the first process has the same error and reports it


if __name__ == "__main__":
    main(sys.argv[1])
