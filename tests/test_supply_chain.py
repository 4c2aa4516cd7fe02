"""What is installed beside us, and that nothing here talks to anybody unasked."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_dependency_has_both_bounds_and_is_within(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert "<" in operators
    assert requirement.specifier.contains(version(requirement.name).partition("+")[0])


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("lightning", ["2.6.2", "2.6.3"]),
        ("torch", ["2.5.1"]),
        ("pillow", ["10.2.0", "11.2.0", "11.2.1"]),
        ("jinja2", ["3.1.5"]),
        ("tqdm", ["4.66.2"]),
    ],
)
def test_known_bad_releases_are_left_out(name: str, bad: list[str]) -> None:
    (requirement,) = (requirement for requirement in REQUIREMENTS if requirement.name == name)
    assert not [release for release in bad if requirement.specifier.contains(release)]


NO_NETWORK = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        if event == "socket.bind" and arguments[1][:2] == ("::1", 0):  # urllib3 asks whether there is IPv6
            return
        address = arguments[1] if event.startswith("socket.c") or event.endswith(("sendto", "bind")) else arguments[0]
        with open({told!r}, "a") as told:
            told.write(f"{event} {address} {sys.argv}\\n")
        raise OSError(f"no network here: {event} {address}")

sys.addaudithook(refuse)
"""


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """An environment in which whatever touches a socket fails and leaves a line in the file ``told``."""
    folder = tmp_path / "offline"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK.replace("{told!r}", repr(str(tmp_path / "told"))))
    return {"PYTHONPATH": str(folder)}


def test_the_watch_watches(run_script: Run, offline: dict[str, str], tmp_path: Path) -> None:
    """A download that is asked for is seen."""
    (tmp_path / "work/data/lfw").mkdir(parents=True)
    done = run_script("train.py", "data=lfw", SIAMESE_LFW_URL="http://127.0.0.1:9/", timeout=100, **offline)
    assert done.returncode == 2
    assert "127.0.0.1" in (tmp_path / "told").read_text()


def test_training_scoring_and_sweeping_open_no_socket(
    run_script: Run, tiny_overrides: list[str], offline: dict[str, str], tmp_path: Path
) -> None:
    for script, *arguments in (
        ["train.py", *tiny_overrides, "hydra.run.dir=run"],
        ["eval.py", "run=run", "hydra.run.dir=eval"],
        ["eval.py", "run=run", "protocol=oneshot", "protocol.ways=[2]", "protocol.trials=5", "hydra.run.dir=oneshot"],
        ["train.py", "-m", *tiny_overrides, "seed=0,1", "max_epochs=1", "hydra.sweep.dir=sweep"],
        ["train.py", "--help"],
    ):
        done = run_script(script, *arguments, **offline)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "told").exists(), (tmp_path / "told").read_text()
