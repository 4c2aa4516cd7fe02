"""What is kept of a run's scored pairs equals what its ``predictions.csv`` says, also after that has changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siamese.data.lists import Pair, people_of_each
from siamese.evaluation.metrics import roc_curve
from siamese.evaluation.people import NumberedPeople
from siamese.report import scored as module
from siamese.report.jobs import Job, read_jobs
from siamese.report.scored import FILE, ROC_GRID, people_of_tested, scored
from siamese.runs.tables import Prediction, read_predictions, write_predictions


def pairs(n: int, seed: int = 0, folders_are_people: bool = True) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        label = i % 2
        first = f"p{rng.integers(9)}"
        second = first if label == folders_are_people else f"q{rng.integers(9)}"
        score = float(rng.normal(label - 0.5))
        found.append(Prediction("val" if i < 5 else "test", f"{first}/{i}a.jpg", f"{second}/{i}b.jpg", label, score,
                                0.5, int(score > 0)))  # fmt: skip
    return found


def make(folder: Path, predictions: list[Prediction], status: str = "done") -> Job:
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"status": status}))
    write_predictions(folder / "predictions.csv", predictions)
    return next(job for job in read_jobs(folder.parent) if job.folder == folder)


@pytest.fixture(autouse=True)
def forget() -> None:
    """Start as a new process does."""
    module._scored.cache_clear()
    module._people.clear()


def test_what_is_kept_is_what_the_table_says(tmp_path: Path) -> None:
    job = make(tmp_path / "0", pairs(9003))
    found = scored(job)
    tested = [pair for pair in read_predictions(job.folder / "predictions.csv") if pair.split == "test"]
    assert (found.validated.n, found.validated.same) == (5, 2)
    assert (found.tested.n, found.tested.same) == (8998, 4499)
    assert found.right.tolist() == [pair.label == pair.predicted for pair in tested]
    x, y, _ = roc_curve([pair.score for pair in tested], [pair.label for pair in tested])
    np.testing.assert_array_equal(found.tpr, np.interp(ROC_GRID, x, y))


def test_a_new_process_does_not_read_the_pairs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make(tmp_path / "0", pairs(100))
    first = scored(job)
    module._scored.cache_clear()
    monkeypatch.delattr(module, "iterate_predictions")
    again = scored(job)
    assert again[:3] == first[:3]
    np.testing.assert_array_equal(again.tpr, first.tpr)


@pytest.mark.parametrize("what", ["pairs", "code", "damaged", "short"])
def test_what_is_stored_is_never_out_of_date(tmp_path: Path, what: str) -> None:
    job = make(tmp_path / "0", pairs(100))
    before = scored(job)
    stored = tmp_path / "0" / FILE
    record = json.loads(stored.read_text())
    match what:
        case "pairs":
            job = make(tmp_path / "0", pairs(100, seed=1))
        case "code":
            stored.write_text(json.dumps({**record, "code": "older", "right": ""}))
        case "damaged":
            stored.write_text(stored.read_text()[:50])
        case "short":
            stored.write_text(json.dumps({**record, "right": record["right"][:4]}))
    module._scored.cache_clear()
    found = scored(job)
    expected = [pair.label == pair.predicted for pair in read_predictions(job.folder / "predictions.csv")][5:]
    assert found.right.tolist() == expected
    assert (found.tested == before.tested) == (what != "pairs")


def test_nothing_is_stored_in_a_folder_that_is_in_use_or_has_no_pairs(tmp_path: Path) -> None:
    scored(make(tmp_path / "0", pairs(10), status="running"))
    job = make(tmp_path / "1", pairs(10))
    (tmp_path / "1/predictions.csv").unlink()
    assert scored(job).tested.n == 0
    assert not list(tmp_path.rglob(FILE))


def test_pairs_without_both_labels_have_no_roc(tmp_path: Path) -> None:
    job = make(tmp_path / "0", [pair for pair in pairs(40) if pair.label == 1])
    for _ in range(2):
        assert np.isnan(scored(job).tpr).all()
        module._scored.cache_clear()


@pytest.mark.parametrize("folders_are_people", [True, False])
def test_the_people_are_those_of_the_pairs(tmp_path: Path, folders_are_people: bool) -> None:
    predictions = pairs(60, folders_are_people=folders_are_people)
    found = people_of_tested(make(tmp_path / "0", predictions))
    assert found is not None
    tested = [Pair(pair.image1, pair.image2, pair.label) for pair in predictions[5:]]
    np.testing.assert_array_equal(found.ends, NumberedPeople(people_of_each(tested)).ends)


def test_the_people_of_a_table_that_was_replaced_meanwhile_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make(tmp_path / "0", pairs(60))
    before = scored(job)
    write_predictions(job.folder / "predictions.csv", pairs(60, seed=1))
    monkeypatch.setattr(module, "scored", lambda job: before)
    assert people_of_tested(job) is None
