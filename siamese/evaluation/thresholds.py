"""Where to draw the line between "same" and "different", chosen on validation scores and used from then on.

A threshold ``t`` is used as "same if score >= t". Scores and labels as in `siamese.evaluation.metrics`, errors too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.config.threshold_rules import far_of
from siamese.evaluation.metrics import roc_curve


def choose_threshold(scores: ArrayLike, labels: ArrayLike, rule: str) -> float:
    """The threshold that ``rule`` picks on these scores.

    ``accuracy``: the most pairs decided rightly; ``eer``: false accept and false reject rates nearest to each other;
    ``far:RATE``: the most true accepts with a false accept rate of at most RATE. It lies midway between two
    neighbouring scores, so that a score just beside the last accepted one decides nothing. Of several equally good
    gaps, ``accuracy`` takes the middle of the one in the middle.

    Raises:
        ValueError: an unknown rule, a class is missing, or invalid scores and labels.
    """
    far = far_of(rule)
    fpr, tpr, thresholds = roc_curve(scores, labels)
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        raise ValueError("a threshold needs pairs of both labels to be chosen on")
    if rule == "accuracy":
        n_same = np.count_nonzero(np.asarray(labels) == 1)
        # In pairs, not rates: equal numbers must compare equal.
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
    """Midway between the lowest score accepted at an ROC point and the highest refused one."""
    if point == len(thresholds) - 1:
        return float(thresholds[point])  # every pair is accepted
    if point == 0:
        return float(np.nextafter(thresholds[1], np.inf))  # none is
    return float((thresholds[point] + thresholds[point + 1]) / 2)
