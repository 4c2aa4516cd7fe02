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


def accuracy_difference(
    first: ArrayLike,
    second: ArrayLike,
    people: Sequence[tuple[Hashable, Hashable]],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of ``accuracy(first) - accuracy(second)`` over people and seeds; it is real where 0 lies outside.

    A percentile bootstrap over identities, not over pairs: pairs of one person stand and fall together. Each resample
    draws as many people as there are, with replacement, and a pair counts as often as both of its people were drawn:
    their product, or, for a pair of one person, how often that one was (the pigeonhole bootstrap of Owen 2007; the
    vertex bootstrap of Snijders and Borgatti 1999). Where there are several runs of a classifier, each resample draws
    among these too, since another seed trains another network; with one run each, the interval is about those two.

    Args:
        first: bool [P], or [S, P] for several runs: whether each pair is decided rightly.
        second: bool [P], or [T, P].
        people: the two identities of each pair, [P]; equal ones for a pair of the same person.
        resamples: at least 1.
        seed: the same seed gives the same interval.
        level: two-sided confidence level in (0, 1).

    Raises:
        ValueError: the decisions or the people are not about the same P pairs, or another argument is impossible.
    """
    a, b = _decisions(first), _decisions(second)
    _same_pairs(a, b)
    if len(people) != a.shape[1]:
        raise ValueError(f"people of {len(people)} pairs for decisions on {a.shape[1]}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples={resamples} must be at least 1 and level={level} between 0 and 1")
    number: dict[Hashable, int] = {}
    ends = np.array([[number.setdefault(person, len(number)) for person in pair] for pair in people])
    one_person = ends[:, 0] == ends[:, 1]
    rng = np.random.default_rng(seed)
    differences = np.full(resamples, np.nan)
    for i in range(resamples):
        drawn = np.bincount(rng.integers(0, len(number), len(number)), minlength=len(number))
        weight = np.where(one_person, drawn[ends[:, 0]], drawn[ends[:, 0]] * drawn[ends[:, 1]])
        if weight.any():
            right = [rows[rng.integers(0, len(rows), len(rows))].mean(0) for rows in (a, b)]
            differences[i] = np.average(right[0] - right[1], weights=weight)
    low, high = np.nanquantile(differences, [(1 - level) / 2, (1 + level) / 2])
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
