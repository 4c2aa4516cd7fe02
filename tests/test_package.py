"""The installed package: the command ``siamese`` with its configuration, outside a clone, and what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_every_package_and_the_configuration_are_packed() -> None:
    """pyproject.toml lists them one by one, because in a clone the configuration lies outside the package."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "siamese").rglob("__init__.py")}
    assert set(setup["packages"]) == found | {"siamese.conf"}
    assert (ROOT / setup["package-dir"]["siamese.conf"] / "train.yaml").is_file()
    packed = setup["package-data"]
    others = {file.suffix for file in (ROOT / "siamese/report").iterdir() if file.suffix not in (".py", "")}
    assert {f"*{suffix}" for suffix in others} == set(packed["siamese.report"])


@pytest.mark.integration
def test_importing_the_package_and_asking_for_help_loads_no_torch() -> None:
    code = "import sys, siamese.command.main as m; m.build_parsers()[0].format_help(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.integration
def test_the_verifier_loads_no_lightning_no_plots_and_no_pages() -> None:
    code = "import sys; from siamese import Verifier; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"lightning", "tensorboard", "matplotlib", "jinja2", "hydra", "omegaconf", "siamese.report"}


@pytest.mark.slow
@pytest.mark.integration
def test_the_commands_of_hydra_are_those_of_the_scripts(tiny_overrides: list[str], tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "siamese", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/bin"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    done = call("train", *tiny_overrides, "max_epochs=1", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["status"] == "done"
    assert call("eval", "run=run", "hydra.run.dir=eval").returncode == 0
    again = json.loads((tmp_path / "eval/result.json").read_text())
    assert again["test/loss"] == result["test/loss"]
    wrong = call("train", "max_epoch=3")
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown key 'max_epoch'; did you mean max_epochs?\n")


@pytest.mark.slow
def test_a_wheel_has_all_it_needs(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel is built, installed into a new environment that shares our packages, and used in an empty folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it would hide the installed package
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [*pip, "--python", str(tmp_path / "venv/bin/python"), "install", "--quiet", "--no-deps", str(wheel)], check=True
    )
    work = tmp_path / "work"
    work.mkdir()

    def call(*arguments: str) -> str:
        command = [str(tmp_path / "venv/bin/siamese"), *arguments]
        return subprocess.run(command, cwd=work, capture_output=True, text=True, check=True).stdout

    small = ["model=resnet", "model.widths=[4,8]", "model.blocks=[1,1]", "data.image_size=32", "max_epochs=1"]
    call("train", "data=folder", f"data.root={tiny_root / 'lfw'}", *small, "hydra.run.dir=run")
    assert json.loads((work / "run/result.json").read_text())["status"] == "done"
    first, second = sorted((tiny_root / "lfw").rglob("*.jpg"))[:2]
    assert "probability" in json.loads(call("verify", "run", str(first), str(second)))
    assert "experiment" in call("train", "--help")
