"""A run that is stopped, however often and wherever, ends like an undisturbed one: weights, figures, predictions."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ROOT
from resuming import KINDS, RESNET, assert_equal, die

from siamese.config.schema import TrainConfig
from siamese.errors import DataError, TrainingError
from siamese.runs import signals
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted
from siamese.runs.tables import read_history
from siamese.training import train as train_module
from siamese.training.callbacks import KeepLast
from siamese.training.module import SiameseModule
from siamese.training.train import train

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]
AtStep = Callable[[int, Callable[[], None]], None]

LISTED = "koch, listed pairs"


def options(kind: str = LISTED, **changes: Any) -> dict[str, Any]:
    """Three epochs; of listed pairs with six steps each."""
    return {"batch_size": 4, "max_epochs": 3, **KINDS[kind], **changes}


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the finished run of a kind, trained once."""
    base = tmp_path_factory.mktemp("undisturbed")

    def run_of(kind: str) -> Path:
        path = base / kind.replace(", ", "-")
        if not path.exists():
            train(tiny_config(**options(kind)), RunFolder(path))
        return path

    return run_of


@pytest.fixture(scope="module")
def stopped(tiny_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saves every second step and was stopped after step 5; copy it before you resume it."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    step = SiameseModule.training_step

    def stop(self: SiameseModule, batch: Any, index: int) -> Any:
        if self.global_step == 5:
            die()
        return step(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SiameseModule, "training_step", stop)
        with pytest.raises(Interrupted):
            train(tiny_config(**options(checkpoint={"every": 2})), RunFolder(path))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_stopped_between_steps_ends_like_an_undisturbed_one(
    tiny_config: Make, tmp_path: Path, at_step: AtStep, undisturbed: Callable[[str], Path], kind: str
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def fail_to_read() -> None:
        raise OSError(5, "Input/output error")

    config = tiny_config(**options(kind, checkpoint={"every": 2}, resume=True))
    # In the first step, right before and after one that is saved, in the last of an epoch and in the first of another.
    for step, stop in ((1, die), (3, die), (4, fail), (6, die), (7, fail_to_read), (9, die)):
        at_step(step, stop)
        with pytest.raises((Interrupted, RuntimeError, OSError)):
            train(config, RunFolder(tmp_path / "cut"))
    half = tmp_path / "cut/checkpoints/.last.ckpt.0123456789ab.tmp"
    half.write_bytes(b"left by a killed process")
    at_step(0, die)
    train(config, RunFolder(tmp_path / "cut"))
    assert_equal(tmp_path / "cut", undisturbed(kind))
    assert not half.exists()
    logged = [(run / "metrics.csv").read_text().splitlines() for run in (tmp_path / "cut", undisturbed(kind))]
    assert len(logged[0]) == len(logged[1]) >= 1 + 3


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, (2, 8, 14)), (30.0, (8,))])
def test_a_run_that_saves_after_epochs_ends_like_an_undisturbed_one(
    tiny_config: Make,
    tmp_path: Path,
    at_step: AtStep,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], Path],
    seconds: float,
    steps: tuple[int, ...],
) -> None:
    """Stopped in epochs, and between training and testing.

    ``last.ckpt`` is that of the last epoch, or (if all epochs end within 30 s) that of the start.
    """
    monkeypatch.setattr(KeepLast, "EVERY", seconds)
    config = tiny_config(**options(resume=True))
    for step in steps:
        at_step(step, die)
        with pytest.raises(Interrupted):
            train(config, RunFolder(tmp_path / "cut"))
        saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == (step - 2 if seconds == 0 else 0)
    at_step(0, die)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "load_network", lambda *_: die())
        with pytest.raises(Interrupted):
            train(config, RunFolder(tmp_path / "cut"))
    train(config, RunFolder(tmp_path / "cut"))
    assert_equal(tmp_path / "cut", undisturbed(LISTED))


def test_no_saved_step_is_repeated(
    tiny_config: Make, tmp_path: Path, with_callback: Callable[[L.Callback], None], stopped: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "cut")
    saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            seen.append(trainer.global_step)

    with_callback(Watch())
    train(tiny_config(**options(checkpoint={"every": 2}, resume=True)), RunFolder(tmp_path / "cut"))
    assert seen == list(range(4, 18))


