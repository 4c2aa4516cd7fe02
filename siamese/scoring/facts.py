"""What is known about a run before it starts."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import siamese
from siamese.config.schema import TrainConfig
from siamese.data.sources import has_outside_data, image_root, title
from siamese.runs.finished import FinishedRun
from siamese.scoring.device import device_name
from siamese.scoring.precision import Arithmetic


def describe_run(
    config: TrainConfig, device: torch.device, arithmetic: Arithmetic, start: FinishedRun | None = None
) -> dict[str, Any]:
    """Collect the facts for ``result.json`` that are known before a run starts, with the run ``start_from`` if any."""
    root = str(image_root(config.data).resolve())
    outside = has_outside_data(config.data) or getattr(config.model, "weights", None) is not None
    learned, setting = {}, config.protocol.setting
    if start is not None:
        setting = "unrestricted" if start.result.setting == "unrestricted" else setting
        outside = outside or start.result.outside_data is not False or start.result.image_root != root
        if config.max_epochs == 0:
            learned = {"trained_on": start.result.trained_on or start.result.dataset}
    return {
        "name": config.name,
        "dataset": title(config.data),
        "protocol": config.protocol.name,
        "setting": setting,
        "outside_data": outside,
        "image_root": root,
        **learned,
        "seed": config.seed,
        **arithmetic._asdict(),
        "device": device_name(device),
        "version/siamese": siamese.__version__,
        "version/python": sys.version.split()[0],
        **{f"version/{package}": version(package) for package in ("torch", "lightning", "numpy", "pillow")},
        **git_state(),
    }


def git_state() -> dict[str, Any]:
    """The commit of the source tree and whether it has uncommitted changes; nothing outside a clone."""
    clone = Path(__file__).resolve().parents[2]
    if not (clone / ".git").exists():  # installed, perhaps inside somebody else's clone
        return {}
    git = ["git", "-C", str(clone)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit.strip(), "git_dirty": bool(changes.strip())}
