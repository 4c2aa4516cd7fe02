"""Where each data set lies, whether it is there, and how it comes there. Imports no torch: checks are quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siamese.config.load import data_of
from siamese.config.schema import (
    DOWNLOADED_ROOT,
    DataConfig,
    FolderData,
    LfwData,
    OneShotProtocol,
    OwnData,
    PairsData,
    SyntheticData,
    TrainProtocol,
    View1Protocol,
    View2Protocol,
)
from siamese.data.lists import Pair, People, image_name, people_of, read_folds, read_pairs, read_people
from siamese.data.own import OwnPairs, photo_root, read_own
from siamese.errors import DataError

if TYPE_CHECKING:
    from siamese.data.synthetic.tree import SyntheticSpec

TRAIN_LIST = "pairsDevTrain.txt"
TEST_LIST = "pairsDevTest.txt"
TRAIN_PEOPLE_LIST = "peopleDevTrain.txt"
TEST_PEOPLE_LIST = "peopleDevTest.txt"
FOLDS_LIST = "pairs.txt"
FOLDS_PEOPLE_LIST = "people.txt"

VIEW1 = View1Protocol(name="view1")


@dataclass(frozen=True)
class Layout:
    """How a data set lies below its root.

    Attributes:
        images: the image folder, named as the official archive unpacks.
        archive: the archive that is downloaded for it; None: it can only be placed by hand.
        outside_data: whether other images were used to make it (Huang and Learned-Miller, UM-CS-2014-003).
    """

    images: str
    archive: str | None = None
    outside_data: bool = False


LAYOUTS = {
    "lfw": Layout("lfw", archive="lfw.tgz"),
    "lfw_funneled": Layout("lfw_funneled", archive="lfw-funneled.tgz"),
    "lfw_deepfunneled": Layout("lfw-deepfunneled"),
    "lfw_a": Layout("lfw2", outside_data=True),
    "synthetic": Layout("lfw"),
}


def image_root(data: DataConfig) -> Path:
    """The folder that image names are relative to."""
    if isinstance(data, FolderData | PairsData):
        return photo_root(data)
    return Path(data.root) / LAYOUTS[data.name].images


def title(data: DataConfig) -> str:
    """What figures on the data set are told to be of."""
    match data:
        case FolderData():
            return f"folder {Path(data.root).resolve().name}"
        case PairsData():
            return f"list {Path(data.list).name}"
        case _:
            return data.name


def has_outside_data(data: DataConfig) -> bool:
    """Whether other images were used to make the images."""
    return data.name in LAYOUTS and LAYOUTS[data.name].outside_data


def recognise(path: Path, options: dict[str, object] | None = None) -> DataConfig:
    """The data set at a path: a CSV file of pairs, a folder in LFW's layout, or one with a folder for each person.

    Args:
        path: of the file or folder.
        options: keys of the ``data`` group; ``name`` chooses among the image folders of LFW's layout.

    Raises:
        ConfigError: an option is unknown or impossible.
        DataError: there is nothing at the path.
    """
    given = dict(options or {})
    if path.is_file():
        return data_of({"name": "pairs", "list": str(path), **given})
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; name a folder of people's folders, LFW's root, or a CSV file")
    if (path / TRAIN_LIST).is_file():
        there = [name for name, layout in LAYOUTS.items() if (path / layout.images).is_dir()]
        return data_of({"name": there[0] if there else "lfw", "root": str(path), **given})
    return data_of({"name": "folder", "root": str(path), **given})


@dataclass(frozen=True)
class Listed:
    """What the lists of a protocol give.

    Attributes:
        train: pairs for training, and for validation unless ``val`` is given.
        test: pairs to be scored.
        people: the people whose names may form further training pairs; None in the restricted setting.
        train_list, test_list: where the pairs stand, for messages.
        val: pairs for validation alone, where they are not split off ``train``.
        own: all of one's own data, where it is that.
    """

    train: list[Pair]
    test: list[Pair]
    people: People | None
    train_list: str
    test_list: str
    val: list[Pair] | None = None
    own: OwnPairs | None = None

    def image_names(self) -> list[str]:
        """The images of all pairs and people; repeated names possible."""
        pairs = [*self.train, *self.test, *(self.val or ())]
        listed = [name for pair in pairs for name in (pair.image1, pair.image2)]
        return listed + [name for images in (self.people or {}).values() for name in images]


def read_listed(data: DataConfig, protocol: TrainProtocol, test_only: bool = False) -> Listed:
    """The pairs and the people of View 1, of one fold of View 2, or of one's own data; ``test_only`` as of `read_own`.

    Raises:
        DataError: a list or a folder is missing or malformed, there is no such fold, or a person of the test is among
            those to be trained on.
    """
    named = protocol.setting == "unrestricted"
    if isinstance(data, FolderData | PairsData):
        own = read_own(data, test_only)
        name = data.root if isinstance(data, FolderData) else data.list
        people = own.people if named else None
        return Listed(own.train, own.test, people, f"{name}, training", f"{name}, test", own.val, own)
    root = Path(data.root)
    if isinstance(protocol, View1Protocol):
        train, test = read_pairs(root / TRAIN_LIST), read_pairs(root / TEST_LIST)
        people = _merged(read_people(root / TRAIN_PEOPLE_LIST)) if named else None
        return Listed(train, test, _without_test_people(people, test, TRAIN_PEOPLE_LIST), TRAIN_LIST, TEST_LIST)
    if not isinstance(protocol, View2Protocol) or protocol.fold is None:
        raise ValueError("a fold of View 2 must be named")
    folds, subsets = _read_view2(root, named)
    if protocol.fold > len(folds):
        raise DataError(
            f"protocol.fold={protocol.fold}: {FOLDS_LIST} has {len(folds)} folds; give 1 to {len(folds)}, or null for "
            "all"
        )
    return _listed_fold(folds, subsets, protocol.fold)


def _read_view2(root: Path, named: bool) -> tuple[list[list[Pair]], list[dict[str, int]] | None]:
    """The folds of View 2 and, where names may be used, the people of each."""
    folds = read_folds(root / FOLDS_LIST)
    subsets = read_people(root / FOLDS_PEOPLE_LIST) if named else None
    if subsets is not None and len(subsets) != len(folds):
        raise DataError(
            f"{root / FOLDS_PEOPLE_LIST}: {len(subsets)} subsets for the {len(folds)} folds of {FOLDS_LIST}; "
            "take both lists from one source"
        )
    return folds, subsets


def _listed_fold(folds: list[list[Pair]], subsets: list[dict[str, int]] | None, fold: int) -> Listed:
    test, others = folds[fold - 1], [k for k in range(len(folds)) if k != fold - 1]
    train = [pair for k in others for pair in folds[k]]
    people = None if subsets is None else _merged([subsets[k] for k in others])
    return Listed(
        train,
        test,
        _without_test_people(people, test, FOLDS_PEOPLE_LIST),
        train_list=f"{FOLDS_LIST}, the other folds",
        test_list=f"{FOLDS_LIST}, fold {fold}",
    )


def count_folds(data: DataConfig) -> int:
    """The number of folds of View 2's list; errors as of `siamese.data.lists.read_folds`."""
    assert not isinstance(data, OwnData)  # `siamese.config` lets View 2 have LFW's layout alone
    return len(read_folds(Path(data.root) / FOLDS_LIST))


