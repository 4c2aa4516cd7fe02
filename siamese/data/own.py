"""The user's own photos: ``data=folder`` (`siamese.data.folder`) and ``data=pairs`` (`siamese.data.pair_list`).

Imports no torch, so that data is checked quickly before a run starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from siamese.config.data import FolderData, PairsData
from siamese.data.folder import divide_people, draw_pairs, find_people
from siamese.data.lists import Pair, People, identities
from siamese.data.pair_list import read_listed_pairs
from siamese.files import file_digest
from siamese.parallel import READERS, in_order
from siamese.runs.tables import Membership


class OwnPairs(NamedTuple):
    """The pairs and people of the user's own photos.

    Attributes:
        train, val, test: pairs; ``val`` is None if validation is to be split off ``train``.
        people: training people with all their photos; None if only pairs are known.
        test_people: test people with all their photos; for a list, with the photos in its test pairs.
        val_people: validation people with all their photos; empty if only pairs are known.
    """

    train: list[Pair]
    val: list[Pair] | None
    test: list[Pair]
    people: People | None
    test_people: People
    val_people: People


_found: ContextVar[dict[str, OwnPairs] | None] = ContextVar("own photos", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Context in which `read_own` reads a folder or list only once, however often a run asks for it."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def read_own(data: FolderData | PairsData, test_only: bool = False) -> OwnPairs:
    """Find or read the user's own photos and divide them into training, validation and test.

    Args:
        data: where the photos are, and how people are divided.
        test_only: use nothing for training and validation, and for the test all people of a folder, the test pairs of a
            list with a column ``split``, or all pairs of a list without one.

    Raises:
        DataError: the folder or the list is missing or malformed, or has too few people or pairs for three sets.
    """
    found = _found.get()
    if found is None:
        return _read_own(data, test_only)
    key = f"{test_only} {data.model_dump_json()}"
    if key not in found:
        found[key] = _read_own(data, test_only)
    return found[key]


def _read_own(data: FolderData | PairsData, test_only: bool) -> OwnPairs:
    if isinstance(data, PairsData):
        return _own_list(data, test_only)
    people = find_people(Path(data.root))
    train, val, test = ({}, {}, people) if test_only else divide_people(people, data)
    return OwnPairs(
        draw_pairs(train, data.train_pairs, data.split_seed, "train"),
        draw_pairs(val, data.val_pairs, data.split_seed, "val"),
        draw_pairs(test, data.test_pairs, data.split_seed, "test"),
        train,
        test,
        val,
    )


def _own_list(data: PairsData, test_only: bool) -> OwnPairs:
    train, val, test = read_listed_pairs(data, test_only)
    person = identities([*train, *(val or ()), *test])
    test_people: People = {}
    for image in sorted({image for pair in test for image in (pair.image1, pair.image2)}):
        test_people.setdefault(person[image], []).append(image)
    return OwnPairs(train, val, test, None, test_people, {})


def memberships(own: OwnPairs, val: Iterable[Pair], root: Path, digests: Mapping[str, str]) -> list[Membership]:
    """Return image, person, set and content of each image that a run uses, sorted by image: ``split.csv``.

    Args:
        own: the user's own photos.
        val: the validation pairs, which may have been split off the training pairs. Their images count as validation
            images.
        root: the folder that image names are relative to.
        digests: `siamese.files.file_digest` of the images where it is known.
    """
    found: dict[str, tuple[str, str]] = {}
    pairs = {"train": own.train, "test": own.test, "val": list(val)}
    person = identities([pair for part in pairs.values() for pair in part])
    for people, split in ((own.people or {}, "train"), (own.test_people, "test")):
        found |= {image: (name, split) for name, images in people.items() for image in images}
    for split, part in pairs.items():
        found |= {image: (person[image], split) for pair in part for image in pair[:2]}
    images = sorted(found)
    rest = [image for image in images if image not in digests]
    read = dict(zip(rest, in_order(lambda image: file_digest(root / image), rest, workers=READERS), strict=True))
    return [Membership(image, *found[image], digests.get(image) or read[image]) for image in images]
