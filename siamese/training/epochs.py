"""Functions of the rows of ``history.csv``: the best epoch, a line per epoch for the log, the remaining time."""

from __future__ import annotations

from collections.abc import Sequence

from siamese.runs.tables import HistoryRow
from siamese.text import duration

SHOWN = ("train/loss", "val/loss", "val/acc")
"""Figures in the line of an epoch; ``history.csv`` has all."""


def best_epoch(rows: Sequence[HistoryRow], monitor: str) -> int:
    """Return the first epoch with the best monitored figure, whose weights `ModelCheckpoint` keeps."""
    sign = 1 if mode_of(monitor) == "min" else -1
    return int(min(rows, key=lambda row: sign * row[monitor])["epoch"])


def mode_of(monitor: str) -> str:
    """Return ``min`` if a lower value of the monitor is better, else ``max``."""
    return "min" if monitor.endswith("loss") else "max"


def epoch_line(rows: Sequence[HistoryRow], max_epochs: int, monitor: str) -> str:
    """Describe the last epoch, in about 80 columns: ``epoch 3/20  train/loss 0.331  val/loss 0.446 ...``."""
    row = rows[-1]
    figures = [f"{name} {row[name]:.3f}" for name in SHOWN if name in row]
    best = ["best"] if best_epoch(rows, monitor) == row["epoch"] else []
    return "  ".join([f"epoch {row['epoch']}/{max_epochs}", *figures, duration(row["seconds"]), *best])


def time_left(rows: Sequence[HistoryRow], max_epochs: int, patience: int, monitor: str) -> str:
    """Estimate the remaining training time from the time of the last epoch; return an empty text after the last epoch.

    The estimate is a range: early stopping ends training after ``patience`` epochs without a better ``monitor``.
    """
    epoch, seconds = int(rows[-1]["epoch"]), rows[-1]["seconds"]
    most = max_epochs - epoch
    least = min(most, patience - (epoch - best_epoch(rows, monitor)))
    if least <= 0:
        return ""
    if least == most:
        return f"training ends after epoch {max_epochs}, in about {duration(most * seconds)}"
    return (
        f"training ends after epoch {epoch + least} to {max_epochs}, in about {duration(least * seconds)} to "
        f"{duration(most * seconds)}"
    )