def read_test_people(data: DataConfig, trained: TrainProtocol = VIEW1, test_only: bool = False) -> People:
    """The people of the test set.

    Args:
        data: where the lists are.
        trained: the protocol of the run that is to be tested with them.
        test_only: as of `read_own`.

    Raises:
        DataError: as of `siamese.data.lists.read_people`, or one of them is among those trained on.
    """
    if isinstance(data, FolderData | PairsData):
        return read_own(data, test_only).test_people
    root = Path(data.root)
    people = _merged(read_people(root / TEST_PEOPLE_LIST))
    seen = people_of(read_pairs(root / TRAIN_LIST))
    if trained.setting == "unrestricted":
        seen |= set(_merged(read_people(root / TRAIN_PEOPLE_LIST)))
    _refuse(seen & set(people), TEST_PEOPLE_LIST, "trained on")
    return people


def _merged(subsets: list[dict[str, int]]) -> People:
    return {
        name: [image_name(name, index) for index in range(1, count + 1)]
        for subset in subsets
        for name, count in subset.items()
    }


def _without_test_people(people: People | None, test: list[Pair], source: str) -> People | None:
    """The people as they are; the official lists share nobody, and others must not."""
    _refuse(people_of(test) & set(people or ()), source, "in the test pairs")
    return people


