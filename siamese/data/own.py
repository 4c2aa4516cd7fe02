"""Photos of one's own: a folder for each person, or a CSV file of pairs, and how people are parted for the test.

Imports no torch: all of this is checked before a run begins.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from siamese.config.schema import FolderData, PairsData
from siamese.data.lists import Pair, People, forbidden_in_name, identities, read_table, warn_of_duplicates
from siamese.data.split import people_split
from siamese.errors import DataError
from siamese.runs.records import Membership

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
COLUMNS = ("image1", "image2", "label")

LEAST_PEOPLE = 6
"""With two photos or more: two for each of training, validation and test."""

ENUMERATED = 200
"""Photos of a person, or images in all, up to which all pairs of them are listed and shuffled instead of drawn."""


class OwnPairs(NamedTuple):
    """What a data set of one's own gives.

    Attributes:
        train, val, test: pairs; ``val`` is None where it is still to be split off ``train``.
        people: of training, with all their photos; None where only pairs are known.
        test_people: of the test, likewise, as far as they are known.
    """

    train: list[Pair]
    val: list[Pair] | None
    test: list[Pair]
    people: People | None
    test_people: People


def photo_root(data: FolderData | PairsData) -> Path:
    """The folder that image names are relative to."""
    if isinstance(data, PairsData):
        return Path(data.list).parent if data.root is None else Path(data.root)
    return Path(data.root)


def read_own(data: FolderData | PairsData, test_only: bool = False) -> OwnPairs:
    """The pairs of one's own photos.

    Args:
        data: where they are, and how people are parted.
        test_only: nothing is for training or validation: all people are of the test, or all pairs that are not listed
            as for something else.

    Raises:
        DataError: the folder or the list is missing or malformed, or does not suffice for three sets.
    """
    if isinstance(data, PairsData):
        return _of_list(data, test_only)
    people = find_people(Path(data.root))
    train, val, test = ({}, {}, people) if test_only else deal_people(people, data)
    return OwnPairs(
        draw_pairs(train, data.train_pairs, data.split_seed, "train"),
        draw_pairs(val, data.val_pairs, data.split_seed, "val"),
        draw_pairs(test, data.test_pairs, data.split_seed, "test"),
        train,
        test,
    )


# --- a folder for each person -----------------------------------------------------------------------------


def find_people(root: Path, told: str = "") -> People:
    """The folders below ``root`` and the photos anywhere in each.

    Hidden files and folders are passed over, and links to folders below a person's are not followed.

    Args:
        root: the folder.
        told: what it is called in messages; ``data.root=...`` when empty.

    Raises:
        DataError: there is no such folder, or no photo in any folder of it.
    """
    told = told or f"data.root={root}"
    people: People = {}
    loose = 0
    for photo in _walk(root, told):
        person, slash, _ = photo.partition("/")
        if slash:
            people.setdefault(person, []).append(photo)
        else:
            loose += 1
    if loose:
        log.warning("%s: %d photos left out that lie in no person's folder", root, loose)
    if not people:
        raise DataError(
            f"{told}: no folder in it holds a photo; there must be a folder of photos for each person (data=pairs "
            "takes a list instead)"
        )
    return people


def find_photos(root: Path) -> list[str]:
    """All photos below ``root``, named relative to it, in order.

    Raises:
        DataError: there is no such folder, or no photo in it.
    """
    photos = list(_walk(root, str(root)))
    if not photos:
        raise DataError(f"{root}: no photo in it; name a folder of images")
    return photos


def _walk(root: Path, told: str) -> Iterator[str]:
    """Files with the ending of an image that Pillow reads; the folders in ``root`` may be links, those below not."""
    if not root.is_dir():
        raise DataError(f"{told}: no such folder; name one that holds a folder of photos for each person")
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    unnamed = 0

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None

    def files() -> Iterator[Path]:
        for entry in sorted(root.iterdir()):
            if not entry.is_dir():
                yield entry
            elif not entry.name.startswith("."):
                for folder, folders, names in os.walk(entry, onerror=refuse):
                    folders[:] = sorted(name for name in folders if not name.startswith("."))
                    yield from (Path(folder, name) for name in sorted(names))

    try:
        for file in files():
            if not file.name.startswith(".") and file.suffix.lower() in endings:
                photo = file.relative_to(root).as_posix()
                if _is_text(photo):
                    yield photo
                else:
                    unnamed += 1
    except OSError as error:
        refuse(error)
    if unnamed:
        log.warning("%s: %d photos left out whose names are not UTF-8; rename them", root, unnamed)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def deal_people(people: People, data: FolderData) -> tuple[People, People, People]:
    """The people of training, validation and test.

    The order in which people are dealt is that of a hash of seed and name, so that it is the same everywhere, and a
    person who comes or goes moves few others. People with one photo are dealt apart, in the same shares.

    Raises:
        DataError: fewer than `LEAST_PEOPLE` have two photos.
    """
    sets: tuple[People, People, People] = {}, {}, {}
    several = [name for name, photos in people.items() if len(photos) > 1]
    if len(several) < LEAST_PEOPLE:
        raise DataError(
            f"data.root={data.root}: {len(several)} of its {len(people)} people have two photos or more; training, "
            f"validation and test need two each, {LEAST_PEOPLE} in all"
        )
    for names, least in ((several, 2), (sorted(people.keys() - set(several)), 0)):
        ranked = sorted(names, key=lambda name: _rank(data.split_seed, name))
        test = min(max(least, round(data.test_fraction * len(ranked))), len(ranked) - 2 * least)
        val = min(max(least, round(data.val_fraction * (len(ranked) - test))), len(ranked) - test - least)
        for chosen, part in zip((ranked[test + val :], ranked[test : test + val], ranked[:test]), sets, strict=True):
            part |= {name: people[name] for name in sorted(chosen)}
    return sets


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def draw_pairs(people: People, number: int, seed: int, split: str) -> list[Pair]:
    """Pairs among people at random, none twice: half same, spread over the people as evenly as goes, half different.

    Args:
        people: name -> photos.
        number: of pairs; fewer where the photos do not give as many.
        seed: of the draw; each ``split`` has its own.
        split: one of `SPLITS`.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    names = list(people)
    pools = [_pairs_of(people[name], rng) for name in names]
    same: list[Pair] = []
    while pools and len(same) < number // 2:
        left = []
        for k in rng.permutation(len(pools)):
            found = next(pools[k], None)
            if found is not None and len(same) < number // 2:
                same.append(Pair(min(found), max(found), 1))
                left.append(pools[k])
        pools = left
    different = [Pair(min(pair), max(pair), 0) for pair in itertools.islice(_across(people, rng), len(same))]
    same = same[: len(different)]
    return sorted(same) + sorted(different)


