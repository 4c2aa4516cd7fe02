"""Two processes that train one network: the same results as one process, and how training ends if one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY_MODEL, run
from resuming import FACE, UNRESTRICTED, assert_close

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, DataError, TrainingError
from siamese.runs.folder import RunFolder
from siamese.runs.tables import read_history
from siamese.training.processes.collective import processes
from siamese.training.processes.helper import train_as_helper

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]

KINDS: dict[str, dict[str, Any]] = {
    "pairs by names, augmented": {"protocol": UNRESTRICTED, "augmentation": FACE, "ema_decay": 0.9},
    "groups of listed pairs": {
        "objective": {"name": "ntxent", "views": 2, "pair_weight": 1}, "augmentation": FACE, "threshold": "accuracy",
        "backend": {"name": "plda"},
    },
    "classes by names": {
        "objective": {"name": "arcface"}, "protocol": UNRESTRICTED, "augmentation": FACE, "threshold": "accuracy",
        "learning_rate": 0.01,
    },
}  # fmt: skip


@pytest.fixture
def plain(tiny_overrides: list[str]) -> list[str]:
    """A run without batch normalization and dropout, which differ if several processes train together."""
    kept = [word for word in tiny_overrides if not word.startswith(("model.batchnorm", "trainer"))]
    return [*kept, "model.batchnorm=false", "trainer.accelerator=cpu", "optimizer=sgd", "learning_rate=0.1"]


def trainer(devices: int) -> dict[str, Any]:
    return {"accelerator": "cpu", "progress_bar": False, "devices": devices}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "pairs by names, augmented" else pytest.mark.slow) for kind in KINDS],
)
def test_two_processes_give_the_results_of_one(tiny_config: Make, tmp_path: Path, kind: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    model = {"name": "koch", **TINY_MODEL, "batchnorm": False}
    options = {"model": model, "optimizer": {"name": "sgd"}, "learning_rate": 0.1, **KINDS[kind]}
    for devices, path in ((1, one), (2, two)):
        run(tiny_config(**options, trainer=trainer(devices)), path)
    # (Embeddings of arcface hardly differ yet, so calibration amplifies small differences.)
    assert_close(one, two, scored=kind != "classes by names")
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}


def test_a_helper_of_a_finished_run_does_nothing(trained: tuple[TrainConfig, Path, Any]) -> None:
    """torchrun starts helpers also if the run is already done."""
    config, path, _ = trained
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    train_as_helper(
        config.model_copy(update={"trainer": config.trainer.model_copy(update={"devices": 2})}), RunFolder(path)
    )
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


@pytest.mark.slow
def test_a_run_that_diverges_does_not_harm_the_next(tiny_config: Make, tmp_path: Path) -> None:
    """In a sweep, the next job runs in the same process."""
    before = dict(os.environ)
    config = tiny_config(trainer=trainer(2), learning_rate=1e30, optimizer={"name": "sgd"})
    with pytest.raises(TrainingError, match="the training loss is"):
        run(config, tmp_path / "run")
    assert processes() == 1
    assert dict(os.environ) == before
    assert run(tiny_config(trainer=trainer(2), max_epochs=1), tmp_path / "next")["status"] == "done"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_the_same_error_as_in_one_process(tiny_config: Make, tmp_path: Path) -> None:
    config, folder = tiny_config(trainer=trainer(2), resume=True), RunFolder(tmp_path / "run")
    folder.start(config)
    folder.checkpoints.mkdir()
    folder.last.write_bytes(b"")
    with pytest.raises(DataError, match=r"last\.ckpt: cannot resume from this file .*; delete it to start again"):
        run(config, folder.path)


FINDS_PROCESSES = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the helper in /proc")


def started(plain: list[str], folder: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "train.py"), *plain, "trainer=ddp", "max_epochs=100000", "patience=100000",
            f"hydra.run.dir={folder}", *more,
        ],
        cwd=folder.parent, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not (folder / "history.csv").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def others_of(process: subprocess.Popen[str]) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = status.read_text().partition(" (")
        except OSError:
            continue
        if int(rest.rpartition(")")[2].split()[1]) == process.pid:
            found.append(int(pid))
    return found


@FINDS_PROCESSES
def test_a_killed_helper_ends_the_run_with_a_clear_line(plain: list[str], tmp_path: Path) -> None:
    with started(plain, tmp_path / "run", "checkpoint.every=2") as process:
        try:
            (other,) = others_of(process)
            os.kill(other, signal.SIGKILL)
            began = time.monotonic()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert time.monotonic() - began < 60
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1] == (
        "error: process 1 of 2 ended with code -9; give resume=true to continue from the last checkpoint"
    )
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "failed"
    torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)


@FINDS_PROCESSES
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_helpers_end_with_the_first_process(plain: list[str], tmp_path: Path, signum: signal.Signals) -> None:
    with started(plain, tmp_path / "run") as process:
        try:
            (other,) = others_of(process)
            process.send_signal(signum)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == (-9 if signum == signal.SIGKILL else 143)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{other}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{other}").exists()
    if signum == signal.SIGTERM:
        assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "interrupted"
        saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] >= 3 * len(read_history(tmp_path / "run/history.csv")) > 0


def test_a_batch_that_is_too_small_for_two_processes(tiny_config: Make) -> None:
    with pytest.raises((ConfigError, ValueError), match="batch_size=3 is too small for 2 processes"):
        tiny_config(batch_size=3, trainer=trainer(2))
