"""Where each data set is stored, whether it is complete, and how to get it if it is not.

Imports no torch, so that data is checked quickly before a run starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from siamese.config.data import DOWNLOADED_ROOT, DataConfig, FolderData, LfwData, PairsData, SyntheticData
from siamese.config.defaults import data_config
from siamese.config.protocol import EvalProtocol, PeopleProtocol, View2Protocol
from siamese.data.download import can_be_downloaded, download_lfw
from siamese.data.layouts import LAYOUTS
from siamese.data.own import read_own
from siamese.data.protocol import TRAIN_LIST, VIEW1, check_all_folds, list_files, read_listed, read_test_people
from siamese.errors import DataError
from siamese.runs.moved import photo_folder

if TYPE_CHECKING:
    from siamese.data.synthetic.plan import SyntheticSpec


def image_root(data: DataConfig) -> Path:
    """Return the folder that image names are relative to."""
    if isinstance(data, FolderData | PairsData):
        return photo_folder(data)
    return Path(data.root) / LAYOUTS[data.name].images


def title(data: DataConfig) -> str:
    """Return the name of the data set that is recorded with results and shown on pages."""
    match data:
        case FolderData():
            return f"folder {Path(data.root).resolve().name}"
        case PairsData():
            return f"list {Path(data.list).name}"
        case _:
            return data.name


def has_outside_data(data: DataConfig) -> bool:
    """Whether other images were used to make the images of the data set, or the detector that aligns them."""
    return data.align is not None or (data.name in LAYOUTS and LAYOUTS[data.name].outside_data)


def recognise(path: Path, options: dict[str, object] | None = None) -> DataConfig:
    """Recognise the data set at a path: a CSV file of pairs, a folder in LFW's layout, or a folder of people's folders.

    Args:
        path: the file or folder.
        options: keys of the ``data`` group; ``name`` chooses among the image folders in LFW's layout.

    Raises:
        ConfigError: an option is unknown or has an invalid value.
        DataError: there is nothing at the path.
    """
    data = data_config(_recognised_keys(path) | (options or {}))
    # Nothing is downloaded: the files at the path are the data set.
    return data.model_copy(update={"download": False}) if isinstance(data, LfwData) else data


def _recognised_keys(path: Path) -> dict[str, object]:
    if path.is_file():
        return {"name": "pairs", "list": str(path)}
    if not path.is_dir():
        raise DataError(
            f"{path}: no such file or folder; choose LFW's root, a folder with one folder of photos for each person, "
            "or a CSV file of pairs"
        )
    if (path / TRAIN_LIST).is_file():
        present = [name for name, layout in LAYOUTS.items() if (path / layout.images).is_dir()]
        return {"name": present[0] if present else "lfw", "root": str(path)}
    return {"name": "folder", "root": str(path)}


def check_data(data: DataConfig, protocol: EvalProtocol = VIEW1, test_only: bool = False) -> None:
    """Check that the data set has its image folder and lists, or can be downloaded or rendered; changes nothing.

    Args:
        data: the data set.
        protocol: the protocol whose lists are needed.
        test_only: as in `siamese.data.own.read_own`.

    Raises:
        DataError: something is missing or malformed; the message says what to do.
    """
    if data.align is not None:
        from siamese.data.faces import prepare_detector

        prepare_detector()
    if isinstance(data, SyntheticData):
        from siamese.data.synthetic.tree import check_tree

        check_tree(Path(data.root), _synthetic_spec(data))
    elif isinstance(data, FolderData | PairsData):
        read_own(data, test_only)
    else:
        _check_lfw(data, protocol)


def prepare_data(data: DataConfig, progress: bool = False, protocol: EvalProtocol = VIEW1) -> None:
    """Make sure that the data set is there: render the synthetic faces or download LFW if needed.

    Args:
        data: the data set.
        progress: show a progress bar.
        protocol: the protocol whose lists are needed.

    Raises:
        DataError: something is missing, or getting it failed; the message says what to do.
    """
    check_data(data, protocol)
    if isinstance(data, SyntheticData):
        from siamese.data.synthetic.tree import write_lfw_tree

        write_lfw_tree(Path(data.root), _synthetic_spec(data), progress=progress)
    elif isinstance(data, LfwData) and (missing := _missing(data, protocol)):
        Path(data.root).mkdir(parents=True, exist_ok=True)
        try:
            download_lfw(Path(data.root), missing, progress=progress)
        except DataError as error:
            raise DataError(f"{error}; or use data=synthetic, which needs no download") from None


def _check_lfw(data: LfwData, protocol: EvalProtocol) -> None:
    root, images = Path(data.root), LAYOUTS[data.name].images
    if not root.is_dir() and not (data.download and can_be_downloaded(images) and data.root == DOWNLOADED_ROOT):
        raise DataError(
            f"data.root={data.root}: no such folder; set data.root or the environment variable LFW_ROOT to the "
            f"folder that contains {images}/ and the pair lists, or use data=synthetic"
        )
    missing = _missing(data, protocol)
    by_hand = [name for name in missing if not can_be_downloaded(name)]
    if by_hand or (missing and not data.download):
        paths = ", ".join(str(root / name) for name in (by_hand if data.download else missing))
        remedy = "place it there by hand" if by_hand else "set data.download=true"
        raise DataError(f"data={data.name}: missing {paths}; {remedy} (see docs/data.md)")
    if missing:
        return
    if isinstance(protocol, PeopleProtocol):
        read_test_people(data)
    elif isinstance(protocol, View2Protocol) and protocol.fold is None:
        check_all_folds(data, protocol)
    else:
        read_listed(data, protocol)


def _missing(data: LfwData, protocol: EvalProtocol) -> Sequence[str]:
    """Names of the image folder and lists that are not there."""
    root = Path(data.root)
    folder = LAYOUTS[data.name].images
    missing = [] if (root / folder).is_dir() else [folder]
    return missing + [name for name in list_files(protocol) if not (root / name).is_file()]


def _synthetic_spec(data: SyntheticData) -> SyntheticSpec:
    """What to render; raises ConfigError if the numbers of people and pairs contradict each other."""
    from siamese.data.synthetic.plan import SyntheticSpec

    return SyntheticSpec(**{field.name: getattr(data, field.name) for field in dataclasses.fields(SyntheticSpec)})