def _pairs_of(photos: list[str], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """All pairs of a person's photos in random order."""
    n = len(photos)
    if n <= ENUMERATED:
        pairs = list(itertools.combinations(range(n), 2))
        yield from ((photos[i], photos[j]) for i, j in (pairs[k] for k in rng.permutation(len(pairs))))
        return
    seen: set[tuple[int, int]] = set()
    while len(seen) < n * (n - 1) // 4:  # half of them; nobody asks for as many
        i, j = sorted(rng.integers(n, size=2).tolist())
        if i != j and (i, j) not in seen:
            seen.add((i, j))
            yield photos[i], photos[j]


def _across(people: People, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Pairs of photos of different people in random order, each person as likely as another where there are many."""
    names = list(people)
    photos = [(name, photo) for name in names for photo in people[name]]
    if len(photos) <= ENUMERATED:
        pairs = [(a, b) for (x, a), (y, b) in itertools.combinations(photos, 2) if x != y]
        yield from (pairs[k] for k in rng.permutation(len(pairs)))
        return
    total = (len(photos) ** 2 - sum(len(images) ** 2 for images in people.values())) // 2
    seen: set[frozenset[str]] = set()
    while len(seen) < total // 2:
        one, other = (names[k] for k in rng.choice(len(names), 2, replace=False))
        first, second = (people[name][rng.integers(len(people[name]))] for name in (one, other))
        if (pair := frozenset((first, second))) not in seen:
            seen.add(pair)
            yield first, second


# --- a list of pairs --------------------------------------------------------------------------------------


def _of_list(data: PairsData, test_only: bool) -> OwnPairs:
    parts = read_pair_list(Path(data.list))
    root = photo_root(data)
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder; the images of {data.list} are looked for there")
    train: list[Pair] = []
    val: list[Pair] | None = []
    if test_only:
        test = parts.get(None, parts.get("test", []))
    elif None in parts:
        pairs = parts[None]
        kept, tested = people_split(
            pairs, data.test_fraction, data.split_seed, "data.test_fraction", "give the list a column split"
        )
        if left_out := len(pairs) - len(kept) - len(tested):
            log.warning("%s: %d of %d pairs left out, to part people", data.list, left_out, len(pairs))
        train, val, test = [pairs[k] for k in kept], None, [pairs[k] for k in tested]
    else:
        train, val, test = parts.get("train", []), parts.get("val"), parts.get("test", [])
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part is not None and (name == "test" or not test_only) and len({pair.label for pair in part}) < 2:
            raise DataError(
                f"{data.list}: its {len(part)} {name} pairs are not both of same (1) and different (0); give some"
            )
    person = identities([*train, *(val or ()), *test])
    test_people: People = {}
    for image in sorted({image for pair in test for image in (pair.image1, pair.image2)}):
        test_people.setdefault(person[image], []).append(image)
    return OwnPairs(train, val, test, None, test_people)


def read_pair_list(path: Path) -> dict[str | None, list[Pair]]:
    """The pairs of a CSV file with the columns image1, image2, label (1: same, 0: different) and perhaps split.

    Other columns are passed over, so that a run's ``predictions.csv`` is such a list.

    Returns:
        ``train``, ``test`` and perhaps ``val`` -> pairs; None -> all pairs where there is no column split.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    parts: dict[str | None, list[Pair]] = {}
    labels: dict[frozenset[str], int] = {}
    for where, row in read_table(path, COLUMNS, f"{', '.join(COLUMNS)} and perhaps split, separated by commas"):
        pair = Pair(_image(row["image1"], where), _image(row["image2"], where), _label(row["label"], where))
        if pair.image1 == pair.image2:
            raise DataError(f"{where}: {pair.image1!r} is paired with itself (expected two images)")
        if labels.setdefault(frozenset(pair[:2]), pair.label) != pair.label:
            raise DataError(f"{where}: this pair is listed with the other label too; leave one of them out")
        part = row.get("split")
        if "split" in row and part not in SPLITS:
            raise DataError(f"{where}: split is {part!r} (expected one of {', '.join(SPLITS)})")
        parts.setdefault(part, []).append(pair)
    warn_of_duplicates(path, (pair for part in parts.values() for pair in part))
    return parts


def _image(name: str | None, where: str) -> str:
    parts = (name or "").split("/")
    if not name or name.startswith("/") or ".." in parts or forbidden_in_name(name.replace("/", "")):
        raise DataError(
            f"{where}: impossible image {name!r} (expected its path below data.root, without '..', backslashes and "
            "control characters)"
        )
    return posixpath.normpath(name)  # one name for one file: ./a//b.png is a/b.png


def _label(text: str | None, where: str) -> int:
    if text not in ("0", "1"):
        raise DataError(f"{where}: label is {text!r} (expected 1 for the same person, 0 for different ones)")
    return int(text)


# --- who was in which set ---------------------------------------------------------------------------------


def memberships(own: OwnPairs, val: Iterable[Pair]) -> list[Membership]:
    """(image, person, split) of each image that a run looks at, sorted: what ``split.csv`` keeps.

    Args:
        own: the data set.
        val: its validation pairs, which may have been split off the training pairs; what is in them is not trained on
            where people are parted.
    """
    found: dict[str, tuple[str, str]] = {}
    pairs = {"train": own.train, "test": own.test, "val": list(val)}
    person = identities([pair for part in pairs.values() for pair in part])
    for people, split in ((own.people or {}, "train"), (own.test_people, "test")):
        found |= {image: (name, split) for name, images in people.items() for image in images}
    for split, part in pairs.items():
        found |= {image: (person[image], split) for pair in part for image in pair[:2]}
    return sorted(Membership(image, *whose) for image, whose in found.items())
