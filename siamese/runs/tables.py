"""The tables of a run folder: one typed row, one reader and one writer for each.

========================  ==========================================================
``history.csv``           a `HistoryRow` per epoch
``predictions.csv``       a `Prediction` per validation and test pair
``excluded.csv``          an `Exclusion` per image that could not be used
``split.csv``             a `Membership` per image that the run used
``folds.csv``             a row per fold of View 2
``groups.csv``            a `GroupFigure` per group of test pairs and figure
``cmc.csv``               a row per rank, of an evaluation with protocol=identification
``open_set.csv``          a row per corner of its open-set curve
========================  ==========================================================

Writers replace files and readers take ``problems`` as in `siamese.runs.records`.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

from siamese.errors import ConfigError
from siamese.files import write_csv_atomically
from siamese.runs.records import Result, first_line

Row = TypeVar("Row")

# --- history.csv ------------------------------------------------------------------------------------------

HistoryRow = Mapping[str, float]
"""One epoch: `HISTORY_COLUMNS` -> numbers, nan if the epoch has no such figure."""

HISTORY_COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "val/auc", "lr", "seconds")
"""Epochs count from 1; ``lr`` is the learning rate of the epoch; ``seconds`` include validation."""


def read_history(file: Path, problems: list[str] | None = None) -> list[HistoryRow]:
    """Read the epochs of a ``history.csv``.

    Raises:
        ConfigError: it is missing or damaged (without ``problems``).
    """

    def parse(row: dict[str, str]) -> HistoryRow:
        epoch = {name: float(row.get(name) or "nan") for name in HISTORY_COLUMNS}
        if not 1 <= epoch["epoch"] < math.inf:
            raise ValueError(row)
        return epoch

    return _read_rows(file, parse, problems)


def write_history(file: Path, rows: Iterable[HistoryRow]) -> None:
    """Write a ``history.csv``; a figure that is absent or nan becomes an empty cell."""

    def cell(row: HistoryRow, column: str) -> float | str:
        value = row.get(column, math.nan)
        return "" if math.isnan(value) else value

    write_csv_atomically(file, HISTORY_COLUMNS, ([cell(row, column) for column in HISTORY_COLUMNS] for row in rows))


# --- predictions.csv --------------------------------------------------------------------------------------

OUTCOMES = ("tp", "fp", "tn", "fn")
"""True and false positives and negatives; a positive is a pair predicted as the same person."""

PREDICTION_COLUMNS = ("split", "image1", "image2", "label", "score", "probability", "predicted", "outcome")


class Prediction(NamedTuple):
    """A scored pair.

    Attributes:
        split: ``val`` or ``test``.
        image1, image2: names relative to the image folder.
        label: 1 for a same pair, 0 for a different pair.
        score: raw output of the network or the back end; a logit for an ensemble and for View 2 over all folds.
        probability: calibrated probability of "same person".
        predicted: 1 if the probability reaches the threshold, else 0.
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
        """One of `OUTCOMES`."""
        return ("t" if self.predicted == self.label else "f") + ("p" if self.predicted else "n")


def read_predictions(file: Path, problems: list[str] | None = None) -> list[Prediction]:
    """Read the pairs of a ``predictions.csv``.

    Raises:
        ConfigError: it is missing or damaged (without ``problems``).
    """

    return _read_rows(file, _prediction, problems)


def iterate_predictions(file: Path) -> Iterator[Prediction]:
    """Yield the pairs of a ``predictions.csv`` one by one; skip what is missing or damaged."""
    return _rows(file, _prediction, [])


def _prediction(row: dict[str, str]) -> Prediction:
    label, predicted = int(row["label"]), int(row["predicted"])
    score, probability = float(row["score"]), float(row["probability"])
    is_finite = math.isfinite(score) and math.isfinite(probability)
    if not {label, predicted} <= {0, 1} or not is_finite or None in row.values():
        raise ValueError(row)
    return Prediction(row["split"], row["image1"], row["image2"], label, score, probability, predicted)


def write_predictions(file: Path, predictions: Iterable[Prediction]) -> None:
    """Write a ``predictions.csv``."""
    write_csv_atomically(file, PREDICTION_COLUMNS, ((*pair, pair.outcome) for pair in predictions))


# --- excluded.csv, split.csv, folds.csv -------------------------------------------------------------------


class Exclusion(NamedTuple):
    """An image file that could not be used, and the reason."""

    file: str
    reason: str


def read_excluded(file: Path, problems: list[str] | None = None) -> list[Exclusion]:
    """Read an ``excluded.csv``; errors as in `read_history`."""
    return _read_rows(file, lambda row: Exclusion(row["file"], row["reason"]), problems)


def write_excluded(file: Path, excluded: Mapping[str, str]) -> None:
    """Write an ``excluded.csv`` from file names -> reasons, sorted by name."""
    write_csv_atomically(file, Exclusion._fields, sorted(excluded.items()))


class Membership(NamedTuple):
    """An image of a run, its person, its set, and its content.

    Attributes:
        image: name relative to the image folder.
        person: who it shows.
        split: ``train``, ``val`` or ``test``.
        digest: `siamese.files.file_digest`; empty if the file could not be read.
    """

    image: str
    person: str
    split: str
    digest: str = ""


def read_memberships(file: Path) -> list[Membership] | None:
    """Read a ``split.csv``; return None if there is no such file.

    Raises:
        ConfigError: it is damaged.
    """
    if not file.exists():
        return None
    return _read_rows(
        file, lambda row: Membership(row["image"], row["person"], row["split"], row.get("digest", "")), None
    )


def write_memberships(file: Path, memberships: Iterable[Membership]) -> None:
    """Write a ``split.csv``."""
    write_csv_atomically(file, Membership._fields, memberships)


