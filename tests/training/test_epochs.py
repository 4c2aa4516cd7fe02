from __future__ import annotations

import pytest

from siamese.training.epochs import best_epoch, epoch_line, mode_of, time_left


def rows(*losses: float, seconds: float = 10.0) -> list[dict[str, float]]:
    return [
        {
            "epoch": i,
            "train/loss": 0.7,
            "val/loss": loss,
            "val/acc": 0.5,
            "val/auc": 0.5,
            "lr": 1e-4,
            "seconds": seconds,
        }
        for i, loss in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(("monitor", "best"), [("val/loss", 2), ("val/auc", 1)])
def test_the_first_of_the_best_epochs(monitor: str, best: int) -> None:
    rows = [
        {"epoch": epoch, "val/loss": loss, "val/auc": auc}
        for epoch, loss, auc in ((1, 0.7, 0.9), (2, 0.5, 0.8), (3, 0.5, 0.9))
    ]
    assert best_epoch(rows, monitor) == best
    assert mode_of(monitor) == ("min" if monitor == "val/loss" else "max")


def test_line_of_an_epoch_fits_into_80_columns():
    line = epoch_line(rows(0.7, 0.6934567), 20, "val/loss")
    assert line == "epoch 2/20  train/loss 0.700  val/loss 0.693  val/acc 0.500  10.0 s  best"
    assert "best" not in epoch_line(rows(0.6, 0.7), 20, "val/loss")


@pytest.mark.parametrize(
    ("history", "max_epochs", "patience", "expected"),
    [
        (rows(0.7), 20, 5, "6 to 20, in about 50.0 s to 3 min 10 s"),
        (rows(0.7, 0.8, 0.9), 20, 5, "6 to 20, in about 30.0 s to 2 min 50 s"),
        (rows(0.7), 6, 5, "6, in about 50.0 s"),
        (rows(0.7), 6, 50, "6, in about 50.0 s"),
        (rows(0.7), 1, 5, ""),
        (rows(0.7, 0.8), 20, 1, ""),
    ],
)
def test_time_left_takes_early_stopping_into_account(history, max_epochs, patience, expected):
    assert time_left(history, max_epochs, patience, "val/loss").removeprefix("training ends after epoch ") == expected
