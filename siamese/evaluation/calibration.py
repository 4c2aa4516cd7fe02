"""Probabilities that mean what they say: fitted on validation scores, judged on others.

Shapes: ``scores``, ``probabilities`` and ``labels`` are [N]; labels are 1 for a pair of the same person and 0 for
one of different people. All arithmetic is in float64. Errors as in `siamese.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.metrics import as_scores, sigmoid

MAX_STEPS = 100

LEAST_SLOPE = 1e-6
"""On scores of standard deviation 1: next to no difference in probability, but the order of the scores is kept."""


class Calibration(NamedTuple):
    """A line from scores to logits: the probability of "same" is ``sigmoid(slope * score + intercept)``.

    The default leaves scores that are logits already as they are.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def logits(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Scores -> logits, float64 of the same shape."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.intercept


class ReliabilityBin(NamedTuple):
    """Pairs with a probability in [low, high): how many, its mean, and the share of them that are "same"."""

    low: float
    high: float
    n: int
    probability: float
    frequency: float


def fit_platt(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Platt's scaling: the logistic regression of labels on scores, with his softened targets.

    Targets (n_same + 1) / (n_same + 2) and 1 / (n_different + 2) instead of 1 and 0 keep the slope finite where the
    scores separate the classes (Platt 1999; minimised by Newton's method with step halving as in Lin, Lin and
    Weng 2007). The slope is kept above 0, below which it would turn the order of the scores round.

    Raises:
        ValueError: a class is missing, or as above.
    """
    score, same = _both_classes(scores, labels)
    centre, spread = float(score.mean()), float(score.std())
    if spread <= 1e-12 * float(np.abs(score).max()):
        spread = 1.0  # all scores are equal, to rounding
    x = np.stack([(score - centre) / spread, np.ones_like(score)])
    n_same = np.count_nonzero(same)
    target = np.where(same, (n_same + 1) / (n_same + 2), 1 / (len(score) - n_same + 2))
    slope, intercept = _minimise(x, target)
    if slope < LEAST_SLOPE:
        slope, intercept = LEAST_SLOPE, float(np.log(target.mean() / (1 - target.mean())))
    return Calibration(slope / spread, intercept - slope * centre / spread)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Temperature scaling: logits divided by the number that minimises the cross-entropy (Guo et al. 2017, sec. 4.2).

    The decision at probability 0.5 stays as it is. Fitted to Platt's softened targets, so that the temperature of
    separable logits is not 0; always positive.

    Raises:
        ValueError: a class is missing, or as above.
    """
    logit, same = _both_classes(logits, labels)
    spread = float(np.abs(logit).mean()) or 1.0
    n_same = np.count_nonzero(same)
    target = np.where(same, (n_same + 1) / (n_same + 2), 1 / (len(logit) - n_same + 2))
    (slope,) = _minimise((logit / spread)[None], target)
    return Calibration(max(slope, LEAST_SLOPE) / spread, 0.0)


FITS: dict[str, Callable[[ArrayLike, ArrayLike], Calibration]] = {"platt": fit_platt, "temperature": fit_temperature}


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared difference of probability and label (Brier 1950, for two classes); 0.5 for every pair gives 0.25."""
    probability, same = _as_probabilities(probabilities, labels)
    return float(np.mean((probability - same) ** 2))


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The reliability diagram in bins of equal width; empty bins are left out.

    Raises:
        ValueError: besides the usual, ``bins`` is below 1.
    """
    probability, same = _as_probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    place = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            k / bins, (k + 1) / bins, int(inside.sum()), float(probability[inside].mean()), float(same[inside].mean())
        )
        for k in range(bins)
        if (inside := place == k).any()
    ]


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: the mean distance of probability and frequency over bins of equal width.

    Weighted by the pairs in each bin (Guo et al. 2017, eq. 3, for the probability of "same"). It is above 0 by chance
    even for true probabilities, the more so with few pairs in a bin.
    """
    found = reliability(probabilities, labels, bins)
    return sum(b.n * abs(b.probability - b.frequency) for b in found) / sum(b.n for b in found)


def _minimise(x: NDArray[np.float64], target: NDArray[np.float64]) -> list[float]:
    """The weights [K] of the logistic regression of ``target`` [N] on ``x`` [K, N]: Newton with step halving."""

    def loss(w: NDArray[np.float64]) -> float:
        logit = w @ x
        return float(np.sum(np.logaddexp(0.0, logit) - target * logit))

    w = np.zeros(len(x))
    best = loss(w)
    for _ in range(MAX_STEPS):
        p = sigmoid(w @ x)
        gradient = x @ (p - target)
        hessian = (x * (p * (1 - p))) @ x.T + 1e-12 * np.eye(len(x))
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-14 * max(1.0, best):
            break
        size = 1.0
        while (value := loss(w - size * step)) > best and size > 1e-10:
            size /= 2
        if value >= best:
            break
        w, best = w - size * step, value
    return [float(value) for value in w]


def _both_classes(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score, same = as_scores(scores, labels)
    if same.all() or not same.any():
        raise ValueError("there is nothing to fit with pairs of one label only")
    return score, same


def _as_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    probability, same = as_scores(probabilities, labels)
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], not {probability.min()} .. {probability.max()}")
    return probability, same
