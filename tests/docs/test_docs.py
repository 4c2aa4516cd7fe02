"""What the documentation tells to type is what works: the tutorial, the changes that add a part, the site."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

DOCS = ROOT / "docs"
PARTS = {"optimizer": "rmsprop", "objective": "hinge", "model": "mlp"}


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def a_copy(folder: Path) -> Path:
    """The code and the configuration, without what is built or kept out of git."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("siamese", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("train.py", "eval.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "LFW_ROOT"} | env
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_changes_that_add_a_part_apply(tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    diffs = blocks("extending.md", "diff")
    assert len(diffs) == len(PARTS)
    for diff in diffs:
        (tmp_path / "change.diff").write_text(diff, encoding="utf-8")
        done = run(["git", "apply", "-C1", "change.diff"], folder)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), PARTS.items())
def test_an_added_part_trains(group: str, option: str, tiny_overrides: list[str], tmp_path: Path) -> None:
    folder = a_copy(tmp_path)
    diff = blocks("extending.md", "diff")[list(PARTS).index(group)]
    (tmp_path / "change.diff").write_text(diff, encoding="utf-8")
    assert run(["git", "apply", "-C1", "change.diff"], folder).returncode == 0
    kept = [word for word in tiny_overrides if not (group == "model" and word.startswith("model."))]
    done = run([sys.executable, "train.py", *kept, f"{group}={option}", "hydra.run.dir=run"], folder)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    """Its commands as they stand, in an empty folder that has the scripts."""
    for name in ("train.py", "eval.py", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin/python").chmod(0o755)
    for block in blocks("tutorial.md", "sh"):
        done = run(
            ["bash", "-euo", "pipefail", "-c", block], tmp_path,
            PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}", PYTHONPATH=str(ROOT),
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
    assert (tmp_path / "multirun/tutorial/report.html").is_file()


def test_the_configuration_reference_has_every_key() -> None:
    pytest.importorskip("mkdocs", reason="an extra")
    sys.path.insert(0, str(DOCS))
    try:
        import hooks
    finally:
        sys.path.remove(str(DOCS))
    text = hooks.reference()
    for key in (
        "`learning_rate`",
        "`checkpoint`",
        "### `koch`",
        "### `adam` `adamw`",
        "`overfit_batches`",
        "### `folder`",
    ):
        assert key in text
    row = next(line for line in text.splitlines() if line.startswith("| `dropout`"))
    assert row == "| `dropout` | `0.0` | number ≥ 0, < 1 |  |"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="an extra")
    done = run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)], ROOT)
    assert done.returncode == 0, done.stderr
    assert "precision" in (tmp_path / "configuration.html").read_text(encoding="utf-8")
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("*.html")]
    assert not any(re.search(r'(src="|<link[^>]+href=")https?://', page) for page in pages)
