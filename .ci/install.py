"""Install packages into the environment of the Python that runs this script. `make env` calls it.

On Linux, the ordinary wheels of PyTorch include CUDA, which needs an NVIDIA GPU. On a machine without one, uv installs
PyTorch's CPU wheels. In all other cases pip installs the ordinary wheels, with the settings of the user's pip.

    .venv/bin/python .ci/install.py [--torch auto|cpu|cuda] --editable '.[dev]' [other arguments of pip install]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import time

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
# Not auto: with some Intel and AMD graphics, that chooses builds which are as large and which nobody has tested here.
UV = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, "--torch-backend", "cpu"]
# Sizes with '.[dev]', for Python 3.11 on x86_64 in November 2026.
CPU = "installing PyTorch for the CPU; download: about 0.4 GB, disk space: about 1.5 GB"
CUDA = "installing PyTorch with CUDA; download: about 3 GB, disk space: about 6 GB"
CHECK = "import torch, torchvision as tv; print(f'installed: torch {torch.__version__}, torchvision {tv.__version__}')"


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def installed(package: str) -> str:
    """The installed version of a package, or an empty string."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def call(command: list[str], **defaults: str) -> bool:
    """Run a command and return whether it succeeded; ``defaults`` are for environment variables that are not set."""
    return subprocess.run(command, env=defaults | os.environ, check=False).returncode == 0


def install(torch: str, arguments: list[str]) -> int:
    """Install with uv or pip, check that torch and torchvision fit together, and return the exit code."""
    start = time.monotonic()
    linux, present = platform.system() == "Linux", installed("torch")
    cpu = torch == "cpu" or (torch == "auto" and linux and ("+cpu" in present if present else not has_nvidia_gpu()))
    if present:
        arguments = ["--quiet", *arguments]

    def say(text: str) -> None:
        if not present:  # otherwise nothing large is downloaded
            print(text, flush=True)

    if cpu:
        reason = "no NVIDIA GPU found: " if torch == "auto" else ""
        say(f"{reason}{CPU} (with CUDA instead: rm -rf .venv; make env TORCH=cuda)")
        # The timeout is short, because the ordinary wheels work too if PyTorch's index cannot be reached.
        cpu = call([*PIP, "--quiet", "uv>=0.8,<1"]) and call([*UV, *arguments], UV_HTTP_CONNECT_TIMEOUT="5")
        if not cpu:
            print("warning: PyTorch for the CPU cannot be installed, for the reason above", flush=True)
    if not cpu:
        say(CUDA if linux else "installing PyTorch")
        if not call([*PIP, *arguments]):
            return 1

    if not call([sys.executable, "-c", CHECK]):
        remedy = "rm -rf .venv; make env TORCH=cuda" if cpu else "rm -rf .venv; make env"
        print(f"error: torch and torchvision do not work together; run: {remedy}", file=sys.stderr)
        return 1
    say(f"installation time: {time.monotonic() - start:.0f} s")
    say(f"to activate the environment: source {os.path.relpath(sys.prefix)}/bin/activate")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Install packages, with PyTorch for the CPU if there is no GPU.")
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto", help="build of PyTorch")
    known, others = parser.parse_known_args()
    try:
        sys.exit(install(known.torch, others))
    except KeyboardInterrupt:
        sys.exit(130)
