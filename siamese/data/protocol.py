"""Which pairs and people each protocol uses: View 1, a fold of View 2, or the user's own data.

Imports no torch, so that data is checked quickly before a run starts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from siamese.config.data import DataConfig, FolderData, LfwData, OwnData, PairsData, SyntheticData
from siamese.config.protocol import EvalProtocol, PeopleProtocol, TrainProtocol, View1Protocol, View2Protocol
from siamese.data.layouts import LAYOUTS
from siamese.data.lists import Pair, People, image_name, people_of, read_folds, read_pairs, read_people
from siamese.data.own import OwnPairs, read_own
from siamese.data.spelling import Spelling
from siamese.errors import DataError
from siamese.text import count

TRAIN_LIST = "pairsDevTrain.txt"
TEST_LIST = "pairsDevTest.txt"
TRAIN_PEOPLE_LIST = "peopleDevTrain.txt"
TEST_PEOPLE_LIST = "peopleDevTest.txt"
FOLDS_LIST = "pairs.txt"
FOLDS_PEOPLE_LIST = "people.txt"

VIEW1 = View1Protocol(name="view1", setting="restricted")


@dataclass(frozen=True)
class Listed:
    """The pairs and people that a protocol lists.

    Attributes:
        train: pairs for training; also for validation if ``val`` is None.
        test: pairs for the test.
        people: people from whose names training may form further pairs; None in the restricted setting.
        train_list, test_list: where the pairs are listed, for messages.
        val: pairs for validation, if they are not split off ``train``.
        own: the user's own data; None for LFW and the synthetic faces.
    """

    train: list[Pair]
    test: list[Pair]
    people: People | None
    train_list: str
    test_list: str
    val: list[Pair] | None = None
    own: OwnPairs | None = None

    def image_names(self) -> list[str]:
        """Return the images of all pairs and people; names may be repeated."""
        pairs = [*self.train, *self.test, *(self.val or ())]
        listed = [name for pair in pairs for name in (pair.image1, pair.image2)]
        return listed + [name for images in (self.people or {}).values() for name in images]


def list_files(protocol: EvalProtocol) -> list[str]:
    """Return the names of the list files that a protocol reads."""
    if isinstance(protocol, PeopleProtocol):
        return [TRAIN_LIST, TEST_PEOPLE_LIST]
    unrestricted = protocol.setting == "unrestricted"
    if isinstance(protocol, View2Protocol):
        return [FOLDS_LIST, FOLDS_PEOPLE_LIST] if unrestricted else [FOLDS_LIST]
    return [TRAIN_LIST, TEST_LIST, TRAIN_PEOPLE_LIST] if unrestricted else [TRAIN_LIST, TEST_LIST]


def read_listed(data: DataConfig, protocol: TrainProtocol, test_only: bool = False) -> Listed:
    """Read the pairs and people of View 1, of one fold of View 2, or of the user's own data.

    Args:
        data: the data set.
        protocol: View 1, or View 2 with a fold; ignored for the user's own data, except for its setting.
        test_only: as in `siamese.data.own.read_own`.

    Raises:
        DataError: a list or a folder is missing or malformed, the fold does not exist, or a training person is also in
            the test pairs.
    """
    unrestricted = protocol.setting == "unrestricted"
    if isinstance(data, FolderData | PairsData):
        own = read_own(data, test_only)
        name = data.root if isinstance(data, FolderData) else data.list
        people = own.people if unrestricted else None
        return Listed(own.train, own.test, people, f"{name}, training", f"{name}, test", own.val, own)
    root = Path(data.root)
    if isinstance(protocol, View1Protocol):
        train, test = read_pairs(root / TRAIN_LIST), read_pairs(root / TEST_LIST)
        people = _merge(read_people(root / TRAIN_PEOPLE_LIST)) if unrestricted else None
        _check_disjoint(people, test, TRAIN_PEOPLE_LIST)
        return _spelled(Listed(train, test, people, TRAIN_LIST, TEST_LIST), data)
    if not isinstance(protocol, View2Protocol) or protocol.fold is None:
        raise ValueError("View 2 needs a fold")
    folds, subsets = _read_view2(root, unrestricted)
    if protocol.fold > len(folds):
        raise DataError(
            f"protocol.fold={protocol.fold}: {FOLDS_LIST} has {count(len(folds), 'fold')}; set 1 to {len(folds)}, or "
            "null for all folds"
        )
    return _spelled(_list_fold(folds, subsets, protocol.fold), data)


def _spelled(listed: Listed, data: LfwData | SyntheticData) -> Listed:
    """Replace listed names by those of the files, which may be written in another Unicode normalisation."""
    spelling = Spelling(Path(data.root) / LAYOUTS[data.name].images)

    def of_files(pairs: list[Pair]) -> list[Pair]:
        return [Pair(spelling(one), spelling(other), label) for one, other, label in pairs]

    people = listed.people and {person: list(map(spelling, images)) for person, images in listed.people.items()}
    return dataclasses.replace(listed, train=of_files(listed.train), test=of_files(listed.test), people=people)


def check_all_folds(data: DataConfig, protocol: View2Protocol) -> None:
    """Read every fold of View 2; raises as `read_listed`."""
    assert not isinstance(data, OwnData)  # the configuration allows View 2 only for LFW's layout
    folds, subsets = _read_view2(Path(data.root), protocol.setting == "unrestricted")
    for fold in range(1, len(folds) + 1):
        _list_fold(folds, subsets, fold)


def count_folds(data: DataConfig) -> int:
    """Return the number of folds in View 2's list; raises as `siamese.data.lists.read_folds`."""
    assert not isinstance(data, OwnData)  # the configuration allows View 2 only for LFW's layout
    return len(read_folds(Path(data.root) / FOLDS_LIST))


