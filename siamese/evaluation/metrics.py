"""Metrics of verification, as pure functions of scores and labels.

Shapes: ``scores``, ``logits``, ``predicted`` and ``labels`` are [N]. Labels are 1 for a same pair and 0 for a different
pair. A higher score means more similar. All computations are in float64.

Every function raises ValueError if an array is empty or not one-dimensional, if arrays differ in length, if a label is
not 0 or 1, or if a score is NaN or infinite. A metric that needs both classes is NaN if one of them is missing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Confusion(NamedTuple):
    """Counts of true and false positives and negatives; "positive" means predicted as "same"."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def accuracy(self) -> float:
        """Share of correct predictions."""
        return (self.tp + self.tn) / sum(self)


class Roc(NamedTuple):
    """Receiver operating characteristic (ROC), for K distinct scores.

    Point k has the rates of the rule "same if score >= thresholds[k]".

    Attributes:
        fpr: false positive rates, float64 [K + 1].
        tpr: true positive rates, float64 [K + 1].
        thresholds: float64 [K + 1], in falling order. The first is inf, which accepts no pair; the last is the lowest
            score, which accepts every pair.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]


def confusion(predicted: ArrayLike, labels: ArrayLike) -> Confusion:
    """Count the outcomes of ``predicted`` (0 or 1, or bool) against ``labels``."""
    answer, same = as_flags(predicted, "predicted"), as_flags(labels, "labels")
    _same_length(answer, same, "predicted")
    tp, fp = np.count_nonzero(answer & same), np.count_nonzero(answer & ~same)
    tn, fn = np.count_nonzero(~answer & ~same), np.count_nonzero(~answer & same)
    return Confusion(int(tp), int(fp), int(tn), int(fn))


def accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Compute the share of pairs whose ``predicted`` (0 or 1, or bool) equals the label."""
    return confusion(predicted, labels).accuracy


def chance_level(same: int, different: int) -> float | None:
    """Compute the accuracy of always predicting the more frequent class, for ``same`` and ``different`` pairs.

    It is 0.5 for as many same pairs as different pairs, and None without both, which leaves nothing to tell apart.
    """
    return max(same, different) / (same + different) if same and different else None


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Roc:
    """Compute the ROC with one point for each distinct score, from (0, 0) to (1, 1).

    Pairs with equal scores share a point, so the curve does not depend on their order (Fawcett 2006, "An introduction
    to ROC analysis", algorithm 1). The rates of a missing class are NaN.
    """
    score, same = as_scores(scores, labels)
    order = np.argsort(-score, kind="stable")
    score, same = score[order], same[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    tp = np.append(0, np.cumsum(same)[last_of_tie])
    fp = np.append(0, np.cumsum(~same)[last_of_tie])
    return Roc(_rate(fp), _rate(tp), np.append(np.inf, score[last_of_tie]))


def corners(roc: Roc) -> Roc:
    """Drop the points of an ROC at which it goes straight on, upwards or to the right.

    Of m same and n different pairs, at most ``2 min(m, n) + 2`` points remain. The line through them stays the same.
    """
    right, up = np.diff(roc.fpr) > 0, np.diff(roc.tpr) > 0
    straight = (right[:-1] == right[1:]) & (up[:-1] == up[1:]) & (right[1:] != up[1:])
    kept = np.concatenate([[True], ~straight, [True]])
    return Roc(roc.fpr[kept], roc.tpr[kept], roc.thresholds[kept])


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Compute the area under the ROC curve (AUC); NaN if a class is missing.

    It is computed as the Mann-Whitney statistic: the probability that a random same pair has a higher score than a
    random different pair, with ties counted half. This equals the trapezoidal area under `roc_curve` (Hanley & McNeil
    1982).
    """
    score, same = as_scores(scores, labels)
    n_same, n_different = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    if not n_same or not n_different:
        return float("nan")
    rank_sum = float(midranks(score)[same].sum())
    return (rank_sum - n_same * (n_same + 1) / 2) / (n_same * n_different)


def eer(scores: ArrayLike, labels: ArrayLike) -> float:
    """Compute the equal error rate, where false positive and false negative rate are equal; NaN if a class is missing.

    The ROC is interpolated linearly: the result is its intersection with the diagonal from (0, 1) to (1, 0).
    """
    fpr, tpr, _ = roc_curve(scores, labels)
    excess = fpr - (1 - tpr)  # rises from -1 to 1
    if np.isnan(excess).any():
        return float("nan")
    after = int(np.argmax(excess >= 0))
    before = after - 1
    step = excess[before] / (excess[before] - excess[after])
    return float(fpr[before] + step * (fpr[after] - fpr[before]))


def tar_at_far(scores: ArrayLike, labels: ArrayLike, far: float) -> float:
    """Compute the true accept rate at a false accept rate of at most ``far``; NaN if a class is missing.

    It is the highest true positive rate of any threshold whose false positive rate is at most ``far``, without
    interpolation.

    Raises:
        ValueError: ``far`` is not in [0, 1], or the input is invalid.
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far={far} must lie in [0, 1]")
    fpr, tpr, _ = roc_curve(scores, labels)
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        return float("nan")
    return float(tpr[fpr <= far].max())


def bce_with_logits(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Compute the binary cross-entropy of each pair in nats, float64 [N].

    It is ``-log sigmoid(z)`` for a same pair and ``-log(1 - sigmoid(z))`` for a different pair. Both equal
    ``log(1 + exp(-+z))``, and logaddexp stays accurate if the sigmoid rounds to 0 or 1.
    """
    logit, same = as_scores(logits, labels)
    losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(same, -logit, logit))
    return losses


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Convert logits to probabilities of "same", float64 of the same shape, without overflow."""
    logit = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logit))
    probabilities: NDArray[np.float64] = np.where(logit >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the ranks of ``values`` [N], starting at 1; equal values get the mean of their ranks. O(N log N)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def as_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Check scores and labels; returns them as float64 [N] and bool [N].

    Raises:
        ValueError: the input is invalid, see the top of this module.
    """
    score, same = np.asarray(scores, dtype=np.float64), as_flags(labels, "labels")
    _same_length(score, same, "scores")
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(score)} scores are not finite, the first at index {bad[0]}: {score[bad[0]]}"
        )
    return score, same


def as_flags(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Check values 0 and 1; returns them as bool [N].

    Raises:
        ValueError: the values are invalid; the message contains ``name``.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} is empty: there is nothing to measure")
    flags: NDArray[np.bool_] = array == 1
    if bad := set(array[~flags & (array != 0)].tolist()):
        raise ValueError(f"{name} must be 0 or 1, not {sorted(bad, key=str)[:5]}")
    return flags


def _same_length(values: NDArray[np.generic], same: NDArray[np.bool_], name: str) -> None:
    if values.shape != same.shape:
        raise ValueError(f"{name} and labels differ in shape: {values.shape} and {same.shape}")


def _rate(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide cumulative counts by the last one; NaN if that is 0."""
    return counts / counts[-1] if counts[-1] else np.full(len(counts), np.nan)
