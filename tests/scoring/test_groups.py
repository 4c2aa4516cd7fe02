"""The groups of a run's predictions: what is recorded, and that a lost file costs no finished run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from siamese.runs.folder import RunFolder
from siamese.runs.tables import Prediction, write_predictions
from siamese.scoring.groups import record_groups


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    pairs = [
        Prediction("val", "Cid/1.jpg", "Cid/2.jpg", 1, 0.0, 0.5, 1),
        Prediction("test", "Ann/1.jpg", "Ann/2.jpg", 1, 0.0, 0.5, 1),
        Prediction("test", "Ann/1.jpg", "Bob/1.jpg", 0, 0.0, 0.5, 0),
    ]
    write_predictions(tmp_path / "predictions.csv", pairs)
    return RunFolder(tmp_path)


def test_only_test_pairs_count(folder: RunFolder) -> None:
    file = folder.path / "mine.csv"
    file.write_text("person,gender\nAnn,f\nCid,m\n")
    assert record_groups(str(file), folder)["groups/file"] == str(file)
    lines = folder.groups.read_text().splitlines()
    assert lines[1].startswith(",all,,,acc,1.0,")
    assert not [line for line in lines if line.startswith("gender,group,m")]


def test_without_a_file_nothing_is_recorded(folder: RunFolder) -> None:
    assert record_groups(None, folder) == {}
    assert not folder.groups.exists()


def test_a_file_that_was_lost_during_the_run_is_logged(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert record_groups("gone.csv", folder) == {}
    assert "gone.csv: no such file" in caplog.text
    assert f"python eval.py run={folder.path} groups=gone.csv" in caplog.text
