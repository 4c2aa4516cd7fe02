"""Which pairs and people each protocol uses, and lists that contradict each other."""

from __future__ import annotations

from pathlib import Path

import pytest
from configs import section

from siamese.data.lists import Pair, people_of
from siamese.data.protocol import count_folds, list_files, read_listed, read_test_people
from siamese.errors import DataError

UNRESTRICTED = section("protocol", name="view1", setting="unrestricted")


def with_list(tiny_root: Path, tmp_path: Path, name: str, other: str) -> Path:
    """The tiny faces with one list replaced by another."""
    root = tmp_path / "mixed"
    root.mkdir()
    for file in tiny_root.iterdir():
        (root / file.name).symlink_to(tiny_root / (other if file.name == name else file.name))
    return root


def test_people_in_both_lists_are_refused(tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    root = with_list(tiny_root, tmp_path, "peopleDevTrain.txt", "peopleDevTest.txt")
    data = section("data", **tiny_data | {"root": str(root)})
    with pytest.raises(DataError, match=r"peopleDevTrain\.txt: \d+ people are also in the test pairs"):
        read_listed(data, UNRESTRICTED)
    assert read_test_people(data)  # a run in the restricted setting has not seen them
    with pytest.raises(DataError, match=r"peopleDevTest\.txt: \d+ people are also used for training"):
        read_test_people(data, UNRESTRICTED)


def test_a_fold_that_does_not_exist(tiny_data: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"protocol\.fold=11: pairs\.txt has 10 folds"):
        read_listed(section("data", **tiny_data), section("protocol", name="view2", fold=11))


def test_each_pair_of_view_2_is_tested_in_one_fold_without_its_people_in_training(tiny_data: dict[str, object]) -> None:
    data = section("data", **tiny_data)
    tested: list[Pair] = []
    for fold in range(1, count_folds(data) + 1):
        protocol = section("protocol", name="view2", setting="unrestricted", fold=fold)
        listed = read_listed(data, protocol)
        assert listed.people is not None
        assert not (people_of(listed.train) | set(listed.people)) & people_of(listed.test)
        tested += listed.test
    assert len(tested) == len(set(tested)) == 20


def test_real_view_1_shares_nobody(lfw_root) -> None:
    data = section("data", name="lfw_deepfunneled", root=str(lfw_root))
    listed = read_listed(data, UNRESTRICTED)
    assert listed.people is not None
    assert (len(listed.people), sum(map(len, listed.people.values()))) == (4038, 9525)
    test = read_test_people(data)
    assert (len(test), sum(map(len, test.values()))) == (1711, 3708)
    assert not set(listed.people) & set(test)
    assert people_of(listed.test) <= set(test)
    assert people_of(listed.train) <= set(listed.people)


def test_lists_of_different_numbers_of_folds(tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    root = with_list(tiny_root, tmp_path, "people.txt", "peopleDevTest.txt")
    protocol = section("protocol", name="view2", setting="unrestricted", fold=1)
    with pytest.raises(DataError, match=r"people\.txt: 1 subset, but pairs\.txt has 10 folds"):
        read_listed(section("data", **tiny_data | {"root": str(root)}), protocol)


@pytest.mark.parametrize(
    ("protocol", "files"),
    [
        ({"name": "view1", "setting": "restricted"}, ["pairsDevTrain.txt", "pairsDevTest.txt"]),
        (
            {"name": "view1", "setting": "unrestricted"},
            ["pairsDevTrain.txt", "pairsDevTest.txt", "peopleDevTrain.txt"],
        ),
        ({"name": "view2", "setting": "restricted"}, ["pairs.txt"]),
        ({"name": "view2", "setting": "unrestricted"}, ["pairs.txt", "people.txt"]),
    ],
)
def test_list_files_of_each_protocol(protocol: dict[str, str], files: list[str]) -> None:
    assert list_files(section("protocol", **protocol)) == files
