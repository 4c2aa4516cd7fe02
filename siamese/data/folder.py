"""``data=folder``: a folder of photos for each person; divides the people into three sets and draws pairs in each."""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from siamese.config.data import FolderData
from siamese.data.images import HEIC_ENDINGS, endings
from siamese.data.lists import Pair, People
from siamese.data.spelling import normalised, without_copies
from siamese.data.split import SPLITS
from siamese.errors import DataError
from siamese.text import count

log = logging.getLogger(__name__)

LEAST_PEOPLE = 6
"""Least number of people with two or more photos: two each for training, validation and test."""

ENUMERATED = 200
"""Up to this many photos, all their pairs are enumerated and shuffled; pairs of more photos are drawn at random."""


SYSTEM_FOLDERS = {
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "recycled", "#snapshot",
    "@recently-snapshot", "system volume information", "lost+found", "found.000", "network trash folder",
    "temporary items", "ipod photo cache",
}  # fmt: skip
"""Folders, in lower case, that operating systems, archive programs and network drives add, as for thumbnails."""

VIDEOS = {".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv"}
OTHER_IMAGES = {
    ".3fr", ".arw", ".avif", ".cr2", ".cr3", ".crw", ".dng", ".eps", ".erf", ".gif", ".gpr", ".ico", ".iiq", ".j2k",
    ".jp2", ".jxl", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".psd", ".raf", ".raw", ".rw2",
    ".rwl", ".sr2", ".srf", ".srw", ".svg", ".tga", ".x3f", ".xcf",
}  # fmt: skip
"""Endings, in lower case, of images that are not read: raw images of cameras, and formats that are rare for photos."""

SET_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}
"""Folder names, in lower case, of a data set that is already divided into sets."""


class Skipped(NamedTuple):
    """Files of a folder of photos that are not used.

    Attributes:
        kind: what they are, such as ``.mov`` or ``in @eaDir``.
        files: how many there are.
        remedy: what to do to use them; empty if they are no photos of the user's.
    """

    kind: str
    files: int
    remedy: str


def skipped_files(root: Path) -> list[Skipped]:
    """Count the files below a folder of people's folders that a run does not use, by kind.

    Raises:
        DataError: there is no such folder.
    """
    photos, skipped, unnamed = _walk(root, str(root))
    people: People = {}
    for photo in photos:
        people.setdefault(normalised(photo.partition("/")[0]) if "/" in photo else "", []).append(photo)
    loose = len(people.pop("", []))
    copies = sum(len(images) - len(without_copies(root, images)) for images in people.values())
    others = [
        Skipped("photo not in a person's folder", loose, "move it into the folder of the person"),
        Skipped("photo whose name is not UTF-8", unnamed, "rename it"),
        Skipped("copy under a name in another Unicode normalisation", copies, ""),
    ]
    return [*skipped, *(one for one in others if one.files)]


def find_people(root: Path, name: str = "") -> People:
    """Find the folders below ``root`` and the photos anywhere in each.

    Hidden files and folders and `SYSTEM_FOLDERS` are skipped. The person folders themselves may be symbolic links;
    links to folders inside them are not followed. Folders whose names differ only in Unicode normalisation are one
    person, whose name is in the form NFC. Of photos whose names differ only in that, copies are ignored.

    Args:
        root: folder that contains one folder for each person.
        name: how messages refer to the folder; ``data.root=...`` if empty.

    Raises:
        DataError: there is no such folder, or no photo in any folder in it; or the people's folders lie deeper.
    """
    key = "" if name else "data.root="
    name = name or f"data.root={root}"
    people: People = {}
    loose = 0
    found, kinds, _ = _walk(root, name)
    skipped = ", ".join(map(_in_words, kinds))
    for photo in found:
        person, slash, _ = photo.partition("/")
        if slash:
            people.setdefault(person, []).append(photo)
        else:
            loose += 1
    if people and skipped:
        _warn(f"{root}: skipped {skipped}")
    if loose:
        _warn(f"{root}: ignored {count(loose, 'photo that is', 'photos that are')} not in a person's folder")
    if not people:
        other = f" (skipped: {skipped})" if skipped else ""
        raise DataError(
            f"{name}: none of its subfolders contains a photo{other}; expected one folder of photos for each person "
            "(to use a list of pairs, set data=pairs)"
        )
    _check_depth(root, name, key, people)
    merged: People = {}
    for person, photos in people.items():
        merged.setdefault(normalised(person), []).extend(photos)
    distinct = {person: without_copies(root, photos) for person, photos in merged.items()}
    if copies := sum(len(merged[person]) - len(photos) for person, photos in distinct.items()):
        copied = count(copies, "copy", "copies")
        _warn(f"{root}: ignored {copied} of photos whose names look the same (another Unicode normalisation)")
    return distinct


