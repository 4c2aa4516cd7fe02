"""Where each data set lies, whether it is there, and how it comes there. Imports no torch: checks are quick."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from siamese.config import DOWNLOADED_ROOT, DataConfig, LfwData, SyntheticData
from siamese.data.lists import Pair, read_pairs
from siamese.errors import DataError

if TYPE_CHECKING:
    from siamese.data.synthetic import SyntheticSpec

TRAIN_LIST = "pairsDevTrain.txt"
TEST_LIST = "pairsDevTest.txt"


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
    return Path(data.root) / LAYOUTS[data.name].images


def read_view1(data: DataConfig) -> tuple[list[Pair], list[Pair]]:
    """The pairs of View 1: (training and validation, test).

    Raises:
        DataError: a list is missing or malformed.
    """
    root = Path(data.root)
    return read_pairs(root / TRAIN_LIST), read_pairs(root / TEST_LIST)


def check_data(data: DataConfig) -> None:
    """Make sure that the data set is there or can be made, without making it.

    Raises:
        DataError: what is missing, and the remedy.
    """
    if isinstance(data, SyntheticData):
        _synthetic_spec(data)
        return
    root = Path(data.root)
    may_fetch = data.download and LAYOUTS[data.name].archive is not None
    if not root.is_dir() and not (may_fetch and data.root == DOWNLOADED_ROOT):
        raise DataError(
            f"data.root={data.root}: no such folder; set data.root or the environment variable LFW_ROOT to the "
            f"folder that holds {LAYOUTS[data.name].images}/ and the pair lists, or use data=synthetic"
        )
    missing = _missing(data)
    if missing and not may_fetch:
        paths = ", ".join(str(root / name) for name in missing)
        remedy = "give data.download=true" if LAYOUTS[data.name].archive else "it can only be placed there by hand"
        raise DataError(f"data={data.name}: {paths} missing; {remedy} (README: Data)")
    if not missing:
        read_view1(data)


def prepare_data(data: DataConfig, progress: bool = False) -> None:
    """Make the data set if it is not there: draw the synthetic faces, download LFW; ``progress`` shows a bar.

    Raises:
        DataError: what is missing, what failed, and the remedy.
    """
    check_data(data)
    if isinstance(data, SyntheticData):
        from siamese.data.synthetic import write_lfw_tree

        write_lfw_tree(Path(data.root), _synthetic_spec(data), progress=progress)
    elif missing := _missing(data):
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
    from siamese.data.synthetic import SyntheticSpec

    return SyntheticSpec(**{field.name: getattr(data, field.name) for field in dataclasses.fields(SyntheticSpec)})


def _missing(data: LfwData) -> Sequence[str]:
    root = Path(data.root)
    folder = LAYOUTS[data.name].images
    missing = [] if (root / folder).is_dir() else [folder]
    return missing + [name for name in (TRAIN_LIST, TEST_LIST) if not (root / name).is_file()]
