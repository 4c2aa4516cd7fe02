"""Runs and sweeps killed with SIGKILL at random moments end like undisturbed ones."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from resuming import KINDS, assert_equal

from siamese.runs.tables import read_history

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(
    tiny_overrides: list[str], tmp_path: Path, kind: str
) -> None:
    """Killed six times, anywhere between the first step and the end."""
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


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.parametrize("whom", ["the sweep alone", "the sweep and its jobs"])
def test_a_sweep_killed_at_random_moments_does_each_job_once(
    tiny_overrides: list[str], tmp_path: Path, launcher: str, whom: str
) -> None:
    """Twelve jobs, killed five times; joblib's processes may outlive the sweep."""
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
        with (tmp_path / f"{folder}.txt").open("ab") as output:
            return subprocess.Popen(
                [*command, f"hydra.sweep.dir={folder}"], cwd=tmp_path, stdout=output, stderr=output,
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
