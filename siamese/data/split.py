"""The split of labelled pairs into training and validation: of pairs, or of the people in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from siamese.data.lists import Pair, person_of
from siamese.errors import DataError

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of (training, validation): two sorted arrays that together hold 0..N-1 once."""


def stratified_split(labels: NDArray[np.integer], fraction: float, seed: int) -> Split:
    """Indices of (training, validation), each label divided in the same proportion.

    Args:
        labels: [N], any integers.
        fraction: share that goes to validation, in (0, 1); rounded for each label.
        seed: of the choice alone; the same seed and labels give the same split on every machine.

    Raises:
        DataError: a part would stay without any pair of a label.
    """
    rng = np.random.default_rng(seed)
    train, validation = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out = round(fraction * len(members))
        if not 0 < held_out < len(members):
            raise DataError(
                f"data.val_fraction={fraction} leaves no pair of label {label} for training or for validation "
                f"({len(members)} usable); give more pairs or another fraction"
            )
        validation.append(members[:held_out])
        train.append(members[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))


def people_split(pairs: list[Pair], fraction: float, seed: int) -> Split:
    """Indices of (training, validation) such that nobody is in pairs of both.

    People who are in one pair belong together, and so do those whom a chain of pairs connects: such groups are dealt to
    validation in random order, each that fits, until it holds ``fraction`` of the pairs of each label. LFW's lists
    fall into hundreds of groups, so no pair is lost and the shares come out nearly exact.

    Args:
        pairs: [N]; whose images they are is told by their names.
        fraction: share that goes to validation, in (0, 1).
        seed: of the choice alone.

    Raises:
        DataError: a part would stay without any pair of a label.
    """
    group_of = _connected(pairs)
    members: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        members.setdefault(group_of[person_of(pair.image1)], []).append(index)
    labels = np.array([pair.label for pair in pairs])
    total = np.bincount(labels, minlength=2)
    wanted = np.rint(fraction * total)
    held_out: list[int] = []
    taken = np.zeros(2)
    groups = list(members.values())
    for k in np.random.default_rng(seed).permutation(len(groups)):
        counts = np.bincount(labels[groups[k]], minlength=2)
        if (taken + counts <= wanted).all():
            taken += counts
            held_out += groups[k]
    if not taken.all() or not (taken < total).all():
        raise DataError(
            f"data.split=people, data.val_fraction={fraction}: the {len(groups)} groups of people that pairs connect "
            "leave validation or training without a same or a different pair; give data.split=pairs, or more pairs"
        )
    validation = np.sort(np.array(held_out, dtype=np.int64))
    return np.setdiff1d(np.arange(len(pairs)), validation), validation


def _connected(pairs: list[Pair]) -> dict[str, str]:
    """Each person -> one of those whom pairs connect, the same for all of them (union by path halving)."""
    parent: dict[str, str] = {}

    def root(person: str) -> str:
        parent.setdefault(person, person)
        while parent[person] != person:
            parent[person] = parent[parent[person]]
            person = parent[person]
        return person

    for pair in pairs:
        parent[root(person_of(pair.image1))] = root(person_of(pair.image2))
    return {person: root(person) for person in parent}
