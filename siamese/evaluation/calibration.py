"""Calibration: fit a function from scores to probabilities, and measure how well probabilities are calibrated.

Shapes: ``scores``, ``probabilities`` and ``labels`` are [N]. Labels are 1 for a same pair and 0 for a different pair.
All computations are in float64. Errors are those of `siamese.evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.metrics import as_scores, sigmoid

MAX_STEPS = 100

LEAST_SLOPE = 1e-6
"""Smallest slope on scores with standard deviation 1: probabilities are almost equal, but keep the order of scores."""


class Calibration(NamedTuple):
    """A linear function from scores to logits: the probability of "same" is ``sigmoid(slope * score + intercept)``.

    The default returns scores unchanged, for scores that are logits already.
    """

    slope: float = 1.0
    intercept: float = 0.0

    def logits(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Convert scores to logits, float64 of the same shape."""
        return self.slope * np.asarray(scores, dtype=np.float64) + self.intercept


class ReliabilityBin(NamedTuple):
    """The pairs with a probability in [low, high); the last bin includes 1.

    Attributes:
        low, high: limits of the bin.
        n: number of pairs.
        probability: mean probability of "same".
        frequency: share of same pairs.
        rows: which pairs, int64 [n].
    """

    low: float
    high: float
    n: int
    probability: float
    frequency: float
    rows: NDArray[np.int64]


def fit_platt(scores: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit Platt scaling: a logistic regression of labels on scores, with softened targets (Platt 1999).

    The targets are (n_same + 1) / (n_same + 2) and 1 / (n_different + 2) instead of 1 and 0. They keep the slope finite
    if the scores separate the classes. The fit uses Newton's method with step halving (Lin, Lin and Weng 2007). The
    slope stays above 0: a negative slope would reverse the order of the scores.

    Raises:
        ValueError: there are no same pairs or no different pairs, or the input is invalid.
    """
    score, same = _both_classes(scores, labels)
    centre, spread = float(score.mean()), float(score.std())
    if spread <= 1e-12 * float(np.abs(score).max()):
        spread = 1.0  # all scores are equal, apart from rounding
    x = np.stack([(score - centre) / spread, np.ones_like(score)])
    n_same = np.count_nonzero(same)
    target = np.where(same, (n_same + 1) / (n_same + 2), 1 / (len(score) - n_same + 2))
    slope, intercept = _minimise(x, target)
    if slope < LEAST_SLOPE:
        slope, intercept = LEAST_SLOPE, float(np.log(target.mean() / (1 - target.mean())))
    return Calibration(slope / spread, intercept - slope * centre / spread)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Fit temperature scaling: divide logits by the number that minimizes the cross-entropy (Guo et al. 2017).

    Decisions at probability 0.5 do not change. The targets are softened as in `fit_platt`, so that the temperature of
    separable logits is above 0.

    Raises:
        ValueError: there are no same pairs or no different pairs, or the input is invalid.
    """
    logit, same = _both_classes(logits, labels)
    spread = float(np.abs(logit).mean()) or 1.0
    n_same = np.count_nonzero(same)
    target = np.where(same, (n_same + 1) / (n_same + 2), 1 / (len(logit) - n_same + 2))
    (slope,) = _minimise((logit / spread)[None], target)
    return Calibration(max(slope, LEAST_SLOPE) / spread, 0.0)


def fit_fusion(logits_MN: Sequence[ArrayLike], labels: ArrayLike) -> NDArray[np.float64]:
    """Fit the weights of several scores of each pair by logistic regression (Bruemmer et al. 2007, linear fusion).

    The targets are softened as in `fit_platt`. A score that would get a negative weight is left out.

    Args:
        logits_MN: calibrated logits [N] of each of M members.
        labels: [N].

    Returns:
        weights, at least 0 and with sum 1, float64 [M]; equal ones if no score has a positive weight.

    Raises:
        ValueError: there are no same pairs or no different pairs, or the input is invalid.
    """
    x_MN = np.stack([_both_classes(logits, labels)[0] for logits in logits_MN])
    same = _both_classes(x_MN[0], labels)[1]
    n_same = np.count_nonzero(same)
    target = np.where(same, (n_same + 1) / (n_same + 2), 1 / (len(same) - n_same + 2))
    used = np.ones(len(x_MN), dtype=bool)
    while used.any():
        x = np.vstack([x_MN[used], np.ones(len(same))])
        # Members can be copies of each other, whose Hessian has no inverse.
        fitted = np.array(_minimise(x, target, damping=1e-6 * len(same))[:-1])
        if fitted.min() >= 0 and fitted.sum() > 0:
            weights = np.zeros(len(x_MN))
            weights[used] = fitted / fitted.sum()
            return weights
        used[np.flatnonzero(used)[fitted.argmin()]] = False
    return np.full(len(x_MN), 1 / len(x_MN))


FITS: dict[str, Callable[[ArrayLike, ArrayLike], Calibration]] = {"platt": fit_platt, "temperature": fit_temperature}


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Compute the Brier score: the mean squared difference between probability and label (Brier 1950), in [0, 1].

    Predicting 0.5 for every pair gives 0.25.
    """
    probability, same = _as_probabilities(probabilities, labels)
    return float(np.mean((probability - same) ** 2))


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Compute the reliability diagram with bins of equal width, without empty bins.

    Raises:
        ValueError: ``bins`` is below 1, or the input is invalid.
    """
    probability, same = _as_probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    place = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            k / bins, (k + 1) / bins, len(rows), float(probability[rows].mean()), float(same[rows].mean()), rows
        )
        for k in range(bins)
        if len(rows := np.flatnonzero(place == k))
    ]


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Compute the expected calibration error: the mean difference between probability and frequency over bins.

    Bins have equal width and are weighted by their pairs (Guo et al. 2017, eq. 3, for the probability of "same"). By
    chance the error is above 0 even for perfectly calibrated probabilities, especially with few pairs per bin.
    """
    found = reliability(probabilities, labels, bins)
    return sum(b.n * abs(b.probability - b.frequency) for b in found) / sum(b.n for b in found)


def _minimise(x: NDArray[np.float64], target: NDArray[np.float64], damping: float = 1e-12) -> list[float]:
    """Fit a logistic regression of ``target`` [N] on ``x`` [K, N] by Newton's method; returns the weights [K].

    ``damping`` is added to the diagonal of the Hessian, which leaves the minimum where it is.
    """

    def loss(w: NDArray[np.float64]) -> float:
        logit = w @ x
        return float(np.sum(np.logaddexp(0.0, logit) - target * logit))

    w = np.zeros(len(x))
    best = loss(w)
    for _ in range(MAX_STEPS):
        p = sigmoid(w @ x)
        gradient = x @ (p - target)
        hessian = (x * (p * (1 - p))) @ x.T + damping * np.eye(len(x))
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
        raise ValueError("calibration needs at least one same pair (label 1) and one different pair (label 0)")
    return score, same


def _as_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    probability, same = as_scores(probabilities, labels)
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(f"probabilities must lie in [0, 1], not {probability.min()} .. {probability.max()}")
    return probability, same