def _check_depth(root: Path, name: str, key: str, people: People) -> None:
    """Raise if the folders in ``root`` contain people's folders, instead of being people's folders."""
    folders = {photo.rpartition("/")[0] for photos in people.values() for photo in photos}
    common = os.path.commonpath(folders) if len(people) == 1 else ""
    if common and common not in folders:
        inside = {folder.removeprefix(f"{common}/").partition("/")[0] for folder in folders}
        raise DataError(
            f"{name}: contains only the folder {common}, with the folders of {count(len(inside), 'person', 'people')}; "
            f"give {key}{root / common}"
        )
    if all("/" in folder for folder in folders) and all(folder.lower() in SET_NAMES for folder in people):
        inner = {folder: {photo.split("/")[1] for photo in photos} for folder, photos in people.items()}
        largest = max(people, key=lambda folder: len(inner[folder]))
        others = [folder for folder in people if folder != largest]
        raise DataError(
            f"{name}: is divided into the sets {', '.join(people)}; give {key}{root / largest}, from which training, "
            f"validation and test are drawn by person (later score the run on {root / others[0]} with eval.py)"
        )


def find_photos(root: Path) -> list[str]:
    """Find all photos below ``root``; return their names, relative to it, in a fixed order.

    Raises:
        DataError: there is no such folder, or no photo in it.
    """
    photos, kinds, _ = _walk(root, str(root))
    skipped = ", ".join(map(_in_words, kinds))
    if not photos:
        other = f" (skipped: {skipped})" if skipped else ""
        raise DataError(f"{root}: contains no photo{other}; choose a folder of photos")
    if skipped:
        _warn(f"{root}: skipped {skipped}")
    return photos


def _walk(root: Path, name: str) -> tuple[list[str], list[Skipped], int]:
    """Return the files that end like an image type that is read, what else is there, and photos with unusable names."""
    if not root.is_dir():
        raise DataError(f"{name}: no such folder; choose one that contains a folder of photos for each person")
    read = endings()
    skipped: Counter[str] = Counter()
    photos = []
    undecodable = 0
    try:
        for folder, names in _visible_files(root):
            system = next((part for part in folder.split("/") if part.lower() in SYSTEM_FOLDERS), "")
            if system or "result.json" in names:
                system = system or "a run folder"
                skipped[f"in {system}"] += len(names)
                continue
            for file in names:
                ending = os.path.splitext(file)[1].lower()  # noqa: PTH122 - for a million files
                photo = f"{folder}/{file}" if folder else file
                if ending not in read:
                    skipped["" if ending == "." else ending] += 1
                elif _is_utf8(photo):
                    photos.append(photo)
                else:
                    undecodable += 1
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    if undecodable:
        ignored = count(undecodable, "photo whose name is", "photos whose names are")
        _warn(f"{root}: ignored {ignored} not UTF-8; rename them")
    return photos, list(map(_skipped, skipped, skipped.values())), undecodable


@cache
def _warn(message: str) -> None:
    """Log a warning once, although a run looks at its data before it starts, and again when it loads them."""
    log.warning(message)


def _skipped(what: str, number: int) -> Skipped:
    """Name the files of an ending, or in a system folder, and what to do if they are photos."""
    if what.startswith("in "):
        return Skipped(what, number, "")
    if what in HEIC_ENDINGS:
        return Skipped(what, number, "to use them: pip install -e '.[heic]'")
    if what in VIDEOS:
        return Skipped(what, number, "to use them: save frames that show a face as JPEG")
    if not what:
        return Skipped("without an ending", number, "if they are photos: rename them, for example to NAME.jpg")
    return Skipped(what, number, "if they show faces: save them as JPEG" if what in OTHER_IMAGES else "")


def _in_words(skipped: Skipped) -> str:
    kind, number, remedy = skipped
    if not kind.startswith("."):
        return f"{count(number, 'file')} {kind} ({remedy or 'made by a system or program'})"
    return f"{count(number, f'{kind} file')} ({remedy or 'no photos'})"


