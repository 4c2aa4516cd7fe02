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
from scipy.special import stdtrit

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
    people: Sequence[tuple[Hashable, Hashable]], first: ArrayLike, second: ArrayLike, level: float = 0.95
) -> Interval:
    """Interval of ``accuracy(first) - accuracy(second)``: other test pairs of other people, and other seeds.

    Student's, with the sum of two variances. That over pairs lets pairs that share a person depend on each other (the
    dyadic cluster-robust variance of Aronow, Samii and Assenova 2015), and is not taken for less than that of
    independent pairs. That over seeds is the variance of the runs' mean accuracy, of each classifier with several runs;
    what chance does to single pairs is in both, which makes the interval a little too wide rather than too narrow with
    few runs. The degrees of freedom are Satterthwaite's (1946).

    With one run of each the interval is about these two networks, not about their configurations.

    Args:
        people: the two identities of each pair, [P]; equal ones for a pair of the same person.
        first: bool [P], or [S, P] for several runs: whether each pair is decided rightly.
        second: bool [P], or [T, P].
        level: two-sided confidence level in (0, 1).

    Raises:
        ValueError: the decisions are not about the P pairs, or the level is impossible.
    """
    rows = _decisions(first), _decisions(second)
    _same_pairs(*rows)
    if rows[0].shape[1] != len(people):
        raise ValueError(f"people of {len(people)} pairs for decisions on {rows[0].shape[1]}")
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    difference_P = rows[0].mean(0) - rows[1].mean(0)
    parts = [_variance_over_pairs(people, difference_P)]
    parts += [(right.mean(1).var(ddof=1) / len(right), len(right) - 1) for right in rows if len(right) > 1]
    mean, variance = float(difference_P.mean()), sum(part for part, _ in parts)
    if variance == 0:
        return Interval(mean, mean)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def _variance_over_pairs(
    people: Sequence[tuple[Hashable, Hashable]], value_P: NDArray[np.float64]
) -> tuple[float, float]:
    """Variance of the mean of ``value_P`` over other pairs, and its degrees of freedom."""
    residual_P = value_P - value_P.mean()
    number: dict[Hashable, int] = {}
    ends = np.array([[number.setdefault(person, len(number)) for person in pair] for pair in people])
    apart = ends[:, 0] != ends[:, 1]
    of_person = np.bincount(ends[:, 0], residual_P, len(number))
    of_person += np.bincount(ends[apart, 1], residual_P[apart], len(number))
    # Two pairs of the same two people share both, and the sum over people has counted them twice.
    _, couple = np.unique(np.sort(ends[apart], axis=1), axis=0, return_inverse=True)
    twice = np.bincount(couple.reshape(-1), residual_P[apart])
    together, alone = (of_person**2).sum() - (twice**2).sum(), (residual_P**2).sum()
    return float(max(together, alone)) / len(people) ** 2, max(1.0, len(number) - 1.0)


def _decisions(right: ArrayLike) -> NDArray[np.bool_]:
    """bool [runs, P]."""
    rows = np.atleast_2d(np.asarray(right))
    if rows.ndim != 2 or not rows.size or not np.isin(rows, (0, 1)).all():
        raise ValueError(f"decisions must be a filled array [P] or [runs, P] of booleans, not of shape {rows.shape}")
    return rows.astype(bool)


def _same_pairs(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"decisions on {a.shape[1]} and on {b.shape[1]} pairs: not of the same test set")
