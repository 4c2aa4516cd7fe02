"""A folder belongs to one process, and of several that train together to the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from siamese.errors import ConfigError
from siamese.runs.locks import claim, is_first, is_main, release

IN_USE = "is in use by another process; wait until that process ends, or give another output folder"


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    claim(folder)
    claim(folder)  # this process has it
    release(folder)
    with FileLock(folder / ".lock"), pytest.raises(ConfigError, match=f"{folder} {IN_USE}"):
        claim(folder)
    claim(folder)
    release(folder)
    release(folder)  # already released


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(.+\); give another output folder"):
        claim(tmp_path / "file" / "run")


@pytest.mark.integration
def test_the_commands_respect_the_lock(tmp_path: Path, run_script: Callable[..., Any]) -> None:
    folder = tmp_path / "work/run"
    claim(folder)
    try:
        done = run_script("train.py", "data=synthetic", "hydra.run.dir=run", "data.root=faces", "resume=true")
        assert (done.returncode, done.stderr) == (2, f"error: run {IN_USE}\n")
        assert sorted(path.name for path in folder.iterdir()) == [".lock"]
        done = run_script("train.py", "-m", "data=synthetic", "hydra.sweep.dir=run", "data.root=faces", "seed=0,1")
        assert (done.returncode, done.stderr) == (2, f"error: run {IN_USE}\n")
    finally:
        release(folder)


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"RANK": ""}, True), ({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"SLURM_PROCID": "2"}, False)],
)
def test_which_process_may_write(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool) -> None:
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first() == is_main(2) == first
    assert is_main(1)
