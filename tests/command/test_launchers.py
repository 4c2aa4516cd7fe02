"""Jobs side by side: a sweep gives the same under every launcher, a failing job among them."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

LAUNCHERS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}  # fmt: skip


def rows_of(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "results.csv").open(newline="") as lines:
        return [{k: v for k, v in row.items() if k != "train_seconds"} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_is_the_same_under_every_launcher(
    run_script: Run, tiny_overrides: list[str], tmp_path: Path, launcher: str
) -> None:
    pytest.importorskip(LAUNCHERS[launcher], reason=f"the launcher is an extra: pip install '.[{launcher[:8]}]'")
    overrides = [word for word in tiny_overrides if not word.startswith("batch_size")] + ["batch_size=8,0,4"]
    found = {}
    for option in ("basic", launcher):
        done = run_script(
            "train.py", "-m", *overrides, f"hydra/launcher={option}", f"hydra.sweep.dir={option}", timeout=300,
            OMP_NUM_THREADS="1",
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last == "error: job 1 failed: batch_size=0: input should be greater than or equal to 1"
        sweep = tmp_path / "work" / option
        found[option] = rows_of(sweep)
        assert (sweep / "2" / "batch_size=4").is_dir()  # its name in TensorBoard, though another process ran it
        assert "2 done, 1 failed" in (sweep / "report.html").read_text()
    assert [row["status"] for row in found[launcher]] == ["done", "failed", "done"]
    assert found[launcher] == found["basic"]

    again = run_script(
        "train.py", "-m", *overrides, f"hydra/launcher={launcher}", f"hydra.sweep.dir={launcher}", "resume=true",
        timeout=300, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert again.returncode == 1
    assert rows_of(tmp_path / "work" / launcher) == found["basic"]
