"""Confidence intervals for the metrics of one test set.

If many pairs come from few people (`siamese.evaluation.people.are_few`), an interval is over people: it holds for other
people, with the quantile of Student's distribution. Otherwise, or if the people are not given, it treats the pairs as
independent. LFW's pairs are not quite independent, because a person or an image can be in several pairs: the true
uncertainty is somewhat larger. Intervals do not include the variation between seeds. ``level`` is the two-sided
confidence level in (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.metrics import as_scores, eer, midranks, roc_curve, tar_at_far
from siamese.evaluation.people import NumberedPeople, PairPeople, are_few, people_with_variation, variance_over_people

Statistic = Callable[[NDArray[np.float64], NDArray[np.bool_]], float]
"""A function of scores and labels, such as `siamese.evaluation.metrics.eer`."""


class Interval(NamedTuple):
    """Both ends of an interval; NaN if it is undefined."""

    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan)

LEAST_PEOPLE = 3
"""With fewer people, an interval over people is undefined."""


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Compute Wilson's score interval of a proportion (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    Unlike ``p +- z * sqrt(p (1 - p) / n)``, it stays within [0, 1] and is accurate near 0 and 1.

    Args:
        successes: number of successes in [0, n]; fractions are allowed.
        n: number of trials, at least 1.
        level: confidence level.

    Raises:
        ValueError: ``successes``, ``n`` or ``level`` is out of range.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of n={n}: need 0 <= successes <= n and n >= 1")
    return _wilson(successes / n, n, _normal_quantile(level))


def share_interval(
    right: ArrayLike,
    people: PairPeople | NumberedPeople,
    level: float = 0.95,
    over_people: bool | None = None,
) -> Interval:
    """Compute Wilson's interval of a share of pairs, such as the accuracy.

    Over people, N becomes the number of independent pairs with the same variance (Dean & Pagano 2015), and at most the
    number of people times half the number of people with errors.

    Args:
        right: bool [N], or shares in [0, 1].
        people: both people of each pair, [N].
        level: confidence level.
        over_people: whether the interval is over people; None: if they are few. For a part of the pairs, give
            `siamese.evaluation.people.are_few` of all pairs.

    Returns:
        the interval; NaN at both ends if it is over fewer than `LEAST_PEOPLE` people.

    Raises:
        ValueError: ``right`` is empty, or ``level`` is out of range.
    """
    values = np.asarray(right, dtype=np.float64)
    if over_people is None:
        over_people = are_few(people)
    if not len(values) or not over_people:
        return wilson(float(values.sum()), len(values), level)
    return _share_over_people(float(values.mean()), values, people, level)


def difference_interval(first: float, of_first: Interval, second: float, of_second: Interval) -> Interval:
    """Combine the intervals of two independent shares to that of ``first - second``.

    With Wilson's intervals it is Newcombe's method 10 (Newcombe 1998, "Interval estimation for the difference between
    independent proportions"), a case of the method of variance estimates recovery (`tar_interval`).

    Args:
        first, second: the shares.
        of_first, of_second: their intervals, of the same level.
    """
    difference = first - second
    below = math.hypot(first - of_first.low, of_second.high - second)
    above = math.hypot(of_first.high - first, second - of_second.low)
    return Interval(difference - below, difference + above)


def _share_over_people(
    share: float, values: NDArray[np.float64], people: PairPeople | NumberedPeople, level: float
) -> Interval:
    """The interval of a share, from the influence of each pair on it: ``values``, whose mean does not matter."""
    n, number = _effective_pairs(share, values, people)
    if number < LEAST_PEOPLE:
        return UNDEFINED
    return _wilson(share, max(1.0, n), _student_quantile(level, number - 1))


def _effective_pairs(
    share: float, values: NDArray[np.float64], people: PairPeople | NumberedPeople
) -> tuple[float, int]:
    """The number of independent pairs whose share has the variance of the mean of ``values``; the number of people."""
    variance, number = variance_over_people(people, values)
    # Few people with errors say little about how much people differ. With one or two of them, or without an error, each
    # person counts as one pair: that is right if all pairs of a person are right or all are wrong.
    if variance <= 1e-24:  # 0, apart from rounding
        return float(min(number, len(values))), number
    most = number * max(1.0, people_with_variation(people, values) / 2)
    return min(most, share * (1 - share) / variance), number


def _wilson(p: float, n: float, z: float) -> Interval:
    shrink = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not exclude the estimate if all or no trials succeed.
    return Interval(max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p)))


def auc_interval(
    scores: ArrayLike, labels: ArrayLike, people: PairPeople | NumberedPeople | None = None, level: float = 0.95
) -> Interval:
    """Compute DeLong's interval of the AUC, clipped to [0, 1], in O(N log N).

    The variance is ``var(V10) / m + var(V01) / n`` over the structural components (DeLong, DeLong & Clarke-Pearson
    1988, eq. 5), which are differences of midranks (Sun & Xu 2014, algorithm 2).

    If that variance is 0, for example because the classes are separated, the interval would have no width. Then
    Wilson's interval for min(m, n) trials is returned, which is wide but valid: the variance of an AUC ``A`` is at most
    ``A (1 - A) / min(m, n)``, the variance of a mean of min(m, n) independent comparisons (Hoeffding 1963, section 5).

    Over people, it is Wilson's interval for as many independent comparisons as have the variance of the components over
    people (cf. Obuchowski 1997).

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N].
        people: both people of each pair, [N]; None: treat the pairs as independent.
        level: confidence level.

    Returns:
        the interval; NaN at both ends if there are fewer than two same pairs or two different pairs, or if it is over
        fewer than `LEAST_PEOPLE` people.

    Raises:
        ValueError: the input is invalid (see `siamese.evaluation.metrics`), or ``level`` is out of range.
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
    if people is not None and are_few(people):
        return _share_over_people(area, _influence(beaten, above, is_same), people, level)
    variance = float(beaten.var(ddof=1) / m + above.var(ddof=1) / n)
    if variance < 1e-24:  # 0, apart from rounding
        return wilson(area * min(m, n), min(m, n), level)
    half = z * math.sqrt(variance)
    return Interval(max(0.0, area - half), min(1.0, area + half))


