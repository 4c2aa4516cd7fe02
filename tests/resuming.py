"""What tests of resumed runs share: configurations, stopping a run, and comparing two finished runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, without_times

from siamese.runs.signals import Interrupted
from siamese.runs.tables import read_history

KOCH = {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True, "dropout": 0.2}
RESNET = {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 16, "dropout": 0.2}
UNRESTRICTED = {"name": "view1", "setting": "unrestricted"}
FACE = {"flip": True, "rotation": 5.0, "erase": 0.5}

KINDS: dict[str, dict[str, Any]] = {
    "koch, listed pairs": {"model": KOCH},
    "koch, pairs by names": {"model": KOCH, "protocol": UNRESTRICTED, "augmentation": FACE, "ema_decay": 0.9},
    "resnet, groups by names": {
        "model": RESNET, "protocol": UNRESTRICTED, "objective": {"name": "ntxent"}, "augmentation": FACE,
        "ema_decay": 0.9, "backend": {"name": "plda"}, "optimizer": {"name": "muon"},
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


def assert_close(one: Path, two: Path, scored: bool = True) -> None:
    """Compare finished runs of one process and of two, whose sums are rounded differently.

    Args:
        one: folder of the run of one process.
        two: that of two processes.
        scored: also compare what depends on a calibration fitted to the scores.
    """
    results = [json.loads((run / "result.json").read_text()) for run in (one, two)]
    for key in ("val/loss", "val/auc", "test/loss", "test/auc", "threshold") if scored else ():
        assert results[1][key] == pytest.approx(results[0][key], rel=2e-3), key
    for key in ("n_val", "n_test", "epochs", *(["best_epoch"] if scored else [])):
        assert results[1][key] == results[0][key], key
    for first, second in zip(*(read_history(run / "history.csv") for run in (one, two)), strict=True):
        assert second["train/loss"] == pytest.approx(first["train/loss"], rel=2e-3)
        assert second["val/loss"] == pytest.approx(first["val/loss"], rel=2e-3 if scored else 2e-2)
    weights = [torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=2e-2, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")
    lines = [(run / "predictions.csv").read_text().splitlines() for run in (one, two)]
    assert len(lines[0]) == len(lines[1])
