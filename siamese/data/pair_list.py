"""``data=pairs``: a CSV file of labelled pairs, with an optional column that assigns each pair to a set."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from siamese.config.data import PairsData
from siamese.data.lists import Pair, forbidden_in_name, read_table, warn_of_duplicates
from siamese.data.spelling import Spelling
from siamese.data.split import SPLITS, people_split
from siamese.errors import DataError
from siamese.runs.moved import photo_folder
from siamese.text import count

log = logging.getLogger(__name__)

COLUMNS = ("image1", "image2", "label")
"""Required columns; the column ``split`` is optional."""


class ListedPairs(NamedTuple):
    """The pairs of each set; ``val`` is None if validation is to be split off ``train``."""

    train: list[Pair]
    val: list[Pair] | None
    test: list[Pair]


def read_listed_pairs(data: PairsData, test_only: bool = False) -> ListedPairs:
    """Read the list and divide its pairs into sets, by the column ``split`` or else at random by people.

    Args:
        data: the list, and the fractions and seed if it has no column ``split``.
        test_only: use only test pairs: those with ``split`` = ``test``, or all if there is no such column.

    Raises:
        DataError: the list or the image folder is missing, the list is malformed, or a set lacks a label.
    """
    parts = read_pair_list(Path(data.list), Spelling(photo_folder(data)))
    if not photo_folder(data).is_dir():
        raise DataError(
            f"data.root={photo_folder(data)}: no such folder; set it to the folder of the images in {data.list}"
        )
    if test_only:
        listed = ListedPairs([], [], parts.get(None, parts.get("test", [])))
    elif None in parts:
        listed = _split_off_test(parts[None], data)
    else:
        listed = ListedPairs(parts.get("train", []), parts.get("val"), parts.get("test", []))
    for name, part in listed._asdict().items():
        if part is not None and (name == "test" or not test_only) and len({pair.label for pair in part}) < 2:
            raise DataError(
                f"{data.list}: {count(len(part), f'{name} pair')}, without at least one same pair (label 1) and one "
                "different pair (label 0); add some"
            )
    return listed


def _split_off_test(pairs: list[Pair], data: PairsData) -> ListedPairs:
    remedy = "add a column split to the list"
    kept, tested = people_split(pairs, data.test_fraction, data.split_seed, "data.test_fraction", remedy)
    if dropped := len(pairs) - len(kept) - len(tested):
        log.warning(
            "%s: dropped %d of %s, so that no person is in both the test pairs and the other pairs",
            data.list, dropped, count(len(pairs), "pair"),
        )  # fmt: skip
    return ListedPairs([pairs[k] for k in kept], None, [pairs[k] for k in tested])


def read_pair_list(path: Path, spelling: Callable[[str], str] = str) -> dict[str | None, list[Pair]]:
    """Read a CSV file with the columns image1, image2, label (1: same, 0: different) and optionally split.

    Other columns are ignored, so a run's ``predictions.csv`` can be used as a list.

    Args:
        path: the file.
        spelling: name in the list -> name of the file, which may be written in another Unicode normalisation.

    Returns:
        ``train``, ``val``, ``test``, as far as they are in the column split, -> pairs; None -> all pairs if there is
        no such column.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    parts: dict[str | None, list[Pair]] = {}
    labels: dict[tuple[str, str], int] = {}
    images: dict[str | None, str] = {}  # name in the list -> name of the file; a list repeats each name many times
    header = f"{', '.join(COLUMNS)} and optionally split, separated by commas"
    for where, row in read_table(path, COLUMNS, header):
        for name in (row["image1"], row["image2"]):
            if name not in images:
                images[name] = spelling(_image(name, where))
        pair = Pair(images[row["image1"]], images[row["image2"]], _label(row["label"], where))
        if pair.image1 == pair.image2:
            raise DataError(f"{where}: {pair.image1!r} is paired with itself (expected two different images)")
        if labels.setdefault((min(pair[:2]), max(pair[:2])), pair.label) != pair.label:
            raise DataError(f"{where}: this pair is also listed with the other label; remove one of the two lines")
        part = row.get("split")
        if "split" in row and part not in SPLITS:
            raise DataError(f"{where}: split is {part!r} (expected one of {', '.join(SPLITS)})")
        parts.setdefault(part, []).append(pair)
    warn_of_duplicates(path, [pair for part in parts.values() for pair in part])
    return parts


def _image(name: str | None, where: str) -> str:
    parts = (name or "").split("/")
    if not name or name.startswith("/") or ".." in parts or forbidden_in_name(name.replace("/", "")):
        raise DataError(
            f"{where}: invalid image name {name!r} (expected a path relative to data.root, without '..', backslashes "
            "and control characters)"
        )
    return posixpath.normpath(name)  # ./a//b.png and a/b.png are the same file


def _label(text: str | None, where: str) -> int:
    if text not in ("0", "1"):
        raise DataError(f"{where}: label is {text!r} (expected 1 for a same pair or 0 for a different pair)")
    return int(text)
