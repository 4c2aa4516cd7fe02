"""Choose a threshold on validation scores: a pair with at least this score is predicted as "same".

Scores, labels and errors are those of `siamese.evaluation.metrics`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.config.threshold_rules import far_of
from siamese.evaluation.metrics import roc_curve


def choose_threshold(scores: ArrayLike, labels: ArrayLike, rule: str) -> float:
    """Choose the threshold for these scores.

    The threshold lies midway between two neighbouring scores.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N].
        rule: ``accuracy``: maximize the accuracy; of several equally good thresholds, take the middle one. ``eer``:
            make false accept rate and false reject rate as equal as possible. ``far:RATE``: maximize the true accept
            rate with a false accept rate of at most RATE.

    Raises:
        ValueError: the rule is unknown, there are no same pairs or no different pairs, or the input is invalid.
    """
    far = far_of(rule)
    fpr, tpr, thresholds = roc_curve(scores, labels)
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        raise ValueError("choosing a threshold needs at least one same pair (label 1) and one different pair (label 0)")
    if rule == "accuracy":
        n_same = np.count_nonzero(np.asarray(labels) == 1)
        # Whole numbers of pairs, because rounded rates could differ although the numbers are equal.
        right = np.rint(tpr * n_same + (1 - fpr) * (np.size(labels) - n_same))
        ties = np.flatnonzero(right == right.max())
        point = int(ties[len(ties) // 2])
    elif rule == "eer":
        point = int(np.argmin(np.abs(fpr - (1 - tpr))))
    else:
        assert far is not None
        point = int(np.flatnonzero(fpr <= far)[-1])
    return _above(thresholds, point)


def _above(thresholds: NDArray[np.float64], point: int) -> float:
    """Return the mean of the lowest accepted and the highest rejected score at an ROC point."""
    if point == len(thresholds) - 1:
        return float(thresholds[point])  # accepts every pair
    if point == 0:
        return float(np.nextafter(thresholds[1], np.inf))  # accepts no pair
    return float((thresholds[point] + thresholds[point + 1]) / 2)
