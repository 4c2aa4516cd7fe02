"""The split of labelled pairs into training and validation: of pairs, or of the people in them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from siamese.config.schema import ImageOptions
from siamese.data.connected import connected
from siamese.data.lists import Pair, identities
from siamese.errors import DataError

log = logging.getLogger(__name__)

Ints = NDArray[np.integer]

Split = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Indices of (training, validation): two sorted arrays that share none."""

Who = list[tuple[str, str]]
"""The two people of each pair."""


def validation_split(pairs: list[Pair], data: ImageOptions) -> Split:
    """Indices of (training, validation) as ``data.split`` and the keys beside it ask for; errors as below."""
    if data.split == "people":
        kept, held_out = people_split(pairs, data.val_fraction, data.split_seed)
        if left_out := len(pairs) - len(kept) - len(held_out):
            log.warning("data.split=people: %d of %d pairs left out, to part people", left_out, len(pairs))
        return kept, held_out
    return stratified_split(np.array([pair.label for pair in pairs]), data.val_fraction, data.split_seed)


def stratified_split(labels: Ints, fraction: float, seed: int) -> Split:
    """Indices of (training, validation), each label divided in the same proportion.

    Args:
        labels: [N], any integers.
        fraction: share that goes to validation, in (0, 1); rounded for each label.
        seed: of the choice alone; the same seed and labels give the same split on every machine.

    Returns:
        two arrays that together hold 0..N-1 once.

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


def people_split(
    pairs: list[Pair], fraction: float, seed: int, key: str = "data.val_fraction", remedy: str = "give data.split=pairs"
) -> Split:
    """Indices of (training, validation) such that nobody is in pairs of both.

    People who are in one pair belong together, and so do those whom a chain of pairs connects: such groups are dealt to
    validation in random order, each that fits, until it holds ``fraction`` of the pairs of each label. LFW's lists
    fall into hundreds of groups, so no pair is lost and the shares come out exactly. Where nearly everybody is
    connected, people are taken to validation one by one, next always the one whom the fewest pairs tie to others;
    pairs of people of both sides, and what is too much of a label in validation, are then left out.

    Args:
        pairs: [N]; whose images they are is told by `siamese.data.lists.identities`.
        fraction: share that goes to validation, in (0, 1).
        seed: of the choice alone.
        key: what sets ``fraction``, for the message.
        remedy: what else to give than more pairs, likewise.

    Raises:
        DataError: a part would stay without any pair of a label.
    """
    rng = np.random.default_rng(seed)
    labels = np.array([pair.label for pair in pairs])
    wanted = np.rint(fraction * np.bincount(labels, minlength=2)).astype(int)
    person = identities(pairs)
    who = [(person[a], person[b]) for a, b, _ in pairs]
    people = _dealt(who, labels, wanted, rng)
    if people is None:
        people = _grown(who, labels, wanted, rng)
    held_out = np.array([a in people and b in people for a, b in who], dtype=bool)
    outside = np.array([a not in people and b not in people for a, b in who], dtype=bool)
    kept = [rng.permutation(np.flatnonzero(held_out & (labels == label)))[: wanted[label]] for label in (0, 1)]
    train, validation = np.flatnonzero(outside), np.sort(np.concatenate(kept))
    if any(set(labels[part].tolist()) != {0, 1} for part in (train, validation)):
        raise DataError(
            f"{key}={fraction}: one part would be left without a same or a different pair of the {len(pairs)} listed "
            f"ones, people being kept apart; {remedy}, or more pairs"
        )
    return train, validation


def _dealt(who: Who, labels: Ints, wanted: Ints, rng: np.random.Generator) -> set[str] | None:
    """Whole groups of connected people that hold as many pairs of each label as wanted; None if there are none."""
    group_of = connected(who)
    members: dict[str, list[int]] = {}
    for index, (one, _) in enumerate(who):
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


def _grown(who: Who, labels: Ints, wanted: Ints, rng: np.random.Generator) -> set[str]:
    """People who have as many pairs of each label among themselves as wanted, and few with others."""
    tied: dict[str, dict[str, int]] = {}  # person -> those in a different pair with them, and in how many
    same: dict[str, int] = {}
    for (one, other), label in zip(who, labels.tolist(), strict=True):
        for x, y in dict.fromkeys([(one, other), (other, one)]):  # of a set the order would be another every time
            tied.setdefault(x, {})
            if label == 0:
                tied[x][y] = tied[x].get(y, 0) + 1
        same[one] = same.get(one, 0) + label
    order = [list(tied)[k] for k in rng.permutation(len(tied))]
    inside: set[str] = set()
    taken = np.zeros(2, int)
    while (taken < wanted).any() and len(inside) < len(order) - 2:

        def ties(person: str) -> int:
            return sum(-number if other in inside else number for other, number in tied[person].items())

        person = min((p for p in order if p not in inside), key=ties)
        taken += [sum(number for other, number in tied[person].items() if other in inside), same.get(person, 0)]
        inside.add(person)
    return inside
