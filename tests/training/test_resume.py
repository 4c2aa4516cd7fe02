"""A run that is killed, however often and wherever, ends as one that was not: weights, figures, predictions."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ROOT

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairSet
from siamese.data.lists import Pair
from siamese.errors import ConfigError, DataError, TrainingError
from siamese.runs import signals
from siamese.runs.folder import RunFolder
from siamese.runs.locks import claim, release
from siamese.runs.records import read_history
from siamese.runs.signals import Interrupted
from siamese.training.data_module import BatchLoader, pair_loader
from siamese.training.train import train

Make = Callable[..., TrainConfig]

RESNET = {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 16, "dropout": 0.2}
KOCH = {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True, "dropout": 0.2}
NAMES = {"name": "view1", "setting": "unrestricted"}
FACE = {"flip": True, "rotation": 5.0, "erase": 0.5}

KINDS: dict[str, dict[str, Any]] = {
    "koch, listed pairs": {"model": KOCH},
    "koch, pairs by names": {"model": KOCH, "protocol": NAMES, "augmentation": FACE, "ema_decay": 0.9},
    "resnet, groups by names": {
        "model": RESNET, "protocol": NAMES, "objective": {"name": "ntxent"}, "augmentation": FACE, "ema_decay": 0.9,
        "backend": {"name": "plda"},
    },
    "resnet, groups of listed pairs": {
        "model": RESNET, "objective": {"name": "ntxent", "views": 2, "pair_weight": 1.0}, "augmentation": FACE,
        "scheduler": {"name": "cosine", "warmup_epochs": 1}, "monitor": "val/auc",
    },
}  # fmt: skip


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if "seconds" not in key}


def assert_equal(one: Path, other: Path) -> None:
    """Everything that two finished runs left behind, but for times."""
    results = [without_times(json.loads((run / "result.json").read_text())) for run in (one, other)]
    assert results[0] == results[1]
    assert results[0]["status"] == "done"
    for name in ("predictions.csv", "excluded.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    weights = [torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())
    rows = [[without_times(row) for row in read_history(run / "history.csv")] for run in (one, other)]
    assert rows[0] == rows[1]


def die() -> None:
    raise Interrupted(signal.SIGKILL)  # as if: nothing is saved any more


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_between_steps_ends_as_an_undisturbed_one(
    tiny_config: Make, tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None], kind: str
) -> None:
    options = {"batch_size": 4, "max_epochs": 3, "checkpoint": {"every": 2}, **KINDS[kind]}
    train(tiny_config(**options), RunFolder(tmp_path / "whole"))
    steps = torch.load(tmp_path / "whole/checkpoints/best.ckpt", weights_only=True)["global_step"]
    assert steps >= 3
    # In the first step, right before and after one that is saved, in the last of an epoch and in the first of another.
    for step in (1, 3, 4, 6, 7, 9):
        at_step(step, die)
        with pytest.raises(Interrupted):
            train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    half = tmp_path / "cut/checkpoints/.last.ckpt.0123456789ab.tmp"
    half.write_bytes(b"what a killed process had written")
    at_step(0, die)
    train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    assert_equal(tmp_path / "cut", tmp_path / "whole")
    assert not half.exists()
    logged = [(tmp_path / run / "metrics.csv").read_text().splitlines() for run in ("cut", "whole")]
    assert len(logged[0]) == len(logged[1]) >= 1 + 3


def test_no_step_is_done_twice_that_was_saved(
    tiny_config: Make,
    tmp_path: Path,
    at_step: Callable[[int, Callable[[], None]], None],
    with_callback: Callable[[L.Callback], None],
) -> None:
    options = {"batch_size": 4, "max_epochs": 2, "checkpoint": {"every": 2}, "model": KOCH}
    at_step(5, die)
    with pytest.raises(Interrupted):
        train(tiny_config(**options), RunFolder(tmp_path / "cut"))
    saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    seen: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            seen.append(trainer.global_step)

    with_callback(Watch())
    train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    assert seen == list(range(4, 12))


def test_a_loader_goes_on_within_an_epoch() -> None:
    pairs = PairSet([Pair("a", "b", 0)] * 20, torch.arange(40).reshape(20, 2), torch.zeros(20, dtype=torch.int64))

    def loader() -> BatchLoader:
        return pair_loader(pairs, 3, shuffle=True, seed=5)

    first, whole = loader(), [batch.indices.tolist() for batch in loader()]
    given = [batch.indices.tolist() for _, batch in zip(range(4), first, strict=False)]
    assert given == whole[:4]
    second = loader()
    second.load_state_dict(first.state_dict())
    assert first.state_dict() == {"given": 4}
    assert [batch.indices.tolist() for batch in second] == whole[4:]
    assert [batch.indices.tolist() for batch in second] == whole  # the epoch after it is whole again
    assert second.state_dict() == {"given": 0}
    next(iter(second))
    assert [batch.indices.tolist() for batch in second] == whole


@pytest.mark.parametrize("step", [2, 6])
def test_the_first_signal_saves_and_the_second_does_not_wait(
    tiny_config: Make, tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None], step: int
) -> None:
    """After step 2 in the middle of the first epoch; step 6 is the last of it, and its validation still comes."""
    options = {"batch_size": 4, "max_epochs": 2, "model": KOCH}
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        for signum in before:
            signal.signal(signum, signal.SIG_DFL)
        signals.catch_signals()
        train(tiny_config(**options), RunFolder(tmp_path / "whole"))

        at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted) as raised:
            train(tiny_config(**options), RunFolder(tmp_path / "cut"))
        assert raised.value.code == 143
        saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == step
        assert len(read_history(tmp_path / "cut/history.csv") if step == 6 else []) == step // 6

        def twice() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

        at_step(step + 1, twice)
        with pytest.raises(Interrupted) as raised:
            train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
        assert raised.value.code == 143
        saved = torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == step  # nothing was saved since

        at_step(0, die)
        train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
        assert_equal(tmp_path / "cut", tmp_path / "whole")
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def damaged(kind: str, file: Path, tmp_path: Path) -> None:
    whole = torch.load(file, weights_only=True)
    match kind:
        case "cut short":
            file.write_bytes(file.read_bytes()[:-1000])
        case "empty":
            file.write_bytes(b"")
        case "a web page":
            file.write_text("<html>")
        case "a folder":
            file.unlink()
            file.mkdir()
        case "code inside":
            torch.save({**whole, "state_dict": Payload(tmp_path / "ran")}, file)
        case "code beside":
            torch.save({**whole, "more": Payload(tmp_path / "ran")}, file)
        case "a list":
            torch.save([1, 2], file)
        case "weights alone":
            torch.save({"state_dict": whole["state_dict"]}, file)
        case "another architecture":
            torch.save({**whole, "state_dict": {"network.x": torch.zeros(1)}}, file)
        case "another width":
            state = {
                name: torch.cat([value, value]) if value.dim() else value for name, value in whole["state_dict"].items()
            }
            torch.save({**whole, "state_dict": state}, file)


class Payload:
    """Pickled, a file that is made when it is read with code allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "kind",
    [
        "cut short", "empty", "a web page", "a folder", "code inside", "code beside", "a list", "weights alone",
        "another architecture", "another width",
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_damaged_or_a_strangers_is_refused_in_one_line(
    tiny_config: Make, tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None], kind: str
) -> None:
    options = {"batch_size": 4, "max_epochs": 2, "model": KOCH, "checkpoint": {"every": 2}}
    at_step(5, die)
    with pytest.raises(Interrupted):
        train(tiny_config(**options), RunFolder(tmp_path / "cut"))
    at_step(0, die)
    last = RunFolder(tmp_path / "cut").last
    damaged(kind, last, tmp_path)
    with pytest.raises(DataError, match=r"delete it to start anew") as caught:
        train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    assert str(caught.value).startswith(f"{last}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_slurm_starts_a_job_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Make) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert not signals.requeue()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert signals.requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert signals.requeue()
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 17", "requeue 16_3"]
    monkeypatch.setenv("SLURM_JOB_ID", "17; rm -rf ~")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert not signals.requeue()

    folder = RunFolder(tmp_path / "run")
    folder.start(tiny_config())
    with pytest.raises(ConfigError, match="resume=true"):
        folder.check(tiny_config())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # a job that was begun before goes on, asked or not
    folder.check(tiny_config())


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_signals_from_outside_save_and_end_with_their_code(
    tiny_overrides: list[str], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
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
            while not (folder / "history.csv").is_file() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signum)
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == code, errors
    *_, waiting, last = errors.splitlines()
    assert waiting == f"{signum.name}: stopping after this step; once more to stop at once"
    assert last.startswith(f"error: interrupted by {signum.name}")
    assert json.loads((folder / "result.json").read_text())["status"] == "interrupted"
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    rows = read_history(folder / "history.csv")
    assert saved["global_step"] >= 3 * len(rows) > 0  # where it was stopped, not half a minute before
    assert "Interrupted" in (folder / "train.log").read_text()
    assert (tmp_path / "asked").exists() == (signum == signal.SIGUSR1)


def test_a_folder_belongs_to_one_process(tiny_config: Make, tmp_path: Path, run_script: Callable[..., Any]) -> None:
    folder = tmp_path / "work/run"
    claim(folder)
    try:
        claim(folder)  # this process has it
        for options in ([], ["resume=true"]):
            done = run_script("train.py", "data=synthetic", "hydra.run.dir=run", "data.root=faces", *options)
            assert done.returncode == 2
            assert done.stderr == (
                "error: run is in use by another process; wait until that has ended, or give another output folder\n"
            )
        assert sorted(path.name for path in folder.iterdir()) == [".lock"]
        done = run_script("train.py", "-m", "data=synthetic", "hydra.sweep.dir=run", "data.root=faces", "seed=0,1")
        assert done.returncode == 2
        assert "run is in use by another process" in done.stderr
    finally:
        release(folder)
    claim(folder)
    release(folder)


def test_a_loss_that_is_no_number_ends_training_and_keeps_the_weights_from_before(
    tiny_config: Make, tmp_path: Path
) -> None:
    options = {"batch_size": 4, "max_epochs": 3, "optimizer": {"name": "sgd"}, "learning_rate": 1e30, "model": RESNET}
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(
        TrainingError, match=r"loss is (nan|inf) at step \d+ \(epoch 1\) with a learning rate of 1e\+30"
    ):
        train(tiny_config(**options, checkpoint={"every": 1}), folder)
    saved = torch.load(folder.last, weights_only=True)
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


# --- killed from outside ----------------------------------------------------------------------------------


def command_of(kind: str, overrides: list[str]) -> list[str]:
    options = {
        "koch, listed pairs": ["model.dropout=0.2"],
        "koch, pairs by names": [
            "protocol.setting=unrestricted", "augmentation=face", "ema_decay=0.9", "data.split=people",
        ],
        "resnet, groups by names": [
            "model=resnet", "~model.batchnorm", "model.widths=[4,8]", "model.blocks=[1,1]", "objective=ntxent",
            "protocol.setting=unrestricted", "augmentation=face", "backend=plda", "ema_decay=0.9",
        ],
        "resnet, groups of listed pairs": [
            "model=resnet", "~model.batchnorm", "model.widths=[4,8]", "model.blocks=[1,1]", "objective=ntxent",
            "objective.views=2", "objective.pair_weight=1", "augmentation=face", "scheduler=cosine", "monitor=val/auc",
        ],
    }[kind]  # fmt: skip
    kept = [word for word in overrides if not (kind.startswith("resnet") and word.startswith("model."))]
    options = [word for word in options if word != "~model.batchnorm"]
    return [
        sys.executable, str(ROOT / "train.py"), *kept, *options, "batch_size=4", "max_epochs=150", "patience=150",
        "checkpoint.every=7", "resume=true",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(
    tiny_overrides: list[str], tmp_path: Path, kind: str
) -> None:
    """SIGKILL, six times, anywhere between the first step and the end."""
    rng = random.Random(kind)
    command = command_of(kind, tiny_overrides)

    def start(folder: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, f"hydra.run.dir={folder}"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def seconds_of_training() -> float:
        return sum(row["seconds"] for row in read_history(tmp_path / "whole/history.csv"))

    assert start("whole").wait(timeout=300) == 0
    kills = 0
    while kills < 6:
        before = (tmp_path / "cut/result.json").stat().st_mtime_ns if kills else 0
        process = start("cut")
        while process.poll() is None and not (
            (tmp_path / "cut/result.json").is_file() and (tmp_path / "cut/result.json").stat().st_mtime_ns > before
        ):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 2 + 0.12 * seconds_of_training()))
        if process.poll() is not None:
            break  # done before it could be killed
        process.kill()
        process.wait()
        kills += 1
    assert kills >= 5
    assert start("cut").wait(timeout=300) == 0
    assert_equal(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.parametrize("whom", ["the sweep alone", "the sweep and its jobs"])
def test_a_sweep_killed_at_random_moments_does_each_job_once(
    tiny_overrides: list[str], tmp_path: Path, launcher: str, whom: str
) -> None:
    """Twelve jobs, five times SIGKILL; under joblib they have processes of their own, which may outlive the sweep."""
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the launcher is an extra")
    rng = random.Random(launcher + whom)
    kept = [word for word in tiny_overrides if not word.startswith(("batch_size", "max_epochs"))]
    command = [
        sys.executable, str(ROOT / "train.py"), "-m", *kept, "batch_size=4,8", "seed=0,1,2", "model.dropout=0,0.2",
        "max_epochs=5", "checkpoint.every=5", "resume=true", f"hydra/launcher={launcher}",
        *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []),
    ]  # fmt: skip

    def start(folder: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{folder}.txt").open("ab") as told:
            return subprocess.Popen(
                [*command, f"hydra.sweep.dir={folder}"], cwd=tmp_path, stdout=told, stderr=told,
                start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def done(folder: str) -> dict[str, int]:
        """The finished jobs, and when their predictions were written."""
        found = {}
        for file in (tmp_path / folder).glob("*/result.json"):
            if json.loads(file.read_text())["status"] == "done":
                found[file.parent.name] = (file.parent / "predictions.csv").stat().st_mtime_ns
        return found

    began = time.monotonic()
    assert start("whole").wait(timeout=900) == 0, (tmp_path / "whole.txt").read_text()[-2000:]
    length = time.monotonic() - began
    finished: dict[str, int] = {}
    for _ in range(5):
        process = start("cut")
        time.sleep(rng.uniform(0.03, 0.18) * length)
        assert process.poll() is None, "it was done before it could be killed"
        if whom == "the sweep alone":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = done("cut")
        assert finished.items() <= now.items()  # what was done stayed as it was
        finished = now
    last = start("cut")
    assert last.wait(timeout=900) == 0, (tmp_path / "cut.txt").read_text()[-2000:]
    assert finished.items() <= done("cut").items()
    assert len(done("cut")) == 12
    for job in range(12):
        assert_equal(tmp_path / "cut" / str(job), tmp_path / "whole" / str(job))
