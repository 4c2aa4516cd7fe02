"""Run ``train`` and ``eval`` inside the test process, which saves seconds for whatever ends before a job starts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from siamese.command import hydra_app
from siamese.command.main import run_with_hydra


class Ended(NamedTuple):
    """How a command ended."""

    code: object
    out: str
    err: str


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The empty working directory of the commands; the same as that of ``run_script``."""
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def call(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs ``siamese train`` or ``siamese eval`` with overrides, in `work`."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # restored after the test: `run_app` sets it for the process
    monkeypatch.delenv("LFW_ROOT", raising=False)
    monkeypatch.setattr(hydra_app, "catch_signals", lambda: None)
    monkeypatch.setattr(hydra_app.Guard, "has_composed", False)
    monkeypatch.chdir(work)

    def run(command: str, *overrides: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["siamese", command, *overrides])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_with_hydra(command)
        return Ended(ended.value.code, *capsys.readouterr())

    return run
