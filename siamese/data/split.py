"""How listed pairs are divided into training and validation: ``data.split=pairs`` or ``data.split=people``.

`stratified_split` (``pairs``) holds out a random ``data.val_fraction`` of the pairs of each label; a person may be in
both parts. `people_split` (``people``) holds out pairs so that no person is in both parts.
"""

from __future__ import annotations

import heapq
import logging

import numpy as np
from numpy.typing import NDArray

from siamese.config.data import ImageOptions
from siamese.data.lists import Pair, people_of_each
from siamese.data.union_find import connected_components
from siamese.errors import DataError
from siamese.text import count

log = logging.getLogger(__name__)

Ints = NDArray[np.integer]

SPLITS = ("train", "val", "test")
"""Names of the three sets, as in the ``split`` column of a list and of ``split.csv``."""

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of (training, validation): two sorted arrays without common elements."""

PairPeople = list[tuple[str, str]]
"""The two people of each pair."""


def validation_split(pairs: list[Pair], data: ImageOptions) -> Split:
    """Divide pairs by ``data.split``, ``data.val_fraction`` and ``data.split_seed``.

    Returns:
        indices of (training, validation).

    Raises:
        DataError: a part would have no pair of one label.
    """
    if data.split == "people":
        kept, held_out = people_split(pairs, data.val_fraction, data.split_seed)
        if dropped := len(pairs) - len(kept) - len(held_out):
            log.warning(
                "data.split=people: dropped %d of %s, so that no person is in both training and validation",
                dropped, count(len(pairs), "pair"),
            )  # fmt: skip
        return kept, held_out
    return stratified_split(np.array([pair.label for pair in pairs]), data.val_fraction, data.split_seed)


def stratified_split(labels: Ints, fraction: float, seed: int) -> Split:
    """Divide pairs at random, each label in the same proportion (``data.split=pairs``).

    Args:
        labels: int [N], the label of each pair.
        fraction: fraction of the pairs of each label that goes to validation, in (0, 1); the number is rounded.
        seed: seed of this split only; the same seed and labels give the same split on every machine.

    Returns:
        indices of (training, validation), which together are 0..N-1.

    Raises:
        DataError: a part would have no pair of one label.
    """
    rng = np.random.default_rng(seed)
    train, validation = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out = round(fraction * len(members))
        if not 0 < held_out < len(members):
            raise DataError(
                f"data.val_fraction={fraction} leaves no pair with label {label} for training or for validation "
                f"({len(members)} usable); provide more pairs or choose another fraction"
            )
        validation.append(members[:held_out])
        train.append(members[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def people_split(
    pairs: list[Pair], fraction: float, seed: int, key: str = "data.val_fraction", remedy: str = "set data.split=pairs"
) -> Split:
    """Divide pairs so that no person is in both parts (``data.split=people``).

    Pairs connect people to groups. Whole groups go to validation in random order, each that fits, until validation has
    ``fraction`` of the pairs of each label. LFW's lists consist of hundreds of groups, so no pair is lost and the
    fractions are exact. If nearly all people are connected, single people go to validation instead, next always the one
    who adds the fewest pairs between both parts. Pairs with one person in each part, and surplus validation pairs of a
    label, are then dropped.

    Args:
        pairs: [N] pairs; `siamese.data.lists.identities` decides who is on each image.
        fraction: fraction of the pairs that goes to validation, in (0, 1).
        seed: seed of this split only.
        key: configuration key that sets ``fraction``, for the error message.
        remedy: what the error message suggests, apart from more pairs.

    Returns:
        indices of (training, validation).

    Raises:
        DataError: a part would have no pair of one label.
    """
    rng = np.random.default_rng(seed)
    labels = np.array([pair.label for pair in pairs])
    wanted = np.rint(fraction * np.bincount(labels, minlength=2)).astype(int)
    pair_people = people_of_each(pairs)
    people = _whole_groups(pair_people, labels, wanted, rng)
    if people is None:
        people = _one_by_one(pair_people, labels, wanted, rng)
    held_out = np.array([a in people and b in people for a, b in pair_people], dtype=bool)
    outside = np.array([a not in people and b not in people for a, b in pair_people], dtype=bool)
    kept = [rng.permutation(np.flatnonzero(held_out & (labels == label)))[: wanted[label]] for label in (0, 1)]
    train, validation = np.flatnonzero(outside), np.sort(np.concatenate(kept))
    if any(set(labels[part].tolist()) != {0, 1} for part in (train, validation)):
        raise DataError(
            f"{key}={fraction}: if {count(len(pairs), 'listed pair is', 'listed pairs are')} split so that no person "
            f"is in both parts, one part has no same pair or no different pair; {remedy}, or provide more pairs"
        )
    return train, validation


def _whole_groups(pair_people: PairPeople, labels: Ints, wanted: Ints, rng: np.random.Generator) -> set[str] | None:
    """The people of groups that have exactly ``wanted`` pairs of each label; None if the groups do not add up."""
    group_of = connected_components(pair_people)
    members: dict[str, list[int]] = {}
    for index, (one, _) in enumerate(pair_people):
        members.setdefault(group_of[one], []).append(index)
    names = list(members)
    chosen: set[str] = set()
    taken = np.zeros(2, int)
    for k in rng.permutation(len(names)):
        counts = np.bincount(labels[members[names[k]]], minlength=2)
        if (taken + counts <= wanted).all():
            taken += counts
            chosen.add(names[k])
    if not (taken == wanted).all():
        return None
    return {person for person, group in group_of.items() if group in chosen}


def _one_by_one(pair_people: PairPeople, labels: Ints, wanted: Ints, rng: np.random.Generator) -> set[str]:
    """People with at least ``wanted`` pairs of each label among themselves, and few pairs with others."""
    tied: dict[str, dict[str, int]] = {}  # person -> other person -> number of different pairs
    same: dict[str, int] = {}  # person -> number of same pairs
    for (one, other), label in zip(pair_people, labels.tolist(), strict=True):
        for x, y in dict.fromkeys([(one, other), (other, one)]):  # not a set: its order differs between processes
            tied.setdefault(x, {})
            if label == 0:
                tied[x][y] = tied[x].get(y, 0) + 1
        same[one] = same.get(one, 0) + label
    names = list(tied)
    order = {names[k]: place for place, k in enumerate(rng.permutation(len(names)).tolist())}
    # How many more pairs a person has with people outside than inside. These numbers only decrease; the heap also has
    # outdated ones, which are skipped.
    ties = {person: sum(tied[person].values()) for person in order}
    heap = [(ties[person], place, person) for person, place in order.items()]
    heapq.heapify(heap)
    inside: set[str] = set()
    taken = np.zeros(2, int)
    while (taken < wanted).any() and len(inside) < len(order) - 2:
        number, _, person = heapq.heappop(heap)
        if number != ties[person]:
            continue
        taken += [sum(number for other, number in tied[person].items() if other in inside), same.get(person, 0)]
        inside.add(person)
        for other, number in tied[person].items():
            if other not in inside:
                ties[other] -= 2 * number
                heapq.heappush(heap, (ties[other], order[other], other))
    return inside
