"""Callbacks without a trainer; with one, see test_resume.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese.training.callbacks import History, best_epoch, mode_of


def test_the_state_of_a_history_is_plain(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", "val/loss")
    state = {"rows": [{"epoch": 1.0, "val/loss": 2.0}], "seconds": 0.0}
    history.load_state_dict(state)
    assert history.state_dict() == state


@pytest.mark.parametrize(("monitor", "best"), [("val/loss", 2), ("val/auc", 1)])
def test_the_first_of_the_best_epochs(monitor: str, best: int) -> None:
    rows = [
        {"epoch": epoch, "val/loss": loss, "val/auc": auc}
        for epoch, loss, auc in ((1, 0.7, 0.9), (2, 0.5, 0.8), (3, 0.5, 0.9))
    ]
    assert best_epoch(rows, monitor) == best
    assert mode_of(monitor) == ("min" if monitor == "val/loss" else "max")
