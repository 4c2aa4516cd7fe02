"""The processes that train one network together (`siamese.collective`): started, watched, ended.

The first of them writes the run folder. It starts the others as ``python -m siamese.distributed FOLDER``, unless
torchrun or SLURM has started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from siamese.config import TrainConfig, read_yaml
from siamese.errors import TrainingError
from siamese.runs import RunFolder, is_main
from siamese.signals import catch_signals

log = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds in which the first process may end by itself after another one has died, before it is ended."""


@contextlib.contextmanager
def other_processes(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Within, the processes that train with this one run; does nothing for a single one, or where others start them.

    Raises:
        TrainingError: one of them died.
    """
    if config.trainer.processes == 1 or "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As torchrun sets them: Lightning then takes the processes for started.
    count = str(config.trainer.processes)
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": secrets.token_hex(8),
    }  # fmt: skip
    found = os.pathsep.join(filter(None, (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH"))))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "siamese.distributed", str(folder.path.resolve())],
            env=os.environ | environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": found},
        )
        for rank in range(1, config.trainer.processes)
    ]
    before = dict(os.environ)
    os.environ.update(environment | {"RANK": "0", "LOCAL_RANK": "0"})
    over = threading.Event()
    threading.Thread(target=_watch, args=(started, folder, over), daemon=True).start()
    try:
        yield
        for process in started:
            process.wait(timeout=60)
    except Exception as error:
        if not isinstance(error, TrainingError) and (told := _dead(started, wait=2.0)):
            raise TrainingError(f"{told}; what was saved goes on with resume=true") from error
        raise
    finally:
        over.set()
        for process in started:
            process.kill()
        for name in (*environment, "RANK", "LOCAL_RANK"):
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


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
            if over.wait(PATIENCE):
                return
            error = TrainingError(f"{told}; what was saved goes on with resume=true")
            with contextlib.suppress(OSError):
                folder.record_failure(error)
            print(f"error: {error}", file=sys.stderr, flush=True)
            for process in started:
                process.kill()
            os._exit(1)


def _end_with_the_first() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str) -> None:
    """One of the processes that the first has started: train, and write nothing."""
    from siamese.experiment import train

    assert not is_main()
    logging.basicConfig(level=logging.WARNING)
    catch_signals()
    _end_with_the_first()
    run = RunFolder(Path(folder))
    train(read_yaml(run.config), run)


if __name__ == "__main__":
    main(sys.argv[1])
