"""Parallel jobs: a sweep is the same under every launcher, also if a job fails or a worker is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT

from siamese.runs.tables import read_history

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

Run = Callable[..., subprocess.CompletedProcess[str]]

LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}  # fmt: skip

KILLED = {
    "joblib": "error: TerminatedWorkerError: A worker process managed by the executor was unexpectedly terminated.",
    "ray": "1 already holds a run (running); give resume=true to resume it, or another output folder",
    "ray, resume=true": "",
}
"""What a sweep prints after a worker was killed. Ray starts the job a second time."""


def rows_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "results.csv").open(newline="") as lines:
        return [{k: v for k, v in row.items() if k != "train_seconds"} for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def basic() -> dict[str, list[dict[str, str]]]:
    """The rows under Hydra's own launcher, computed by the first test of this process."""
    return {}


@pytest.fixture(scope="module")
def launcher_options() -> Iterator[Callable[[str], list[str]]]:
    """Returns the overrides that choose a launcher; for Ray it starts a cluster of two nodes with a core each."""
    clusters = []

    def options(name: str) -> list[str]:
        pytest.importorskip(LAUNCHERS[name], reason=f"the launcher is an extra: pip install '.[{name[:8]}]'")
        if name != "ray":
            return [f"hydra/launcher={name}", *(["hydra.launcher.n_jobs=2"] if name == "joblib" else [])]
        if not clusters:
            from ray.cluster_utils import Cluster

            clusters.append(Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False}))
            clusters[0].add_node(num_cpus=1)
            clusters[0].wait_for_nodes()
        address = f"hydra.launcher.ray.init.address={clusters[0].address}"
        return ["hydra/launcher=ray", address, "+hydra.launcher.ray.init.object_store_memory=null"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield options
        for cluster in clusters:
            cluster.shutdown()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_is_the_same_under_every_launcher(
    run_script: Run, tiny_overrides: list[str], tmp_path: Path, launcher: str, basic: dict[str, list[dict[str, str]]]
) -> None:
    pytest.importorskip(LAUNCHERS[launcher], reason=f"the launcher is an extra: pip install '.[{launcher[:8]}]'")
    overrides = [word for word in tiny_overrides if not word.startswith(("batch_size", "max_epochs"))]

    def sweep(option: str, *more: str) -> list[dict[str, str]]:
        done = run_script(
            "train.py", "-m", *overrides, "max_epochs=1", "batch_size=0,8", f"hydra/launcher={option}",
            f"hydra.sweep.dir={option}", *more, timeout=300, OMP_NUM_THREADS="1",
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last == "error: job 0 failed: batch_size=0: input should be greater than or equal to 1"
        folder = tmp_path / "work" / option
        assert (folder / "1" / "bs=8").is_dir()  # its name in TensorBoard, although another process ran it
        assert "1 done, 1 failed" in (folder / "report.html").read_text()
        return rows_of(folder)

    rows = sweep(launcher)
    assert [row["status"] for row in rows] == ["failed", "done"]
    if not basic:
        basic["rows"] = sweep("basic")
    assert rows == basic["rows"]
    assert sweep(launcher, "resume=true") == rows


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the worker in /proc")
@pytest.mark.parametrize("case", KILLED)
def test_a_sweep_with_a_killed_worker_ends_as_an_undisturbed_one(
    launcher_options: Callable[[str], list[str]], tiny_overrides: list[str], tmp_path: Path, case: str
) -> None:
    launcher, _, resume = case.partition(", ")
    kept = [word for word in tiny_overrides if not word.startswith("max_epochs")]
    words = ["-m", *kept, "max_epochs=60", "patience=60", "checkpoint.every=5", "seed=0,1,2", "logger=csv"]
    chosen = launcher_options(launcher)

    def start(folder: str, *more: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{folder}.txt").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *words, *more, f"hydra.sweep.dir={tmp_path / folder}"],
                cwd=tmp_path, stdout=output, stderr=output,
            )  # fmt: skip

    def statuses() -> list[str]:
        return [json.loads((tmp_path / "cut" / job / "result.json").read_text())["status"] for job in "012"]

    with start("cut", *chosen, *filter(None, [resume])) as sweep:
        os.kill(worker_of(tmp_path / "cut/1"), signal.SIGKILL)
        code = sweep.wait(timeout=300)
    assert code == (1 if KILLED[case] else 0)
    assert KILLED[case] in (tmp_path / "cut.txt").read_text()
    if launcher == "ray":
        assert statuses() == ["done", "done" if resume else "failed", "done"]
    if not resume:
        assert start("cut", *chosen, "resume=true").wait(timeout=300) == 0
        assert statuses() == ["done"] * 3
    assert start("whole").wait(timeout=300) == 0
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def worker_of(run: Path) -> int:
    """The process that writes to a run folder, once it has trained two epochs."""
    deadline = time.monotonic() + 200
    while not (run / "history.csv").is_file() or len(read_history(run / "history.csv")) < 2:
        assert time.monotonic() < deadline, "it does not train"
        time.sleep(0.05)
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if opened.readlink() == run / "train.log":
                return int(opened.parts[2])
    raise AssertionError("no process has the log open")