def read_tested(data: DataConfig, protocol: TrainProtocol, test_only: bool = False) -> list[Pair]:
    """Read the test pairs, those of all folds of View 2 if it has no fold; arguments and errors as of `read_listed`."""
    if isinstance(protocol, View2Protocol) and protocol.fold is None:
        return read_all_folds(data, protocol)
    return read_listed(data, protocol, test_only).test


def read_all_folds(data: DataConfig, protocol: View2Protocol) -> list[Pair]:
    """Read the test pairs of all folds of View 2; raises as `read_listed`."""
    folds = [protocol.model_copy(update={"fold": fold}) for fold in range(1, count_folds(data) + 1)]
    return [pair for fold in folds for pair in read_listed(data, fold).test]


def read_test_people(data: DataConfig, trained: TrainProtocol = VIEW1, test_only: bool = False) -> People:
    """Read the people of the test set.

    Args:
        data: the data set.
        trained: protocol of the run that is tested with them.
        test_only: as in `siamese.data.own.read_own`.

    Raises:
        DataError: as `siamese.data.lists.read_people`, or a test person is also a training person.
    """
    if isinstance(data, FolderData | PairsData):
        return read_own(data, test_only).test_people
    root = Path(data.root)
    people = _merge(read_people(root / TEST_PEOPLE_LIST))
    seen = people_of(read_pairs(root / TRAIN_LIST))
    if trained.setting == "unrestricted":
        seen |= set(_merge(read_people(root / TRAIN_PEOPLE_LIST)))
    _refuse(seen & set(people), TEST_PEOPLE_LIST, "used for training")
    spelling = Spelling(root / LAYOUTS[data.name].images)
    return {person: list(map(spelling, images)) for person, images in people.items()}


def _read_view2(root: Path, unrestricted: bool) -> tuple[list[list[Pair]], list[dict[str, int]] | None]:
    """The pairs of each fold and, in the unrestricted setting, its people."""
    folds = read_folds(root / FOLDS_LIST)
    subsets = read_people(root / FOLDS_PEOPLE_LIST) if unrestricted else None
    if subsets is not None and len(subsets) != len(folds):
        raise DataError(
            f"{root / FOLDS_PEOPLE_LIST}: {count(len(subsets), 'subset')}, but {FOLDS_LIST} has "
            f"{count(len(folds), 'fold')}; use both lists from the same source"
        )
    return folds, subsets


def _list_fold(folds: list[list[Pair]], subsets: list[dict[str, int]] | None, fold: int) -> Listed:
    test, others = folds[fold - 1], [k for k in range(len(folds)) if k != fold - 1]
    train = [pair for k in others for pair in folds[k]]
    people = None if subsets is None else _merge([subsets[k] for k in others])
    _check_disjoint(people, test, FOLDS_PEOPLE_LIST)
    return Listed(train, test, people, f"{FOLDS_LIST}, the other folds", f"{FOLDS_LIST}, fold {fold}")


def _merge(subsets: list[dict[str, int]]) -> People:
    return {
        name: [image_name(name, index) for index in range(1, count + 1)]
        for subset in subsets
        for name, count in subset.items()
    }


def _check_disjoint(people: People | None, test: list[Pair], source: str) -> None:
    """Check that no training person is in the test pairs; LFW's official lists guarantee it, others may not."""
    _refuse(people_of(test) & set(people or ()), source, "in the test pairs")


def _refuse(both: set[str], source: str, where: str) -> None:
    if both:
        people = count(len(both), "person is", "people are")
        raise DataError(f"{source}: {people} also {where} (for example {min(both)}); fix the list")
