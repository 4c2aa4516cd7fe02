"""Pairs that share people are not independent: who is in few or many pairs, and the variance of a mean over people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

PairPeople = Sequence[tuple[Hashable, Hashable]]
"""Both people of each pair, [P]; equal for a same pair."""

OFTEN = 5
"""From this many pairs per person on, pairs are not treated as independent. LFW has 2 (View 1) and 3 (View 2)."""


def are_few(people: PairPeople) -> bool:
    """Whether the pairs come from few people: the people of a pair are, on average, in `OFTEN` pairs or more."""
    ends, number = _numbered(people)
    pairs_of = np.bincount(ends[:, 0], minlength=number)
    pairs_of += np.bincount(ends[ends[:, 0] != ends[:, 1], 1], minlength=number)
    return bool((pairs_of**2).sum() >= OFTEN * pairs_of.sum())


def variance_over_people(people: PairPeople, values: NDArray[np.float64]) -> tuple[float, int]:
    """Compute the variance of the mean of ``values`` for other people from the same population.

    Pairs that share a person may depend on each other (dyadic cluster-robust variance, Aronow, Samii and Assenova
    2015, times G / (G - 2) for G people, because it is too small with few). The variance is at least that of
    independent pairs.

    Args:
        people: both people of each pair, [P].
        values: float [P].

    Returns:
        the variance, and G.
    """
    residual_P = values - values.mean()
    ends, number = _numbered(people)
    apart = ends[:, 0] != ends[:, 1]
    of_person = np.bincount(ends[:, 0], residual_P, number)
    of_person += np.bincount(ends[apart, 1], residual_P[apart], number)
    # The sum over people counts pairs of the same two people twice.
    _, couple = np.unique(np.sort(ends[apart], axis=1), axis=0, return_inverse=True)
    twice = np.bincount(couple.reshape(-1), residual_P[apart])
    together = ((of_person**2).sum() - (twice**2).sum()) * number / max(1, number - 2)
    return float(max(together, (residual_P**2).sum())) / len(values) ** 2, number


def _numbered(people: PairPeople) -> tuple[NDArray[np.int64], int]:
    """Number the people; returns int64 [P, 2] and how many they are."""
    numbers: dict[Hashable, int] = {}
    ends = [numbers.setdefault(person, len(numbers)) for pair in people for person in pair]
    return np.array(ends, dtype=np.int64).reshape(-1, 2), len(numbers)
