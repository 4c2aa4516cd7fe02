"""The tables of a run: what is written is what is read, and damage is an error or a line for the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese.errors import ConfigError
from siamese.runs import tables
from siamese.runs.records import Result
from siamese.runs.tables import FOLD_COLUMNS, HISTORY_COLUMNS, OUTCOMES, Exclusion, GroupFigure, Membership, Prediction

HISTORY = [
    {"epoch": 1.0, "train/loss": 0.1 + 0.2, "val/loss": 1e-17, "lr": 1e-3, "seconds": 0.5},
    {column: float(index + 2) / 3 for index, column in enumerate(HISTORY_COLUMNS)} | {"epoch": 2.0},
]

PREDICTIONS = [
    Prediction("val", "Ann/Ann_0001.jpg", "Bob, the 2nd/Bob_0001.jpg", 0, -1 / 3, 0.1 + 0.2, 0),
    Prediction("test", 'Ann/"Ann"_0001.jpg', "Ann/Ann_0002.jpg", 1, 5e-324, 1.0, 1),
]


GROUPS = [
    GroupFigure("pose", "group", "a, b", "", "fmr", 1 / 3, 0.1 + 0.2, 0.5, 10, 30, 12, too_few=False),
    GroupFigure("pose", "unknown", "", "", "acc", math.nan, math.nan, math.nan, 0, 0, 0, too_few=True),
]


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    """Equal, with NaN equal to NaN and to an absent key."""
    return all(
        one.get(key, math.nan) == other.get(key, math.nan)
        or (math.isnan(one.get(key, math.nan)) and math.isnan(other.get(key, math.nan)))
        for key in {*one, *other}
    )


def test_a_history_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    tables.write_history(file, HISTORY)
    rows = tables.read_history(file)
    assert [list(row) for row in rows] == [list(HISTORY_COLUMNS)] * 2
    assert all(same(dict(row), wanted) for row, wanted in zip(rows, HISTORY, strict=True))
    before = file.read_bytes()
    tables.write_history(file, rows)
    assert file.read_bytes() == before
    tables.write_history(file, [])
    assert tables.read_history(file) == []


def test_predictions_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    tables.write_predictions(file, PREDICTIONS)
    assert tables.read_predictions(file) == PREDICTIONS
    assert [line.rpartition(",")[2] for line in file.read_text().splitlines()] == ["outcome", "tn", "tp"]


@pytest.mark.parametrize(("label", "predicted", "outcome"), [(1, 1, "tp"), (0, 1, "fp"), (0, 0, "tn"), (1, 0, "fn")])
def test_the_outcome_of_a_pair(label: int, predicted: int, outcome: str) -> None:
    pair = Prediction("test", "a", "b", label, 0.0, 0.5, predicted)
    assert pair.outcome == outcome
    assert outcome in OUTCOMES


def test_excluded_images_are_read_as_written_by_name(tmp_path: Path) -> None:
    file = tmp_path / "excluded.csv"
    tables.write_excluded(file, {"b.jpg": 'not an image, "really"', "a.jpg": "file\nmissing"})
    found = tables.read_excluded(file)
    assert found == [Exclusion("a.jpg", "file\nmissing"), Exclusion("b.jpg", 'not an image, "really"')]


def test_memberships_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    assert tables.read_memberships(file) is None
    members = [Membership("Ann/1.jpg", "Ann", "train"), Membership("Böb/1.jpg", "Böb", "test")]
    tables.write_memberships(file, members)
    assert tables.read_memberships(file) == members


def test_folds_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "folds.csv"
    results = [
        Result.model_validate({"test/acc": 0.1 + 0.2, "test/auc": 0.75, "threshold": 0.5}),
        Result(status="done"),
    ]
    tables.write_folds(file, results)
    rows = tables.read_folds(file)
    assert [row["fold"] for row in rows] == [1, 2]
    for row, result in zip(rows, results, strict=True):
        wanted = {key: math.nan if (value := result.figure(key)) is None else value for key in FOLD_COLUMNS[1:]}
        assert same(dict(row), {"fold": row["fold"], **wanted})


def test_groups_are_read_as_written(tmp_path: Path) -> None:
    tables.write_groups(tmp_path / "groups.csv", GROUPS)
    first, second = tables.read_groups(tmp_path / "groups.csv")
    assert first == GROUPS[0]
    assert second._replace(share=0.0, low=0.0, high=0.0) == GROUPS[1]._replace(share=0.0, low=0.0, high=0.0)
    assert math.isnan(second.share)


READERS: dict[str, tuple[Callable[..., Any], Callable[[Path], None], str]] = {
    "history.csv": (tables.read_history, lambda file: tables.write_history(file, HISTORY), "many,0.1,,,,,,"),
    "predictions.csv": (
        tables.read_predictions, lambda file: tables.write_predictions(file, PREDICTIONS), "test,a,b,2,0,0.5,1,tp",
    ),
    "excluded.csv": (
        tables.read_excluded, lambda file: tables.write_excluded(file, {"a": "b", "c": "d"}), "",
    ),
    "groups.csv": (
        tables.read_groups, lambda file: tables.write_groups(file, GROUPS), "pose,no kind,,,fmr,0.5,0,1,1,2,2,0",
    ),
    "folds.csv": (
        tables.read_folds, lambda file: tables.write_folds(file, [Result(), Result()]), "1,x,,,,,",
    ),
}  # fmt: skip
"""File: its reader, how to write two rows, and a damaged row."""


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_table_is_an_error_or_a_line_for_the_page(tmp_path: Path, name: str) -> None:
    read, write, damaged_row = READERS[name]
    file = tmp_path / name
    remedy = "; restore the file or choose another folder"
    problems: list[str] = []
    assert read(file, problems) == []
    assert problems == [f"{name} is missing."]
    with pytest.raises(ConfigError, match=f"{name} is missing{remedy}"):
        read(file)
    write(file)
    whole = read(file, problems := [])
    assert len(whole) == 2
    assert problems == []
    if damaged_row:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{damaged_row}\n")
        assert len(read(file, problems)) == 2
        assert problems == [f"{name}: 1 damaged row was ignored."]
        with pytest.raises(ConfigError, match=f"{name}: 1 damaged row was ignored{remedy}"):
            read(file)
    file.write_bytes(b"\xff\xfe")
    assert read(file, problems := []) == []
    assert problems[0].startswith(f"{name} cannot be read: ")
    with pytest.raises(ConfigError, match=remedy):
        read(file)


def test_a_prediction_that_is_cut_short_or_not_finite_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    tables.write_predictions(file, PREDICTIONS)
    head, first, second = file.read_text().splitlines()
    for row in (first.rpartition(",")[0], second.replace("5e-324", "nan"), second.replace(",1.0,", ",inf,")):
        file.write_text(f"{head}\n{first}\n{row}\n")
        assert tables.read_predictions(file, problems := []) == PREDICTIONS[:1]
        assert problems == ["predictions.csv: 1 damaged row was ignored."]


def test_a_table_of_memberships_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_text("image,person\na,b\n")
    with pytest.raises(ConfigError, match=r"split\.csv: 1 damaged row was ignored; restore the file"):
        tables.read_memberships(file)
