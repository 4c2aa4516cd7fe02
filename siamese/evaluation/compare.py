"""Compare two classifiers on the same test pairs: is one better, or is the difference due to chance?

Both classifiers decide the same pairs, so the difficulty of the pairs cancels in the difference. The difference is
therefore more certain than two separate confidence intervals suggest.

Shapes: P pairs, S and T runs (seeds) of the two classifiers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

from siamese.evaluation.intervals import Interval
from siamese.evaluation.people import NumberedPeople, PairPeople, variance_over_people


class McNemar(NamedTuple):
    """The result of McNemar's test.

    Attributes:
        only_first: number of pairs that only the first classifier decides correctly.
        only_second: number of pairs that only the second classifier decides correctly.
        p: exact two-sided p-value.
    """

    only_first: int
    only_second: int
    p: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Run McNemar's exact test of two equally good classifiers (McNemar 1947; Dietterich 1998, section 3.1).

    Of the pairs that only one classifier decides correctly, each should have about half. The p-value is the probability
    of a division that is at least as uneven, under a binomial distribution with probability 1/2. It refers to these two
    trained networks, not to networks trained with other seeds.

    Args:
        first, second: bool [P], whether each pair is decided correctly.

    Raises:
        ValueError: the decisions are empty or differ in shape.
    """
    a, b = _decisions(first), _decisions(second)
    if a.shape[0] != 1 or b.shape[0] != 1:
        raise ValueError("McNemar's test compares two runs: one row of decisions each")
    _same_pairs(a, b)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    return McNemar(only_first, only_second, min(1.0, 2 * float(bdtr(fewer, n, 0.5))) if n else 1.0)


def accuracy_difference(
    people: PairPeople | NumberedPeople, first: ArrayLike, second: ArrayLike, level: float = 0.95
) -> Interval:
    """Compute a confidence interval of ``accuracy(first) - accuracy(second)`` for other test people and other seeds.

    It is Student's interval. Its variance is the sum of two variances:

    - Over pairs: that of `siamese.evaluation.people.variance_over_people`.
    - Over seeds: the variance of the mean accuracy of the runs, for each classifier with several runs. Both variances
      include the randomness of single pairs, so the interval is slightly too wide with few runs.

    The degrees of freedom follow Satterthwaite (1946). With one run each, the interval refers to these two networks,
    not to their configurations.

    Args:
        people: both identities of each pair, [P]; equal for a same pair. For many calls: `NumberedPeople`.
        first: bool [P], or [S, P] for several runs: whether each pair is decided correctly.
        second: bool [P] or [T, P].
        level: two-sided confidence level in (0, 1).

    Raises:
        ValueError: the number of pairs differs, or the level is not in (0, 1).
    """
    rows = _decisions(first), _decisions(second)
    _same_pairs(*rows)
    if rows[0].shape[1] != len(people):
        raise ValueError(
            f"people of {len(people)} pairs, but decisions on {rows[0].shape[1]} pairs; give both for the same pairs"
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    difference_P = rows[0].mean(0) - rows[1].mean(0)
    over_people, number = variance_over_people(people, difference_P)
    parts = [(over_people, max(1, number - 1))]
    parts += [(right.mean(1).var(ddof=1) / len(right), len(right) - 1) for right in rows if len(right) > 1]
    mean, variance = float(difference_P.mean()), sum(part for part, _ in parts)
    if variance == 0:
        return Interval(mean, mean)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def _decisions(right: ArrayLike) -> NDArray[np.bool_]:
    """Check decisions and return them as bool [runs, P]."""
    rows = np.atleast_2d(np.asarray(right))
    is_flags = rows.dtype == bool or np.isin(rows, (0, 1)).all()
    if rows.ndim != 2 or not rows.size or not is_flags:
        raise ValueError(f"decisions must be booleans of shape [P] or [runs, P], not empty; got shape {rows.shape}")
    return rows.astype(bool)


def _same_pairs(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"decisions on {a.shape[1]} and on {b.shape[1]} pairs; give decisions on the same test pairs")
