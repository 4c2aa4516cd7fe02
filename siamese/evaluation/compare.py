"""Whether one classifier beats another on the same test pairs, or only looks so.

Both have decided the same pairs, so what the pairs have in common (an easy test set, a hard person) cancels in the
difference, which is therefore surer than two intervals side by side suggest.

Shapes: P pairs, S and T runs (seeds) of the two classifiers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.intervals import Interval


class McNemar(NamedTuple):
    """What only one of two classifiers decides rightly, and how surprising that is if they are equally good.

    Attributes:
        only_first: pairs that the first decides rightly and the second wrongly.
        only_second: the other way round.
        p: two-sided, exact.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """McNemar's test in its exact form: of the pairs on which the two differ, half should fall to each.

    The probability, under a binomial distribution with 1/2, of a division at least as uneven (McNemar 1947; the exact
    form as in Dietterich 1998, section 3.1). It is about these two trained networks: another seed trains others.

    Args:
        first, second: bool [P], whether each pair is decided rightly.

    Raises:
        ValueError: not of one shape [P], or empty.
    """
    a, b = _decisions(first), _decisions(second)
    if a.shape[0] != 1 or b.shape[0] != 1:
        raise ValueError("McNemar's test compares two runs: one row of decisions each")
    _same_pairs(a, b)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**n))


class PeopleBootstrap:
    """Resamples of the people of a test set, the same for every comparison that is made with them.

    A bootstrap over identities, not pairs: those of one person stand and fall together. Each resample draws as many
    people as there are, with replacement, and a pair counts as often as both of its people were drawn: their product,
    or, for a pair of one person, how often that one was (the pigeonhole bootstrap of Owen 2007; the vertex bootstrap of
    Snijders and Borgatti 1999).

    Args:
        people: the two identities of each pair, [P]; equal ones for a pair of the same person.
        resamples: at least 1.
        seed: the same seed gives the same intervals.

    Raises:
        ValueError: no pairs, or no resamples.
    """

    def __init__(self, people: Sequence[tuple[Hashable, Hashable]], resamples: int = 2000, seed: int = 0) -> None:
        if not people or resamples < 1:
            raise ValueError(f"{len(people)} pairs and resamples={resamples}: there must be one of each")
        number: dict[Hashable, int] = {}
        ends = np.array([[number.setdefault(person, len(number)) for person in pair] for pair in people])
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(number), np.full(len(number), 1 / len(number)), size=resamples).astype(np.float64)
        first, second = drawn[:, ends[:, 0]], drawn[:, ends[:, 1]]
        weights = np.where(ends[:, 0] == ends[:, 1], first, first * second)
        total = weights.sum(1, keepdims=True)
        self._weights = weights[total[:, 0] > 0] / total[total[:, 0] > 0]
        self._seed = seed

    def accuracy_difference(self, first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
        """Percentile interval of ``accuracy(first) - accuracy(second)``; it is real where 0 lies outside.

        Where there are several runs of a classifier, each resample draws among these too, since another seed trains
        another network; with one run each, the interval is about those two.

        Args:
            first: bool [P], or [S, P] for several runs: whether each pair is decided rightly.
            second: bool [P], or [T, P].
            level: two-sided confidence level in (0, 1).

        Raises:
            ValueError: the decisions are not about the P pairs, or the level is impossible.
        """
        rows = _decisions(first), _decisions(second)
        _same_pairs(*rows)
        if rows[0].shape[1] != self._weights.shape[1]:
            raise ValueError(f"people of {self._weights.shape[1]} pairs for decisions on {rows[0].shape[1]}")
        if not 0 < level < 1:
            raise ValueError(f"level={level} must lie between 0 and 1")
        rng = np.random.default_rng(self._seed)
        means = []
        for right in rows:
            accuracies = self._weights @ right.T.astype(np.float64)  # [resamples, runs]
            runs = rng.integers(0, len(right), accuracies.shape)
            means.append(np.take_along_axis(accuracies, runs, axis=1).mean(1))
        low, high = np.quantile(means[0] - means[1], [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))


def _decisions(right: ArrayLike) -> NDArray[np.bool_]:
    """bool [runs, P]."""
    rows = np.atleast_2d(np.asarray(right))
    if rows.ndim != 2 or not rows.size or not np.isin(rows, (0, 1)).all():
        raise ValueError(f"decisions must be a filled array [P] or [runs, P] of booleans, not of shape {rows.shape}")
    return rows.astype(bool)


def _same_pairs(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"decisions on {a.shape[1]} and on {b.shape[1]} pairs: not of the same test set")
