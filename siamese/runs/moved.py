"""Photos of the user's own that were moved to another folder, recognised by their content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siamese.config.data import DataConfig, FolderData, PairsData
from siamese.files import file_digest
from siamese.runs.tables import Membership

PLACES = ("data.root", "data.list")
"""Keys that say where the user's own photos are."""


def moved_data(members: Sequence[Membership], trained: DataConfig, now: DataConfig) -> DataConfig | None:
    """Return the data of a run at its new place; None if it is other data, or at the same place.

    A list of pairs must have kept its file name; whether its pairs are the same is seen when it is read.

    Args:
        members: the rows of the run's ``split.csv``.
        trained: the data set of the run.
        now: a data set that may be the same in another folder.
    """
    if isinstance(trained, PairsData) and isinstance(now, PairsData):
        if Path(trained.list).name != Path(now.list).name:
            return None
        place: dict[str, str | None] = {"root": now.root, "list": now.list}
    elif isinstance(trained, FolderData) and isinstance(now, FolderData):
        place = {"root": now.root}
    else:
        return None
    root = photo_folder(now)
    known = [row for row in members if row.digest]
    if not known or root.resolve() == photo_folder(trained).resolve():
        return None
    if any(file_digest(root / row.image) != row.digest for row in known):
        return None
    return trained.model_copy(update=place)


def photo_folder(data: FolderData | PairsData) -> Path:
    """Return the folder that image names are relative to: ``data.root``, or the folder of the list."""
    return Path(data.list).parent if isinstance(data, PairsData) and data.root is None else Path(str(data.root))


def changed_images(recorded: Sequence[Membership], now: Sequence[Membership]) -> set[str]:
    """Return the images that were added, removed, moved to another set, or whose content changed."""
    before = {row.image: row for row in recorded}
    after = {row.image: row for row in now}
    changed = set(before) ^ set(after)
    for image in before.keys() & after.keys():
        one, other = before[image], after[image]
        same_file = one.digest == other.digest or "" in (one.digest, other.digest)  # empty: not known
        if one[:3] != other[:3] or not same_file:
            changed.add(image)
    return changed
