"""What tests of resumed runs share: configurations, stopping a run, and comparing two finished runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import torch
from conftest import read_rows, without_times

from siamese.runs.signals import Interrupted

KOCH = {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True, "dropout": 0.2}
RESNET = {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 16, "dropout": 0.2}
UNRESTRICTED = {"name": "view1", "setting": "unrestricted"}
FACE = {"flip": True, "rotation": 5.0, "erase": 0.5}

KINDS: dict[str, dict[str, Any]] = {
    "koch, listed pairs": {"model": KOCH},
    "koch, pairs by names": {"model": KOCH, "protocol": UNRESTRICTED, "augmentation": FACE, "ema_decay": 0.9},
    "resnet, groups by names": {
        "model": RESNET, "protocol": UNRESTRICTED, "objective": {"name": "ntxent"}, "augmentation": FACE,
        "ema_decay": 0.9, "backend": {"name": "plda"},
    },
    "resnet, groups of listed pairs": {
        "model": RESNET, "objective": {"name": "ntxent", "views": 2, "pair_weight": 1.0}, "augmentation": FACE,
        "scheduler": {"name": "cosine", "warmup_epochs": 1}, "monitor": "val/auc",
    },
}  # fmt: skip
"""Kinds of training that draw or keep different random numbers and states."""


def die() -> None:
    """Stop like a killed process: nothing more is saved."""
    raise Interrupted(signal.SIGKILL)


def assert_equal(one: Path, other: Path) -> None:
    """Compare everything that two finished runs left behind, except times."""
    results = [without_times(json.loads((run / "result.json").read_text())) for run in (one, other)]
    assert results[0] == results[1]
    assert results[0]["status"] == "done"
    for name in ("predictions.csv", "excluded.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    weights = [torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())
    rows = [[without_times(row) for row in read_rows(run / "history.csv")] for run in (one, other)]
    assert rows[0] == rows[1]
