"""An evaluation on other data must not test on people or images of the training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from configs import section

from siamese.config.schema import TrainConfig
from siamese.errors import DataError
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.tables import Membership, write_memberships
from siamese.scoring.leakage import check_unseen, seen_by
from siamese.scoring.run_data import _used

Make = Callable[..., TrainConfig]

MEMBERS = [
    Membership("Ann/1.jpg", "Ann", "train"),
    Membership("Bob/1.jpg", "Bob", "val"),
    Membership("Cem/1.jpg", "Cem", "test"),
]


@pytest.fixture
def folder(tmp_path: Path, tiny_config: Make) -> RunFolder:
    """The folder of a run on the user's own photos."""
    folder = RunFolder(tmp_path / "run")
    folder.start(tiny_config(), image_root="/photos")
    write_memberships(folder.split, MEMBERS)
    return folder


def test_training_and_validation_images_count_as_seen(folder: RunFolder) -> None:
    assert seen_by(folder) == {"Ann", "Ann/1.jpg", "Bob", "Bob/1.jpg"}


def test_without_recorded_sets_the_lists_of_the_data_set_decide(folder: RunFolder, tiny_root: Path) -> None:
    folder.split.unlink()
    seen = seen_by(folder)
    train = (tiny_root / "pairsDevTrain.txt").read_text().splitlines()[1:]
    assert {name for line in train for name in line.split("\t") if not name.isdigit()} <= seen
    tested = {
        name for line in (tiny_root / "peopleDevTest.txt").read_text().splitlines()[1:] for name in line.split()[:1]
    }
    assert tested
    assert not tested & seen


@pytest.mark.parametrize("epochs", [2, 0])  # model=lbp learns from its people without epochs
@pytest.mark.parametrize("root", ["/photos", "/others"])
def test_a_seen_person_is_an_error_in_the_same_folder_and_else_a_warning(
    folder: RunFolder, tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, root: str, epochs: int
) -> None:
    run = FinishedRun(folder, folder.record(epochs=epochs), tiny_config())
    evaluation = RunFolder(tmp_path / "evaluation")
    evaluation.start(tiny_config(), image_root=root)
    with caplog.at_level(logging.WARNING):
        check_unseen(run, {"Cem/1.jpg": "Cem", "Dot/1.jpg": "Dot"}, evaluation)
        assert caplog.text == ""
        if root == "/photos":
            with pytest.raises(
                DataError, match="/photos: Ann is in the test data and was used for training or validation"
            ):
                check_unseen(run, {"Ann/2.jpg": "Ann", "Dot/1.jpg": "Dot"}, evaluation)
        else:
            check_unseen(run, {"Ann/2.jpg": "Ann", "Dot/1.jpg": "Dot"}, evaluation)
            assert "Ann is in the test data and was used for training or validation" in caplog.text


def test_an_image_of_lfw_is_known_by_its_name_in_every_folder(
    folder: RunFolder, tiny_config: Make, tmp_path: Path
) -> None:
    result = folder.record(dataset="lfw")
    evaluation = RunFolder(tmp_path / "evaluation")
    evaluation.start(tiny_config(), image_root="/others")
    run = FinishedRun(folder, result, tiny_config())
    check_unseen(run, {"Ann/2.jpg": "Ann", "Cem/1.jpg": "Cem"}, evaluation)
    with pytest.raises(DataError, match=r"1 image has the name of an LFW image .* \(for example Bob/1.jpg\)"):
        check_unseen(run, {"Bob/1.jpg": "Bob", "Cem/1.jpg": "Cem"}, evaluation)


def test_a_run_whose_training_people_are_not_known_any_more(
    folder: RunFolder, tiny_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    folder.split.unlink()
    moved = tiny_config()
    folder.start(moved.model_copy(update={"data": moved.data.model_copy(update={"root": "/gone"})}))
    assert seen_by(folder) == set()
    assert "it is not known any more which people the run was trained on (/gone/pairsDevTrain.txt" in caplog.text


@pytest.mark.parametrize(("nearest", "used"), [(0, {"Ann"}), (5, {"Ann", "Bob"})])
def test_the_people_of_the_cohort_count_as_used(nearest: int, used: set[str]) -> None:
    """Bob has one image: it is not trained on, but scores are compared with it."""
    names = ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg"]
    listed = SimpleNamespace(pairs=[])
    data: Any = SimpleNamespace(
        images=SimpleNamespace(names=names),
        people=[[0, 1]],
        cohort=np.array([0, 2]),
        train=listed,
        val=listed,
        test=listed,
    )
    config: Any = SimpleNamespace(backend=section("backend", name="plda", cohort=nearest))
    people = _used(data, config).people
    assert people is not None
    assert set(people) == used
    assert people["Ann"] == names[:2]
