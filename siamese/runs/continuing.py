"""Train a finished run further: which keys may be raised, what is needed, and where its result so far is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.errors import ConfigError
from siamese.files import flatten
from siamese.runs.records import Result
from siamese.text import count

EARLIER = "earlier"
"""Folder, in a run folder, with the result so far while a finished run is trained further."""

RAISED = ("max_epochs", "patience", "trainer.max_time")
"""Keys that say when training ends. They may be raised if a run is resumed; null is no limit."""

RESULT = ("predictions.csv", "groups.csv", "report.html", "*.png", "explanations/*")
"""The files that a run writes after training."""

KEPT = (
    "result.json", "config.yaml", "history.csv", "excluded.csv", "split.csv", "folds.csv", "checkpoints/best.ckpt",
    "checkpoints/backend.ckpt", "checkpoints/domain.npz",
)  # fmt: skip
"""The files of a finished run without which its result cannot be used."""


def raised(run: Path, recorded: TrainConfig, wanted: TrainConfig) -> dict[str, Any]:
    """Return the keys of `RAISED` that differ -> their new value.

    Raises:
        ConfigError: a key would be lowered.
    """
    before, after = flatten(to_plain(recorded)), flatten(to_plain(wanted))
    keys = {key: after[key] for key in RAISED if after[key] != before[key]}
    for key, value in keys.items():
        if before[key] is None or (value is not None and value < before[key]):
            raise ConfigError(
                f"{run} holds a run with {key}={before[key]}, not {value}; resume=true can raise {key}, not lower it"
            )
    return keys


def ended_anyway(result: Result, recorded: TrainConfig, wanted: TrainConfig) -> str:
    """Say why a finished run would train no further although keys of `RAISED` were raised; empty if it would."""
    epochs, best = result.epochs or 0, result.best_epoch or 0
    so_far = f"training ended after {count(epochs, 'epoch')}"
    if epochs - best >= wanted.patience:
        return (
            f"{so_far}, because {recorded.monitor} was best in epoch {best} (patience={recorded.patience}); to train "
            f"further, also give a larger patience, such as patience={2 * wanted.patience}"
        )
    if epochs >= wanted.max_epochs:
        return f"{so_far}, which is max_epochs={wanted.max_epochs}; to train further, give a larger max_epochs"
    limit = recorded.trainer.max_time
    if epochs < recorded.max_epochs and epochs - best < recorded.patience and limit == wanted.trainer.max_time:
        return f"{so_far}, because of trainer.max_time={limit}; to train further, also give a longer trainer.max_time"
    return ""


def set_aside(run: Path, target: Path) -> None:
    """Copy the result of a finished run to ``target``, a run folder of its own, which appears only when complete."""
    temporary = run / f".{target.name}.copying"
    for old in (temporary, target):
        shutil.rmtree(old, ignore_errors=True)
    for file in (file for pattern in KEPT + RESULT for file in run.glob(pattern)):
        copy = temporary / file.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(file, copy)
    temporary.rename(target)


def remove_result(run: Path) -> None:
    """Remove what a run writes after training."""
    for file in (file for pattern in RESULT for file in run.glob(pattern)):
        file.unlink()


def _link_or_copy(file: Path, copy: Path) -> None:
    """Make a hard link, which costs nothing: a run replaces its files and never changes them in place."""
    try:
        os.link(file, copy)
    except OSError:  # a file system without links
        shutil.copy2(file, copy)