FOLD_COLUMNS = ("fold", "test/acc", "test/auc", "val/acc", "threshold", "best_epoch", "train_seconds")


def read_folds(file: Path, problems: list[str] | None = None) -> list[Mapping[str, float]]:
    """Read a ``folds.csv``: `FOLD_COLUMNS` -> numbers, nan if absent; errors as in `read_history`."""
    return _read_rows(file, lambda row: {key: float(row[key] or "nan") for key in FOLD_COLUMNS}, problems)


def fold_rows(results: Iterable[Result]) -> list[Mapping[str, float]]:
    """Return the rows of a ``folds.csv`` for the results of the folds, in order; nan if a figure is absent."""

    def number(result: Result, key: str) -> float:
        value = result.figure(key)
        return math.nan if value is None else float(value)

    return [
        {"fold": float(fold)} | {key: number(result, key) for key in FOLD_COLUMNS[1:]}
        for fold, result in enumerate(results, start=1)
    ]


def write_folds(file: Path, results: Iterable[Result]) -> None:
    """Write a ``folds.csv`` from the results of the folds, in order."""
    rows = ([int(row["fold"]), *(_cell(row[key]) for key in FOLD_COLUMNS[1:])] for row in fold_rows(results))
    write_csv_atomically(file, FOLD_COLUMNS, rows)


# --- groups.csv -------------------------------------------------------------------------------------------

GroupKind = Literal["all", "group", "mixed", "unknown", "difference"]


class GroupFigure(NamedTuple):
    """A figure of a group of test pairs, or the difference between two groups.

    Attributes:
        attribute: what the pairs are grouped by, a column of the file of groups; empty for all test pairs.
        kind: ``all`` test pairs; ``group``: both images have the value ``group``; ``mixed``: they have two values;
            ``unknown``: at least one of them has none; ``difference``: highest minus lowest figure of the groups.
        group: the value; for a difference, that of the group with the highest figure.
        minus: for a difference, the value of the group with the lowest figure; otherwise empty.
        figure: ``acc`` (accuracy), ``fnmr`` (false non-match rate) or ``fmr`` (false match rate).
        share: the figure; NaN without pairs.
        low, high: its 95 % confidence interval; NaN if it is undefined.
        cases: pairs that are decided correctly (``acc``) or wrongly (``fnmr``, ``fmr``); 0 for a difference.
        pairs: pairs that the figure is measured on: all, same, or different pairs; 0 for a difference.
        people: people in these pairs; 0 for a difference.
        too_few: whether these are too few to say anything.
    """

    attribute: str
    kind: GroupKind
    group: str
    minus: str
    figure: str
    share: float
    low: float
    high: float
    cases: int
    pairs: int
    people: int
    too_few: bool


def read_groups(file: Path, problems: list[str] | None = None) -> list[GroupFigure]:
    """Read a ``groups.csv``; errors as in `read_history`."""

    def parse(row: dict[str, str]) -> GroupFigure:
        share, low, high = (float(row[key] or "nan") for key in ("share", "low", "high"))
        counts = (int(row[key]) for key in ("cases", "pairs", "people", "too_few"))
        kind = row["kind"]
        if kind not in get_args(GroupKind):
            raise ValueError(row)
        names = row["attribute"], cast("GroupKind", kind), row["group"], row["minus"], row["figure"]
        cases, pairs, people, too_few = counts
        return GroupFigure(*names, share, low, high, cases, pairs, people, bool(too_few))

    return _read_rows(file, parse, problems)


def write_groups(file: Path, figures: Iterable[GroupFigure]) -> None:
    """Write a ``groups.csv``; a number that is undefined becomes an empty cell, ``too_few`` 0 or 1."""
    write_csv_atomically(file, GroupFigure._fields, ([_cell(value) for value in figure] for figure in figures))


def _cell(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else "" if value != value else value


# --- cmc.csv, open_set.csv --------------------------------------------------------------------------------

CMC_COLUMNS = ("rank", "rate", "low", "high")
OPEN_SET_COLUMNS = ("logit", "probability", "fpir", "tpir")
"""Logit and probability are empty in the first row, where no search reaches the threshold."""


def read_curve(file: Path, columns: Sequence[str], problems: list[str]) -> list[Mapping[str, float]]:
    """Read a table of numbers; an empty cell is nan. Missing and damaged files are listed in ``problems``."""
    return _read_rows(file, lambda row: {key: float(row[key] or "nan") for key in columns}, problems)


# --- reading ----------------------------------------------------------------------------------------------


def _read_rows(file: Path, parse: Callable[[dict[str, str]], Row], problems: list[str] | None) -> list[Row]:
    found: list[str] = []
    rows = list(_rows(file, parse, found))
    if problems is None and found:
        raise ConfigError(f"{file.parent}: {found[0].rstrip('.')}; restore the file or choose another folder")
    if problems is not None:
        problems += found
    return rows


def _rows(file: Path, parse: Callable[[dict[str, str]], Row], problems: list[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file that can be parsed, without holding them in memory."""
    damaged = 0
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines)
            columns = next(reader, [])
            for cells in filter(None, reader):
                row: dict[str, Any] = dict(itertools.zip_longest(columns, cells[: len(columns)]))
                try:
                    yield parse(row)
                except (KeyError, ValueError, TypeError):
                    damaged += 1
    except FileNotFoundError:
        problems.append(f"{file.name} is missing.")
    except csv.Error as error:
        problems.append(f"{file.name} cannot be read to the end: {first_line(error)}.")
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {first_line(error)}.")
    if damaged:
        problems.append(f"{file.name}: {damaged} damaged {'row was' if damaged == 1 else 'rows were'} ignored.")
