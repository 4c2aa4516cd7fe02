"""Jobs of a real SLURM with three nodes on this machine: stopped, queued again, cancelled, and on two nodes."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from resuming import assert_close, assert_equal
from slurm_cluster import NODES, Cluster, wait_until, why_not

from siamese.runs.tables import read_history

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.skipif(bool(why_not()), reason=why_not())]

EPOCHS = 40
"""Of 3 steps: over a minute at the pace of `SLOW`, so that a run is not done before it is stopped."""

SLOW = f"""\
import os, runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
from siamese.training.callbacks import StepSeed

def sleep_first(*arguments, seeds=StepSeed.on_train_batch_start):
    time.sleep(0.6)
    seeds(*arguments)

if os.environ.get("SLURM_RESTART_COUNT", "0") == "0":  # not in a job that was queued again
    StepSeed.on_train_batch_start = sleep_first
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as cluster:
        yield cluster


@pytest.fixture
def overrides(tiny_overrides: list[str]) -> list[str]:
    return [*tiny_overrides, f"max_epochs={EPOCHS}", f"patience={EPOCHS}", "checkpoint.every=2"]


@pytest.fixture
def two_nodes(overrides: list[str]) -> list[str]:
    """A run of two nodes without batch normalization, which uses the statistics of each process's share."""
    ddp = ["trainer=ddp", "trainer.devices=1", "trainer.nodes=2", "trainer.accelerator=cpu"]
    kept = [word for word in overrides if not word.startswith(("model.batchnorm", "trainer"))]
    return [*kept, "model.batchnorm=false", "optimizer=sgd", "learning_rate=0.1", *ddp]


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A script like train.py that sleeps before each step, unless SLURM starts its job for the second time."""
    (tmp_path / "slow.py").write_text(SLOW)
    return str(tmp_path / "slow.py")


def command(script: str, *words: str) -> str:
    return shlex.join([sys.executable, script, *words])


def train(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Train without SLURM."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], cwd=folder, env=environment, stdout=output, stderr=output
        )


def status_of(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["status"])


def has_trained(run: Path, epochs: int = 3) -> Callable[[], bool]:
    return lambda: (run / "history.csv").is_file() and len(read_history(run / "history.csv")) >= epochs


def test_a_run_at_its_time_limit_is_queued_again_and_ends_as_an_undisturbed_one(
    cluster: Cluster, overrides: list[str], slow: str, tmp_path: Path
) -> None:
    words = [*overrides, "hydra.run.dir=cut"]
    options = ("--requeue", "--signal=USR1@1", "--time=1")  # SLURM looks at time limits every 30 seconds
    job = cluster.submit(tmp_path, "cut", f"srun {command(slow, *words)}", *options)
    with train(tmp_path, *overrides, "hydra.run.dir=whole") as whole:
        cluster.wait_for(job, "PENDING", Reason="BeginTime", Restarts="1")
    assert whole.returncode == 0
    assert status_of(tmp_path / "cut") == "interrupted"
    assert 0 < len(read_history(tmp_path / "cut/history.csv")) < EPOCHS
    cluster.start_now(job)
    cluster.wait_for(job, "COMPLETED")
    assert_equal(tmp_path / "cut", tmp_path / "whole")
    output = (tmp_path / "cut.txt").read_text()
    assert "error: interrupted by SIGUSR1; asking SLURM to queue this job again" in output
    assert "Traceback" not in output
    assert "Exception ignored" not in output


def test_a_cancelled_run_can_be_resumed(cluster: Cluster, overrides: list[str], slow: str, tmp_path: Path) -> None:
    words = [*overrides, "hydra.run.dir=cut"]
    job = cluster.submit(tmp_path, "cut", f"srun {command(slow, *words)}")
    wait_until(has_trained(tmp_path / "cut"), 120, "it does not train")
    cluster.ask("scancel", job)
    cluster.wait_for(job, "CANCELLED")
    assert status_of(tmp_path / "cut") == "interrupted"
    torch.load(tmp_path / "cut/checkpoints/last.ckpt", weights_only=True)
    before = read_history(tmp_path / "cut/history.csv")
    assert train(tmp_path, *words, "resume=true").wait(120) == 0
    assert status_of(tmp_path / "cut") == "done"
    after = read_history(tmp_path / "cut/history.csv")
    assert len(before) < len(after) == EPOCHS
    assert after[: len(before)] == before


def test_a_node_that_goes_down_is_replaced_and_two_nodes_give_the_results_of_one_process(
    cluster: Cluster, two_nodes: list[str], slow: str, tmp_path: Path
) -> None:
    options = ("--requeue", "--nodes=2", "--ntasks-per-node=1")
    run = tmp_path / "cut"
    words = [*two_nodes, "hydra.run.dir=cut"]
    job = cluster.submit(tmp_path, "cut", f"srun --kill-on-bad-exit=1 {command(slow, *words)}", *options)
    wait_until(has_trained(run), 120, "it does not train")
    assert cluster.job(job)["NodeList"] == "127.0.0.[2-3]"
    cluster.kill_node(NODES[1])
    cluster.wait_for(job, "PENDING", Reason="BeginTime", Restarts="1")
    assert status_of(run) == "failed"
    assert 0 < len(read_history(run / "history.csv")) < EPOCHS
    assert "error: lost the connection to another process of this run" in (tmp_path / "cut.txt").read_text()
    cluster.start_now(job)
    assert cluster.wait_for(job, "COMPLETED")["NodeList"] == "127.0.0.[2,4]"
    assert train(tmp_path, *two_nodes, "trainer.nodes=1", "hydra.run.dir=one").wait(120) == 0
    assert_close(tmp_path / "one", run)


def test_a_sweep_through_submitit_with_jobs_on_two_nodes(
    cluster: Cluster, two_nodes: list[str], tmp_path: Path
) -> None:
    """A job that fails does not stop the other."""
    words = [word for word in two_nodes if not word.startswith(("batch_size", "max_epochs", "patience"))]
    sweep = [
        "-m", *words, "max_epochs=1", "batch_size=1,8", "hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2",
        "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *sweep], cwd=tmp_path, capture_output=True, text=True, timeout=200,
        env=cluster.environment | {"SUBMITIT_LOG_LEVEL": "ERROR"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: job 0 failed: batch_size=1 is too small for 2 processes")
    assert "submitit WARNING" not in done.stderr
    with (tmp_path / "sweep/results.csv").open(newline="") as rows:
        assert [row["status"] for row in csv.DictReader(rows)] == ["failed", "done"]