def test_a_run_that_stopped_early_is_not_trained_further_when_resumed(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The learning rate is far too high: the loss only grows.
    config = tiny_config(
        patience=1, max_epochs=6, learning_rate=10.0, resume=True,
        model={"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16},
    )  # fmt: skip
    folder = RunFolder(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "load_network", lambda *_: die())
        with pytest.raises(Interrupted):
            train(config, folder)
    before = read_history(folder.history)
    assert len(before) < 6
    result = train(config, folder)
    assert (result.status, result.epochs) == ("done", len(before))
    assert [row["val/loss"] for row in read_history(folder.history)] == [row["val/loss"] for row in before]


@pytest.fixture
def caught_signals() -> Iterator[None]:
    """The run's own signal handlers, as the entry points set them."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    for signum in before:
        signal.signal(signum, signal.SIG_DFL)
    signals.catch_signals()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("caught_signals")
def test_the_first_signal_saves_and_the_second_does_not_wait(
    tiny_config: Make, tmp_path: Path, at_step: AtStep, undisturbed: Callable[[str], Path]
) -> None:
    """After step 2 within the first epoch, twice in step 3, and after step 6: its validation still runs."""
    folder = RunFolder(tmp_path / "cut")

    def once() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    for step, send, saved_step, epochs in ((2, once, 2, 0), (3, twice, 2, 0), (6, once, 6, 1)):
        at_step(step, send)
        with pytest.raises(Interrupted) as raised:
            train(tiny_config(**options(resume=True)), folder)
        assert raised.value.code == 143
        assert torch.load(folder.last, weights_only=True)["global_step"] == saved_step
        assert (len(read_history(folder.history)) if folder.history.exists() else 0) == epochs
    at_step(0, die)
    train(tiny_config(**options(resume=True)), folder)
    assert_equal(folder.path, undisturbed(LISTED))


@pytest.mark.parametrize("kind", ["cut short", "another architecture", "another width"])
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    tiny_config: Make, tmp_path: Path, stopped: Path, kind: str
) -> None:
    """See test_checkpoints.py for more kinds of damage."""
    folder = RunFolder(tmp_path / "cut")
    shutil.copytree(stopped, folder.path)
    whole = torch.load(folder.last, weights_only=True)
    match kind:
        case "cut short":
            folder.last.write_bytes(folder.last.read_bytes()[:-1000])
        case "another architecture":
            torch.save({**whole, "state_dict": {"network.x": torch.zeros(1)}}, folder.last)
        case "another width":
            weights = whole["state_dict"].items()
            wider = {name: torch.cat([value, value]) if value.dim() else value for name, value in weights}
            torch.save({**whole, "state_dict": wider}, folder.last)
    with pytest.raises(DataError, match=r"delete it to start again") as caught:
        train(tiny_config(**options(checkpoint={"every": 2}, resume=True)), folder)
    assert str(caught.value).startswith(f"{folder.last}: ")
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_weights_from_before(
    tiny_config: Make, tmp_path: Path
) -> None:
    config = tiny_config(
        batch_size=4, max_epochs=3, optimizer={"name": "sgd"}, learning_rate=1e30, model=RESNET,
        checkpoint={"every": 1},
    )  # fmt: skip
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf) at step \d+ \(epoch 1\) with a learning rate of 1e\+30"
    ):
        train(config, folder)
    saved = torch.load(folder.last, weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


def test_equal_seeds_give_equal_results_whatever_the_clock_says_and_others_do_not(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[[str], Path]
) -> None:
    now = [time.time()]

    def back() -> float:
        now[0] -= 1000.0
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", back)
        result = train(tiny_config(**options()), RunFolder(tmp_path / "back"))
    assert_equal(tmp_path / "back", undisturbed(LISTED))
    assert result.train_seconds is not None
    assert result.total_seconds is not None
    assert 0 < result.train_seconds < result.total_seconds < 600
    other = train(tiny_config(**options(max_epochs=1, seed=1)), RunFolder(tmp_path / "other"))
    same = train(tiny_config(**options(max_epochs=1)), RunFolder(tmp_path / "same"))
    assert other.test_loss != same.test_loss


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow)]
)
def test_signals_from_outside_save_and_end_with_their_code(
    tiny_overrides: list[str], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    """Ctrl-C, and SLURM's signal before the time limit. (SIGTERM is in test_processes.py.)"""
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "17", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    folder = tmp_path / "run"
    command = [
        sys.executable, str(ROOT / "train.py"), *tiny_overrides, "max_epochs=100000", "patience=100000",
        f"hydra.run.dir={folder}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | (slurm if signum == signal.SIGUSR1 else {}),
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 100
            while not (folder / "history.csv").is_file() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signum)
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == code, errors
    *_, waiting, last = errors.splitlines()
    assert waiting == f"{signum.name}: stopping after this step; send it again to stop at once"
    assert last.startswith(f"error: interrupted by {signum.name}")
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    rows = read_history(folder / "history.csv")
    assert saved["global_step"] >= 3 * len(rows) > 0  # where it was stopped, not half a minute before
    assert "Interrupted" in (folder / "train.log").read_text()
    assert (tmp_path / "asked").exists() == (signum == signal.SIGUSR1)
