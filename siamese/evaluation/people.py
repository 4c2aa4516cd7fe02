"""Pairs that share people are not independent: who is in few or many pairs, and the variance of a mean over people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

PairPeople = Sequence[tuple[Hashable, Hashable]]
"""Both people of each pair, [P]; equal for a same pair."""

OFTEN = 5
"""From this many pairs per person on, pairs are not treated as independent. LFW has 2 (View 1) and 3 (View 2)."""


class NumberedPeople:
    """The people of P pairs as numbers, so that `variance_over_people` need not number them at each call."""

    def __init__(self, people: PairPeople) -> None:
        numbers: dict[Hashable, int] = {}
        ends = [numbers.setdefault(person, len(numbers)) for pair in people for person in pair]
        self.number = len(numbers)
        self.ends = np.array(ends, dtype=np.int32).reshape(-1, 2)
        self.apart = self.ends[:, 0] != self.ends[:, 1]
        low, high = np.sort(self.ends[self.apart], axis=1).T.astype(np.int64)
        _, couple = np.unique(low * self.number + high, return_inverse=True)
        self.couple = couple.reshape(-1).astype(np.int32)  # which two people, for each pair of different people

    def __len__(self) -> int:
        return len(self.ends)

    def part(self, rows: NDArray[np.bool_]) -> NumberedPeople:
        """The people of some of the pairs, bool [P]."""
        return NumberedPeople([(int(one), int(other)) for one, other in self.ends[rows]])

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over the pairs of each person, float64 [number], of values [P]."""
        found = np.bincount(self.ends[:, 0], values, self.number).astype(np.float64)
        return found + np.bincount(self.ends[self.apart, 1], values[self.apart], self.number)


def are_few(people: PairPeople | NumberedPeople) -> bool:
    """Whether the pairs come from few people: the people of a pair are, on average, in `OFTEN` pairs or more."""
    known = people if isinstance(people, NumberedPeople) else NumberedPeople(people)
    pairs_of = np.bincount(known.ends[:, 0], minlength=known.number)
    pairs_of += np.bincount(known.ends[known.apart, 1], minlength=known.number)
    return bool((pairs_of**2).sum() >= OFTEN * pairs_of.sum())


def variance_over_people(people: PairPeople | NumberedPeople, values: NDArray[np.float64]) -> tuple[float, int]:
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
    known = people if isinstance(people, NumberedPeople) else NumberedPeople(people)
    residual_P = values - values.mean()
    of_person = known.sums(residual_P)
    # The sum over people counts pairs of the same two people twice.
    twice = np.bincount(known.couple, residual_P[known.apart])
    together = ((of_person**2).sum() - (twice**2).sum()) * known.number / max(1, known.number - 2)
    return float(max(together, (residual_P**2).sum())) / len(values) ** 2, known.number


def people_with_variation(people: PairPeople | NumberedPeople, values: NDArray[np.float64]) -> float:
    """Compute the effective number of people who contribute to the variance of ``values``; 0 without any.

    If the values are right (1) and wrong (0) and few are wrong, it is about the number of people with wrong pairs, or
    that of wrong pairs if it is smaller. Sizes are weighted as by Kish (1965): ``sum(q)**2 / sum(q**2)`` over people
    and over pairs, where q is the sum of squared residuals.

    Args:
        people: both people of each pair, [P].
        values: float [P].
    """
    known = people if isinstance(people, NumberedPeople) else NumberedPeople(people)
    square_P = (values - values.mean()) ** 2
    if not square_P.any():
        return 0.0
    return min(float(q.sum() ** 2 / (q**2).sum()) for q in (square_P, known.sums(square_P)))