UNCLEAR = "not clearly above chance level"
"""Said of an accuracy if there are too few pairs or people to tell it from chance."""

CLOSE = 0.1
"""Accuracies that are less than this above the chance level count as chance level if the interval contains it."""


def not_above_chance(ends: Sequence[float] | None, chance: float | None) -> str:
    """Name an accuracy whose interval does not lie above `chance_level`; empty if it does, or if either is unknown.

    Returns:
        ``below chance level`` if the interval lies below; `UNCLEAR` if it also reaches to `CLOSE` above or more;
        otherwise ``chance level``.
    """
    if ends is None or chance is None or math.isnan(ends[0]) or ends[0] > chance:
        return ""
    if ends[1] < chance:
        return "below chance level"
    return UNCLEAR if ends[1] > chance + CLOSE else "chance level"


def mean_interval(
    values: ArrayLike, people: PairPeople | NumberedPeople | None = None, level: float = 0.95
) -> Interval:
    """Compute Student's interval of a mean: ``mean +- t * s / sqrt(N)``.

    t is the quantile of Student's distribution with N - 1 degrees of freedom; over people, with one less than people.

    Args:
        values: float [N], for example the losses of single pairs.
        people: both people of each pair, [N]; None: treat the values as independent.
        level: confidence level.

    Returns:
        the interval; NaN at both ends for a single value, or if it is over fewer than `LEAST_PEOPLE` people.

    Raises:
        ValueError: ``values`` is empty or not one-dimensional, or ``level`` is out of range.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"values must be a one-dimensional array that is not empty, not of shape {array.shape}")
    _checked(level)
    if len(array) < 2:
        return UNDEFINED
    mean, error, freedom = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(len(array)), len(array) - 1
    if people is not None and are_few(people):
        variance, number = variance_over_people(people, array)
        if number < LEAST_PEOPLE:
            return UNDEFINED
        error, freedom = math.sqrt(variance), number - 1
    half = _student_quantile(level, freedom) * error
    return Interval(mean - half, mean + half)


def eer_interval(scores: ArrayLike, labels: ArrayLike, people: PairPeople | NumberedPeople) -> Interval:
    """Compute a 95 % confidence interval of the equal error rate.

    It is a bootstrap over pairs (`bootstrap_interval`); over people, Wilson's interval for as many independent pairs as
    have the variance of the mean of both error rates at the threshold where they are equal.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N].
        people: both people of each pair, [N].

    Returns:
        the interval; NaN at both ends if a class is missing, or if it is over fewer than `LEAST_PEOPLE` people.
    """
    score, same = as_scores(scores, labels)
    rate = eer(score, same)
    if math.isnan(rate) or not are_few(people):
        return bootstrap_interval(eer, score, same)
    fpr, tpr, thresholds = roc_curve(score, same)
    accepted = score >= thresholds[np.argmin(np.abs(fpr - (1 - tpr)))]
    return _share_over_people(rate, _influence(~accepted[same], accepted[~same], same) / 2, people, 0.95)


def tar_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    far: float,
    people: PairPeople | NumberedPeople,
    level: float = 0.95,
    over_people: bool | None = None,
) -> Interval:
    """Compute an interval of the true accept rate at a false accept rate (`siamese.evaluation.metrics.tar_at_far`).

    Two things are uncertain: the rate at a threshold (Wilson), and the threshold, which the different pairs determine.
    The number of them above the right threshold is binomial, which gives the rates at the ends of an interval of
    thresholds. Both are combined by the method of variance estimates recovery (Zou and Donner 2008, "Construction of
    confidence limits about effect measures"). Over people, both count as many pairs as have their variance.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N].
        far: in (0, 1).
        people: both people of each pair, [N].
        level: confidence level.
        over_people: whether the interval is over people; None: if they are few.

    Returns:
        the interval; NaN at both ends if a class is missing, if it is over fewer than `LEAST_PEOPLE` people of either
        class, or if there are fewer than about ``3 / far`` different pairs, of which none may be above the right
        threshold.
    """
    score, is_same = as_scores(scores, labels)
    rate = tar_at_far(score, is_same, far)
    if math.isnan(rate):
        return UNDEFINED
    same, different = score[is_same], np.sort(score[~is_same])[::-1]

    def rate_above(k: float) -> float:
        """The rate if k different pairs were accepted."""
        return float(np.mean(same > different[min(max(int(k), 0), len(different) - 1)]))

    m, n = float(len(same)), float(len(different))
    z = _normal_quantile(level)
    known = people if isinstance(people, NumberedPeople) else NumberedPeople(people)
    if are_few(known) if over_people is None else over_people:
        accepted = (score > different[min(math.floor(far * n), len(different) - 1)]).astype(float)
        m, number = _effective_pairs(rate, accepted[is_same], known.part(is_same))
        n, of_different = _effective_pairs(far, accepted[~is_same], known.part(~is_same))
        if min(number, of_different) < LEAST_PEOPLE:
            return UNDEFINED
        z = _student_quantile(level, number - 1)
    if (1 - far) ** n > 1 - level:
        return UNDEFINED
    share = len(different) / n
    few, many = (_binomial_quantile(q, round(n), far) * share for q in ((1 - level) / 2, (1 + level) / 2))
    at_rate = _wilson(rate, max(1.0, m), z)
    low = math.hypot(rate - at_rate.low, rate - min(rate, rate_above(few - 1)))
    high = math.hypot(at_rate.high - rate, max(rate, rate_above(many)) - rate)
    return Interval(max(0.0, rate - low), min(1.0, rate + high))


def _influence(of_same: ArrayLike, of_different: ArrayLike, same: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The influence of each pair on the sum of two means, one over same pairs and one over different pairs, [N]."""
    values = np.empty(len(same))
    for kind, part in ((same, np.asarray(of_same, float)), (~same, np.asarray(of_different, float))):
        values[kind] = (part - part.mean()) * len(same) / len(part)
    return values


def bootstrap_interval(
    statistic: Statistic,
    scores: ArrayLike,
    labels: ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Compute a percentile bootstrap interval over pairs (Efron & Tibshirani 1993, chapter 13).

    Each resample draws N pairs with replacement, so the share of same pairs varies. Resamples whose statistic is
    NaN, because they lack a class, are skipped.

    Args:
        statistic: function of scores, float64 [N], and labels, bool [N].
        scores: float [N], finite.
        labels: 0 or 1 [N].
        resamples: number of resamples, at least 1.
        seed: random seed.
        level: confidence level.

    Returns:
        the interval; NaN at both ends if the statistic is NaN for every resample.

    Raises:
        ValueError: the input is invalid (see `siamese.evaluation.metrics`), or ``level`` or ``resamples`` is out of
            range.
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


def _binomial_quantile(q: float, n: int, p: float) -> int:
    from scipy.special import bdtr, bdtrik

    k = math.ceil(float(bdtrik(q, n, p)))
    return k - 1 if k and bdtr(k - 1, n, p) >= q else k


def _normal_quantile(level: float) -> float:
    """Return the quantile of the normal distribution for a two-sided level; 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + _checked(level)) / 2)


def _student_quantile(level: float, freedom: int) -> float:
    from scipy.special import stdtrit  # takes 0.2 s, which `siamese verify` does not need

    return float(stdtrit(freedom, (1 + _checked(level)) / 2))


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    return level
