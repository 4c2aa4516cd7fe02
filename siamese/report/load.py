"""A run folder as the report sees it: what can be read, and a line for everything that cannot."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

OUTCOMES = ("tp", "fp", "tn", "fn")
HISTORY_COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "val/auc", "lr", "seconds")
"""The columns of ``history.csv``; epochs count from 1, ``lr`` is the one the epoch was trained with."""


Row = TypeVar("Row")


@dataclass(frozen=True)
class Prediction:
    """A row of ``predictions.csv``: a scored pair.

    ``score`` is what the network or its back end gave, a logit where it is of an ensemble or of View 2.
    """

    split: str
    image1: str
    image2: str
    label: int
    score: float
    probability: float
    predicted: int

    @property
    def outcome(self) -> str:
        """tp, fp, tn or fn; "positive" is the answer "same person"."""
        return ("t" if self.predicted == self.label else "f") + ("p" if self.predicted else "n")


@dataclass(frozen=True)
class Run:
    """What is left of a run on disk; every part may be empty.

    Attributes:
        folder: where it lies.
        result: ``result.json``, flat.
        config: ``config.yaml``, nested, and ``config_text``, the file itself.
        history: a mapping an epoch from `HISTORY_COLUMNS` to numbers, nan where there is none.
        predictions: of all splits.
        excluded: (file, reason) of each image that could not be used.
        overrides: the command line's ``key=value`` words, from Hydra's record.
        folds: a mapping a fold of View 2 from the columns of ``folds.csv`` to numbers, nan where there is none.
        problems: one line for each file that is missing or damaged.
    """

    folder: Path
    result: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    history: tuple[Mapping[str, float], ...] = ()
    predictions: tuple[Prediction, ...] = ()
    excluded: tuple[tuple[str, str], ...] = ()
    overrides: tuple[str, ...] = ()
    folds: tuple[Mapping[str, float], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """running, done, failed, interrupted; unknown when nothing is recorded."""
        return str(self.result.get("status", "unknown"))

    @property
    def is_evaluation(self) -> bool:
        """Whether the folder is one of ``eval.py``, which trains nothing."""
        return "run" in self.result

    @property
    def threshold(self) -> float | None:
        """The threshold on the probability: as recorded, else as configured."""
        for value in (self.result.get("threshold"), self.config.get("threshold")):
            if isinstance(value, int | float):
                return float(value)
        return None

    @property
    def command(self) -> str:
        """The command line that made the run, its output folder apart."""
        script = "eval.py" if self.is_evaluation else "train.py"
        return shlex.join(["python", script, *self.overrides])

    def split(self, name: str) -> list[Prediction]:
        """The predictions of ``val`` or ``test``."""
        return [prediction for prediction in self.predictions if prediction.split == name]


def read_run(folder: Path) -> Run:
    """Read a run folder; whatever is missing or damaged is left out and told in ``problems``."""
    problems: list[str] = []
    result = _mapping(folder / "result.json", json.loads, problems)
    config = _mapping(folder / "config.yaml", yaml.safe_load, problems)
    history: list[Mapping[str, float]] = []
    predictions: list[Prediction] = []
    folds: list[Mapping[str, float]] = []
    is_of_folds = result.get("protocol") == "view2" and any(folder.glob("fold_*"))
    if "folds" in result:
        folds = _rows(folder / "folds.csv", lambda row: {k: float(v or "nan") for k, v in row.items()}, problems)
    elif "run" not in result and not is_of_folds:  # an evaluation has no epochs to miss
        history = _rows(folder / "history.csv", _epoch, problems)
    # Until the end of a run there are no predictions, which its status says already.
    is_of_pairs = result.get("protocol") != "oneshot"
    if (result.get("status", "done") == "done" and is_of_pairs) or (folder / "predictions.csv").exists():
        predictions = _rows(folder / "predictions.csv", _prediction, problems)
    excluded: list[tuple[str, str]] = []
    if not is_of_folds:  # each fold has its own
        excluded = _rows(folder / "excluded.csv", lambda row: (row["file"], row["reason"]), problems)
    problems += _contradictions(result, predictions)
    overrides = _overrides(folder / ".hydra" / "overrides.yaml")
    text = _text(folder / "config.yaml", [])
    tables = tuple(history), tuple(predictions), tuple(excluded)
    return Run(folder, result, config, text, *tables, overrides, tuple(folds), tuple(problems))


def read_predictions(folder: Path) -> list[Prediction]:
    """The rows of a run's ``predictions.csv`` that can be read; none when there is no such file."""
    return _rows(folder / "predictions.csv", _prediction, [])


def read_epochs(folder: Path) -> list[Mapping[str, float]]:
    """The rows of a run's ``history.csv`` that can be read; none when there is no such file."""
    return _rows(folder / "history.csv", _epoch, [])


def _text(file: Path, problems: list[str]) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.append(f"{file.name} is missing.")
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {_first_line(error)}.")
    return ""


def _mapping(file: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    text = _text(file, problems)
    if not text.strip():
        return {}
    try:
        content = parse(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read: {_first_line(error)}.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{file.name} holds no keys and values.")
    return {}


def _rows(file: Path, parse: Callable[[dict[str, str]], Row], problems: list[str]) -> list[Row]:
    """The rows that can be parsed; the number of the others is told."""
    text = _text(file, problems)
    rows: list[Row] = []
    damaged = 0
    try:
        for row in csv.DictReader(io.StringIO(text, newline="")):
            try:
                rows.append(parse(row))
            except (KeyError, ValueError, TypeError):
                damaged += 1
    except csv.Error as error:
        problems.append(f"{file.name} cannot be read further: {_first_line(error)}.")
    if damaged:
        problems.append(f"{file.name}: {damaged} damaged {'row' if damaged == 1 else 'rows'} left out.")
    return rows


def _epoch(row: dict[str, str]) -> Mapping[str, float]:
    epoch = {name: float(row.get(name) or "nan") for name in HISTORY_COLUMNS}
    if not 1 <= epoch["epoch"] < math.inf:
        raise ValueError(row)
    return epoch


def _prediction(row: dict[str, str]) -> Prediction:
    flags = int(row["label"]), int(row["predicted"])
    numbers = float(row["score"]), float(row["probability"])
    if not set(flags) <= {0, 1} or not all(map(math.isfinite, numbers)) or None in row.values():
        raise ValueError(row)
    return Prediction(row["split"], row["image1"], row["image2"], flags[0], *numbers, flags[1])


def _contradictions(result: Mapping[str, Any], predictions: Iterable[Prediction]) -> list[str]:
    """Counts in ``result.json`` that the predictions do not bear out."""
    outcomes = [prediction.outcome for prediction in predictions if prediction.split == "test"]
    told = [result.get(name) for name in OUTCOMES]
    counted = [outcomes.count(name) for name in OUTCOMES]
    if not outcomes or None in told or told == counted:
        return []
    shown = ["/".join(map(str, counts)) for counts in (told, counted)]
    return [f"result.json counts {shown[0]} (TP/FP/TN/FN), predictions.csv {shown[1]}: not of one run."]


def _overrides(file: Path) -> tuple[str, ...]:
    try:
        words = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return tuple(map(str, words)) if isinstance(words, list) else ()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
