"""Dependencies: their bounds, the lock file, the same checks everywhere; and that no command opens a socket."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_the_lock_file_and_the_project_agree() -> None:
    """Every direct dependency is locked, to a version within its bounds; no registry is named."""
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index" not in text
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    makefile = (ROOT / "Makefile").read_text()
    (extras,) = re.findall(r"^LOCKED_EXTRAS := (.*)$", makefile, re.MULTILINE)
    assert set(extras.split()) == set(PROJECT["optional-dependencies"]) - {"joblib", "submitit", "ray", "fuzz"}
    groups = [*(extras.split()), "joblib", "submitit"]  # the last two are part of dev
    for line in [
        *PROJECT["dependencies"],
        *(one for group in groups for one in PROJECT["optional-dependencies"][group]),
    ]:
        wanted = Requirement(line)
        if wanted.name == PROJECT["name"]:
            continue
        versions = [one for one in locked if canonicalize_name(one.name) == canonicalize_name(wanted.name)]
        assert versions, f"{wanted.name} is not in requirements.lock; run `make lock`"
        for one in versions:
            (exact,) = one.specifier
            assert exact.operator == "=="
            assert wanted.specifier.contains(exact.version), f"{one} is not within {wanted}; run `make lock`"


def test_pre_commit_checks_what_make_lint_checks() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    lint = {line.replace("$(BIN)/", ".venv/bin/").strip().removesuffix(" .") for line in recipe[1].splitlines()}
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert {entry.removesuffix(" --force-exclude") for entry in entries} == lint


def test_the_workflow_runs_the_targets_of_the_makefile_on_the_supported_versions() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make lint", "make docs", "make test", "make test-next"]
    assert [step["run"] for step in job["steps"] if step.get("continue-on-error")] == ["make test-next"]
    oldest = re.match(r">=(3\.\d+)", PROJECT["requires-python"])
    assert oldest
    assert min(job["strategy"]["matrix"]["python"]) == oldest[1]


NO_NETWORK = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        if event == "socket.bind" and arguments[1][:2] == ("::1", 0):  # urllib3 tests whether IPv6 works
            return
        address = arguments[1] if event.startswith("socket.c") or event.endswith(("sendto", "bind")) else arguments[0]
        with open({log!r}, "a") as log:
            log.write(f"{event} {address} {sys.argv}\\n")
        raise OSError(f"no network here: {event} {address}")

sys.addaudithook(refuse)
"""


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """Environment variables under which any use of a socket fails and is written to the file ``sockets``."""
    folder = tmp_path / "offline"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_NETWORK.replace("{log!r}", repr(str(tmp_path / "sockets"))))
    return {"PYTHONPATH": str(folder)}


@pytest.mark.integration
def test_the_watch_sees_a_download(run_script: Run, offline: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "work/data/lfw").mkdir(parents=True)
    done = run_script("train.py", "data=lfw", SIAMESE_LFW_URL="http://127.0.0.1:9/", timeout=100, **offline)
    assert done.returncode == 2
    assert "127.0.0.1" in (tmp_path / "sockets").read_text()


@pytest.mark.integration
def test_training_scoring_and_sweeping_open_no_socket(
    run_script: Run, tiny_overrides: list[str], offline: dict[str, str], tmp_path: Path
) -> None:
    for script, *arguments in (
        ["train.py", "-m", *tiny_overrides, "seed=0,1", "max_epochs=1", "hydra.sweep.dir=sweep"],
        ["eval.py", "run=sweep/0", "protocol=oneshot", "protocol.ways=[2]", "protocol.trials=5", "hydra.run.dir=ways"],
    ):
        done = run_script(script, *arguments, **offline)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sockets").exists(), (tmp_path / "sockets").read_text()
