"""Parallel jobs: a sweep with a failing job gives the same results under every launcher."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]

LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}  # fmt: skip


def rows_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "results.csv").open(newline="") as lines:
        return [{k: v for k, v in row.items() if k != "train_seconds"} for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def basic() -> dict[str, list[dict[str, str]]]:
    """The rows under Hydra's own launcher, computed by the first test of this process."""
    return {}


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