def _visible_files(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield folders, relative to ``root``, and the names of their files, in a fixed order, without what is hidden."""

    def fail(error: OSError) -> None:  # os.walk would skip a folder that it cannot read
        raise error

    base = os.path.join(root, "")  # noqa: PTH118 - ends with a separator, also for / and .
    for top in sorted(name for name in os.listdir(root) if not name.startswith(".")):  # noqa: PTH208
        if not (root / top).is_dir():
            yield "", [top]
            continue
        for folder, folders, names in os.walk(f"{base}{top}", onerror=fail):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield Path(folder[len(base) :]).as_posix(), sorted(name for name in names if not name.startswith("."))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def divide_people(people: People, data: FolderData) -> tuple[People, People, People]:
    """Divide the people into training, validation and test by ``data.test_fraction`` and ``data.val_fraction``.

    People are ordered by a hash of ``data.split_seed`` and their name, so the order is the same on every machine, and
    adding or removing a person moves few others to another set. People with one photo are divided separately, in the
    same fractions.

    Raises:
        DataError: fewer than `LEAST_PEOPLE` people have two photos.
    """
    sets: tuple[People, People, People] = {}, {}, {}
    several = [name for name, photos in people.items() if len(photos) > 1]
    if len(several) < LEAST_PEOPLE:
        raise DataError(
            f"data.root={data.root}: only {count(len(several), 'person has', 'people have')} two or more photos; "
            f"expected at least {LEAST_PEOPLE} such people, two each for training, validation and test; add photos, or "
            "use a run on other people: python -m siamese verify and identify need no training on yours"
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
    """Draw distinct pairs at random: half same pairs, spread evenly over the people, and half different pairs.

    Args:
        people: name -> photos.
        number: number of pairs; fewer are returned if there are not enough photos.
        seed: seed of the draw, together with ``split``.
        split: one of `SPLITS`.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pools = [_pairs_of_person(photos, rng, number // 2) for photos in people.values()]
    same: list[Pair] = []
    while pools and len(same) < number // 2:
        left = []
        for k in rng.permutation(len(pools)):
            found = next(pools[k], None)
            if found is not None and len(same) < number // 2:
                same.append(Pair(min(found), max(found), 1))
                left.append(pools[k])
        pools = left
    across = itertools.islice(_pairs_across_people(people, rng), len(same))
    different = [Pair(min(pair), max(pair), 0) for pair in across]
    same = same[: len(different)]
    return sorted(same) + sorted(different)


def _pairs_of_person(photos: list[str], rng: np.random.Generator, most: int) -> Iterator[tuple[str, str]]:
    """Yield distinct pairs of one person's photos in random order, ``most`` or all, if there are fewer."""
    n = len(photos)
    if n <= ENUMERATED:
        # All pairs are shuffled, but only the numbers of the first are kept, in two bytes: there may be many people.
        for k in rng.permutation(math.comb(n, 2))[:most].astype(np.int16):
            i, j = _unrank(int(k), n)
            yield photos[i], photos[j]
        return
    seen: set[tuple[int, int]] = set()
    while len(seen) < n * (n - 1) // 4:  # half of all pairs: more than anyone needs, and drawing stays fast
        i, j = sorted(rng.integers(n, size=2).tolist())
        if i != j and (i, j) not in seen:
            seen.add((i, j))
            yield photos[i], photos[j]


def _unrank(k: int, n: int) -> tuple[int, int]:
    """Return item ``k`` of ``itertools.combinations(range(n), 2)``."""
    left = math.comb(n, 2) - 1 - k  # items after this one
    row = (math.isqrt(8 * left + 1) - 1) // 2
    return n - 2 - row, n - 1 - left + math.comb(row + 1, 2)


def _pairs_across_people(people: People, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Yield distinct pairs of photos of different people in random order."""
    names, sizes = list(people), [len(photos) for photos in people.values()]
    if sum(sizes) <= ENUMERATED:
        photos = [(name, photo) for name in names for photo in people[name]]
        pairs = [(a, b) for (x, a), (y, b) in itertools.combinations(photos, 2) if x != y]
        yield from (pairs[k] for k in rng.permutation(len(pairs)))
        return
    # People are drawn before photos, so that people with many photos do not dominate.
    total = (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2
    seen: set[tuple[str, str]] = set()
    while len(seen) < total // 2:
        one, other = (names[k] for k in rng.choice(len(names), 2, replace=False))
        first, second = (people[name][rng.integers(len(people[name]))] for name in (one, other))
        if (pair := (min(first, second), max(first, second))) not in seen:
            seen.add(pair)
            yield pair
