"""Callbacks without a trainer; with one, see test_resume.py."""

from __future__ import annotations

from pathlib import Path

from siamese.training.callbacks import History


def test_the_state_of_a_history_is_plain(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", "val/loss", patience=5)
    state = {"rows": [{"epoch": 1.0, "val/loss": 2.0}], "seconds": 0.0}
    history.load_state_dict(state)
    assert history.state_dict() == state