def _refuse(both: set[str], source: str, where: str) -> None:
    if both:
        raise DataError(f"{source}: {len(both)} of its people are {where} too ({min(both)}); mend the list")


def check_data(data: DataConfig, protocol: TrainProtocol | OneShotProtocol = VIEW1, test_only: bool = False) -> None:
    """Make sure that the data set is there, with the protocol's lists, or can be made, without making it.

    Args:
        data: what is looked for.
        protocol: whose lists it must have.
        test_only: as of `read_own`.

    Raises:
        DataError: what is missing, and the remedy.
    """
    if isinstance(data, SyntheticData):
        _synthetic_spec(data)
        return
    if isinstance(data, FolderData | PairsData):
        read_own(data, test_only)
        return
    root = Path(data.root)
    may_fetch = data.download and LAYOUTS[data.name].archive is not None
    if not root.is_dir() and not (may_fetch and data.root == DOWNLOADED_ROOT):
        raise DataError(
            f"data.root={data.root}: no such folder; set data.root or the environment variable LFW_ROOT to the "
            f"folder that holds {LAYOUTS[data.name].images}/ and the pair lists, or use data=synthetic"
        )
    missing = _missing(data, protocol)
    by_hand = [name for name in missing if name.startswith("people")]  # the lists of people are nowhere to be had
    if missing and (by_hand or not may_fetch):
        missing = by_hand or missing
        paths = ", ".join(str(root / name) for name in missing)
        can_fetch = LAYOUTS[data.name].archive and not by_hand
        remedy = "give data.download=true" if can_fetch else "it can only be placed there by hand"
        raise DataError(f"data={data.name}: {paths} missing; {remedy} (README: Data)")
    if missing:
        return
    if isinstance(protocol, OneShotProtocol):
        read_test_people(data)
    elif isinstance(protocol, View2Protocol) and protocol.fold is None:
        folds, subsets = _read_view2(root, protocol.setting == "unrestricted")
        for fold in range(1, len(folds) + 1):
            _listed_fold(folds, subsets, fold)
    else:
        read_listed(data, protocol)


def prepare_data(data: DataConfig, progress: bool = False, protocol: TrainProtocol | OneShotProtocol = VIEW1) -> None:
    """Make the data set if it is not there: draw the synthetic faces, download LFW; ``progress`` shows a bar.

    Raises:
        DataError: what is missing, what failed, and the remedy.
    """
    check_data(data, protocol)
    if isinstance(data, SyntheticData):
        from siamese.data.synthetic.tree import write_lfw_tree

        write_lfw_tree(Path(data.root), _synthetic_spec(data), progress=progress)
    elif isinstance(data, LfwData) and (missing := _missing(data, protocol)):
        from siamese.data.download import download_lfw

        archive = LAYOUTS[data.name].archive
        images = LAYOUTS[data.name].images
        files = [archive if name == images and archive else name for name in missing]
        Path(data.root).mkdir(parents=True, exist_ok=True)
        try:
            download_lfw(Path(data.root), files, progress=progress)
        except DataError as error:
            raise DataError(f"{error}; or use data=synthetic, which needs no download") from None


def _synthetic_spec(data: SyntheticData) -> SyntheticSpec:
    """What to draw; raises ConfigError when the numbers of people and pairs do not go together."""
    from siamese.data.synthetic.tree import SyntheticSpec

    return SyntheticSpec(**{field.name: getattr(data, field.name) for field in dataclasses.fields(SyntheticSpec)})


def _lists(protocol: TrainProtocol | OneShotProtocol) -> list[str]:
    """The list files that a protocol reads."""
    if isinstance(protocol, OneShotProtocol):
        return [TRAIN_LIST, TEST_PEOPLE_LIST]
    named = protocol.setting == "unrestricted"
    if isinstance(protocol, View2Protocol):
        return [FOLDS_LIST, FOLDS_PEOPLE_LIST] if named else [FOLDS_LIST]
    return [TRAIN_LIST, TEST_LIST, TRAIN_PEOPLE_LIST] if named else [TRAIN_LIST, TEST_LIST]


def _missing(data: LfwData, protocol: TrainProtocol | OneShotProtocol) -> Sequence[str]:
    root = Path(data.root)
    folder = LAYOUTS[data.name].images
    missing = [] if (root / folder).is_dir() else [folder]
    return missing + [name for name in _lists(protocol) if not (root / name).is_file()]
