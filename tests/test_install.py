"""`make env`: which build of PyTorch it installs; and that no text recommends another project's package."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

Install = Callable[..., tuple[int, list[str], str]]

# An installer that records how it is called, and "installs" two modules.
FAKE = """
import os, sys
from pathlib import Path

file, failing = Path(sys.argv[0]), os.environ["FAIL"].split(",")
words = [file.parent.name, *sys.argv[1:]]
with open(file.parents[1] / "calls", "a") as calls:
    print(*words, file=calls)
if words[0] in failing or ("uv>=" in words[-1] and "download of uv" in failing):
    sys.exit(1)
for name in ("torch", "torchvision"):
    code = "raise RuntimeError" if name in failing else "__version__ = '1.2'"
    (file.parents[1] / f"{name}.py").write_text(code)
facts = file.parents[1] / "torch-1.2.dist-info/METADATA"
facts.parent.mkdir(exist_ok=True)
facts.write_text("Name: torch\\nVersion: 1.2" + "+cpu" * (words[0] == "uv"))
"""


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Run .ci/install.py in an empty environment with such installers; returns exit code, calls and output."""
    if platform.system() != "Linux":
        pytest.skip("other systems have no wheels with CUDA")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    for name in ("pip", "uv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(FAKE)
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin/nvidia-smi"  # a machine may have the driver's program, but no GPU
    smi.touch(0o755)
    calls = tmp_path / "calls"

    def call(*options: str, gpu: bool = False, fail: str = "") -> tuple[int, list[str], str]:
        smi.write_text(f"#!/bin/sh\nexit {0 if gpu else 9}\n")
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            [PYTHON, str(ROOT / ".ci/install.py"), *options, "--editable", ".[dev]"],
            env={"PATH": f"bin:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path), "FAIL": fail},
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, calls.read_text().replace(str(tmp_path / PYTHON), PYTHON).splitlines(), done.stdout

    return call


PYTHON = "venv/bin/python"
UV = "pip --disable-pip-version-check install --quiet uv>=0.8,<1"
CPU = f"uv pip install --python {PYTHON} --torch-backend cpu --editable .[dev]"
ORDINARY = "pip --disable-pip-version-check install --editable .[dev]"


@pytest.mark.parametrize(
    ("options", "gpu", "fail", "expected"),
    [
        ([], False, "", [UV, CPU]),
        ([], True, "", [ORDINARY]),
        (["--torch=cpu"], True, "", [UV, CPU]),
        (["--torch=cuda"], False, "", [ORDINARY]),
        ([], False, "uv", [UV, CPU, ORDINARY]),
        ([], False, "download of uv", [UV, ORDINARY]),
    ],
    ids=["no GPU", "GPU", "cpu wanted", "CUDA wanted", "no CPU wheels", "no uv"],
)
def test_the_build_of_pytorch(install: Install, options: list[str], gpu: bool, fail: str, expected: list[str]) -> None:
    code, calls, output = install(*options, gpu=gpu, fail=fail)
    assert (code, calls) == (0, expected)
    assert ("no NVIDIA GPU found" in output) == (not gpu and not options)
    assert ("installing PyTorch for the CPU; download: about 0.4 GB" in output) == (CPU in calls or UV in calls)
    assert ("installing PyTorch with CUDA; download: about 3 GB" in output) == (ORDINARY in calls)
    assert ("warning: PyTorch for the CPU cannot be installed" in output) == bool(fail)
    assert "installed: torch 1.2, torchvision 1.2" in output


def test_an_existing_environment_keeps_its_build(install: Install) -> None:
    """It is updated quietly, and without a second attempt to reach an index that could not be reached."""
    install()
    code, calls, output = install()
    assert (code, calls) == (0, [UV, CPU.replace("--editable", "--quiet --editable")])
    assert output == "installed: torch 1.2, torchvision 1.2\n"
    install("--torch=cuda")
    assert install()[:2] == (0, [ORDINARY.replace("--editable", "--quiet --editable")])


def test_a_failed_installation_ends_with_an_error(install: Install) -> None:
    code, calls, output = install(gpu=True, fail="pip")
    assert (code, calls) == (1, [ORDINARY])
    assert "installed" not in output


def test_torch_and_torchvision_must_fit_together(install: Install) -> None:
    code, _, output = install(fail="torchvision")
    assert code == 1
    assert output.endswith(
        "error: torch and torchvision do not work together; run: rm -rf .venv; make env TORCH=cuda\n"
    )


# The name siamese belongs to another project on the package index.
OTHERS_NAME = re.compile(
    r"""(?:\b(?:pip[\d.]*|uv|pipx|poetry|pdm|conda|mamba)\s+(?:install|add)\b[^\n`;]*?[\s'"=]siamese(?![\w./-])
    | (?<![\w./-])siamese\s*\[\s*[a-z]+(?:\s*,\s*[a-z]+)*\s*\]
    | (?<![\w./-])siamese\s*(?:==|~=|>=|<=|!=|@)\s*[\d'"h])""",
    re.IGNORECASE | re.VERBOSE,
)


@pytest.mark.parametrize(
    "text",
    [
        "pip install siamese",
        "pip3 install -U siamese",
        ".venv/bin/pip install 'siamese[page]'",
        'python -m pip install --quiet "siamese [page]"',
        "uv pip install siamese",
        "uv add siamese",
        "pipx install --python 3.12 siamese",
        "pip install Siamese==0.0.38",
        'dev = ["siamese[joblib,submitit]"]',
        "siamese==0.1.0",
        "siamese >= 0.1",
        "siamese @ https://example.org/siamese.whl",
    ],
)
def test_a_recommendation_of_the_other_package_is_found(text: str) -> None:
    assert OTHERS_NAME.search(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install siamese-verification",
        "pip install 'siamese_verification[page]'",
        "pip install -e '.[page]'",
        "pip install ./siamese",
        "pip install siamese_verification-0.1.0-py3-none-any.whl",
        "`pip install -e '.[page]'` installs what `siamese page` needs",
        "siamese page RUN",
        "packages = ['siamese', 'siamese.command']",
        "Siamese networks are ...",
    ],
)
def test_other_texts_are_not_mistaken_for_one(text: str) -> None:
    assert not OTHERS_NAME.search(text)


def test_no_text_recommends_the_package_of_another_project() -> None:
    folders = ["siamese", "conf", "docs", "tests", "benchmarks", "multirun", ".ci", ".github"]
    files = [file for file in ROOT.iterdir() if file.is_file()]
    files += [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    found = []
    for file in files:
        if file == Path(__file__) or file.suffix in {".png", ".so", ".pyc"}:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if OTHERS_NAME.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line}")
    assert not found
