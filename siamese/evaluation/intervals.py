"""Confidence intervals for the figures of one test set.

All of them treat the pairs as independent draws. LFW's are not quite: a person, even an image, is in several
pairs, so the true uncertainty is somewhat larger. They say nothing about another seed, which trains another
network. ``level`` is the two-sided confidence level everywhere, in (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from siamese.evaluation.metrics import as_scores, midranks

Statistic = Callable[[NDArray[np.float64], NDArray[np.bool_]], float]
"""A figure of scores and labels, such as `siamese.evaluation.metrics.eer`."""


class Interval(NamedTuple):
    """Both ends of an interval; nan where it is not defined."""

    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan)


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    Unlike ``p +- z * sqrt(p (1 - p) / n)`` it stays within [0, 1] and is right near its ends too.

    Args:
        successes: in [0, n]; usually a count, but any ``p * n`` will do.
        n: trials, at least 1.
        level: see the head of this module.

    Raises:
        ValueError: impossible counts or level.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of n={n}: need 0 <= successes <= n and n >= 1")
    z = _normal_quantile(level)
    p, shrink = successes / n, 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not leave the estimate outside when all or none succeed.
    return Interval(max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def auc_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Interval:
    """DeLong's interval of the AUC, cut to [0, 1], in O(N log N).

    The variance is ``var(V10) / m + var(V01) / n`` over the structural components (DeLong, DeLong &
    Clarke-Pearson 1988, eq. 5), which are differences of midranks (Sun & Xu 2014, algorithm 2).

    Where that variance is 0, as when the classes are separated, it would claim certainty. The variance of an
    AUC ``A`` never exceeds ``A (1 - A) / min(m, n)``, that of a mean of min(m, n) independent comparisons
    (Hoeffding 1963, section 5), so the score interval with that bound is given instead: wide, but true.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N].
        level: see the head of this module.

    Returns:
        nan at both ends when a class has fewer than two pairs.

    Raises:
        ValueError: as in `siamese.evaluation.metrics`, or an impossible level.
    """
    score, is_same = as_scores(scores, labels)
    z = _normal_quantile(level)
    same, different = score[is_same], score[~is_same]
    m, n = len(same), len(different)
    if m < 2 or n < 2:
        return UNDEFINED
    ranks = midranks(np.concatenate([same, different]))
    beaten = (ranks[:m] - midranks(same)) / n  # V10: share of different pairs below each same pair
    above = 1 - (ranks[m:] - midranks(different)) / m  # V01: share of same pairs above each different pair
    area = float(beaten.mean())
    variance = float(beaten.var(ddof=1) / m + above.var(ddof=1) / n)
    if variance < 1e-24:  # rounding apart, 0
        return wilson(area * min(m, n), min(m, n), level)
    half = z * math.sqrt(variance)
    return Interval(max(0.0, area - half), min(1.0, area + half))


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval ``mean +- t * s / sqrt(N)`` of a mean, as of the losses of single pairs or of ten folds.

    t is the quantile of Student's distribution with N - 1 degrees of freedom.

    Args:
        values: float [N].
        level: see the head of this module.

    Returns:
        nan at both ends for a single value, which shows no spread.

    Raises:
        ValueError: no values, not one dimension, or an impossible level.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"values must be a filled array of one dimension, not of shape {array.shape}")
    upper = (1 + _checked(level)) / 2
    if len(array) < 2:
        return UNDEFINED
    t = float(stdtrit(len(array) - 1, upper))
    mean, half = float(array.mean()), t * float(array.std(ddof=1)) / math.sqrt(len(array))
    return Interval(mean - half, mean + half)


def bootstrap_interval(
    statistic: Statistic,
    scores: ArrayLike,
    labels: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap over pairs (Efron & Tibshirani 1993, chapter 13), for figures without a formula.

    Each resample draws N pairs with replacement, so that its share of same pairs varies as in drawing a
    test set. Resamples on which the statistic is nan, by lack of a class, are left out.

    Args:
        statistic: called with float64 [N] scores and bool [N] labels.
        scores: float [N], finite.
        labels: 0 or 1 [N].
        resamples: at least 1; the cost is that many calls of the statistic.
        seed: the same seed gives the same interval.
        level: see the head of this module.

    Returns:
        nan at both ends when the statistic is nan on every resample.

    Raises:
        ValueError: as in `siamese.evaluation.metrics`, or an impossible level or number of resamples.
    """
    score, same = as_scores(scores, labels)
    tail = (1 - _checked(level)) / 2
    if resamples < 1:
        raise ValueError(f"resamples={resamples} must be at least 1")
    rng = np.random.default_rng(seed)
    figures = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, len(score), len(score))
        figures[i] = statistic(score[drawn], same[drawn])
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return UNDEFINED
    low, high = np.quantile(figures, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _normal_quantile(level: float) -> float:
    """1.96 for 95 %."""
    return NormalDist().inv_cdf((1 + _checked(level)) / 2)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    return level
