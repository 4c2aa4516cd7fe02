"""Two processes that train one network: what one process gives, and how it ends when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.runs.records import read_history

Run = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., TrainConfig]

KINDS = {
    "listed pairs": [],
    "pairs by names, augmented": ["protocol.setting=unrestricted", "augmentation=face", "ema_decay=0.9"],
    "groups of listed pairs": [
        "objective=ntxent", "objective.views=2", "objective.pair_weight=1", "augmentation=face", "threshold=accuracy",
    ],
    "classes by names": [
        "objective=arcface", "protocol.setting=unrestricted", "augmentation=face", "threshold=accuracy",
        "learning_rate=0.01",
    ],
    "groups by names": [
        "objective=ntxent", "protocol.setting=unrestricted", "augmentation=face", "backend=plda", "threshold=accuracy",
    ],
}  # fmt: skip


@pytest.fixture
def plain(tiny_overrides: list[str]) -> list[str]:
    """A run without what differs among processes: batch normalization and dropout."""
    kept = [word for word in tiny_overrides if not word.startswith(("model.batchnorm", "trainer"))]
    return [*kept, "model.batchnorm=false", "trainer.accelerator=cpu", "optimizer=sgd", "learning_rate=0.1"]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_what_one_gives(run_script: Run, plain: list[str], tmp_path: Path, kind: str) -> None:
    for trainer, folder in (("auto", "one"), ("ddp", "two")):
        done = run_script(
            "train.py", *plain, *KINDS[kind], f"trainer={trainer}", f"hydra.run.dir={folder}", OMP_NUM_THREADS="1"
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    one, two = (tmp_path / "work" / name for name in ("one", "two"))
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    # (Embeddings of arcface hardly differ yet, and calibration makes much of little.)
    scored = kind != "classes by names"
    for key in ("train/loss", "val/loss", "val/auc", "test/loss", "test/auc", "threshold"):
        if key in results[0] and scored:
            assert results[1][key] == pytest.approx(results[0][key], rel=2e-3), key
    for key in ("n_val", "n_test", "epochs", *(["best_epoch"] if scored else [])):
        assert results[1][key] == results[0][key], key
    rows = [read_history(run / "history.csv") for run in (one, two)]
    for first, second in zip(*rows, strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=2e-3)
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=2e-3 if scored else 2e-2)
    weights = [torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=2e-2, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    lines = [(run / "predictions.csv").read_text().splitlines() for run in (one, two)]
    assert len(lines[0]) == len(lines[1])
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert len((two / "train.log").read_text().splitlines()) == len((one / "train.log").read_text().splitlines())


def test_jobs_of_a_sweep_may_have_several_processes(run_script: Run, plain: list[str], tmp_path: Path) -> None:
    done = run_script(
        "train.py", "-m", *plain, "trainer=ddp", "seed=0,1", "max_epochs=1", "hydra.sweep.dir=sweep",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"work/sweep/{job}/result.json").read_text()) for job in (0, 1)]
    assert [result["status"] for result in results] == ["done", "done"]


def test_a_job_that_diverges_does_not_harm_the_next(run_script: Run, plain: list[str], tmp_path: Path) -> None:
    kept = [word for word in plain if not word.startswith("learning_rate")]
    done = run_script(
        "train.py", "-m", *kept, "trainer=ddp", "learning_rate=1e30,0.1", "max_epochs=2", "hydra.sweep.dir=sweep",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "the training loss is" in done.stderr.splitlines()[-1]
    results = [json.loads((tmp_path / f"work/sweep/{job}/result.json").read_text()) for job in (0, 1)]
    assert [result["status"] for result in results] == ["failed", "done"]


def test_a_damaged_checkpoint_is_told_as_by_one_process(run_script: Run, plain: list[str], tmp_path: Path) -> None:
    with started(plain, tmp_path / "work/run") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    (tmp_path / "work/run/checkpoints/last.ckpt").write_bytes(b"")
    done = run_script(
        "train.py", *plain, "trainer=ddp", "max_epochs=100000", "patience=100000", "hydra.run.dir=run", "resume=true"
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "delete it to start anew" in done.stderr


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the other process by /proc")
def test_a_killed_process_ends_the_others_with_a_clear_line(plain: list[str], tmp_path: Path) -> None:
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
        "error: process 1 of 2 ended with code -9; what was saved goes on with resume=true"
    )
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "failed"
    torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the other process by /proc")
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_others_end_with_the_first(plain: list[str], tmp_path: Path, signum: signal.Signals) -> None:
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


def test_too_small_a_batch(tiny_config: Make) -> None:
    with pytest.raises((ConfigError, ValueError), match=r"batch_size=3: 2 processes take a share each"):
        tiny_config(batch_size=3, trainer={"accelerator": "cpu", "devices": 2})
