"""Figures of a verifier as pure functions of scores and labels.

Shapes: ``scores``, ``logits``, ``predicted`` and ``labels`` are [N]. Labels are 1 for a pair of the same
person and 0 for one of different people; a higher score says "same". All arithmetic is in float64.

Every function raises ValueError for empty input, for arrays that are not one-dimensional or not equally long,
for labels other than 0 and 1, and for scores that are NaN or infinite. A figure that needs both classes is
nan when one is missing: that says something about the data, not about the call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Confusion(NamedTuple):
    """Counts of the four outcomes; "positive" is the answer "same person"."""

    tp: int
    fp: int
    tn: int
    fn: int


class Roc(NamedTuple):
    """The receiver operating characteristic as float64 arrays [K + 1], K the number of distinct scores.

    Point k is what the rule "same if score >= thresholds[k]" gives; thresholds fall, from inf, where every
    pair is refused, to the lowest score, where every pair is accepted.
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
    """Share of pairs whose ``predicted`` (0 or 1, or bool) is their label."""
    counts = confusion(predicted, labels)
    return (counts.tp + counts.tn) / sum(counts)


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Roc:
    """The ROC with one point for each distinct score, from (0, 0) to (1, 1).

    Tied pairs enter together, so that the curve does not depend on their order (Fawcett, "An introduction to
    ROC analysis", 2006, algorithm 1). The rate of a class that is missing is nan all along.
    """
    score, same = as_scores(scores, labels)
    order = np.argsort(-score, kind="stable")
    score, same = score[order], same[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    tp = np.append(0, np.cumsum(same)[last_of_tie])
    fp = np.append(0, np.cumsum(~same)[last_of_tie])
    return Roc(_rate(fp), _rate(tp), np.append(np.inf, score[last_of_tie]))


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC; nan when a class is missing.

    Computed as the Mann-Whitney statistic: the chance that a random same pair scores higher than a random
    different one, ties counted half. That is the trapezoidal area under `roc_curve` (Hanley & McNeil 1982).
    """
    score, same = as_scores(scores, labels)
    n_same, n_different = int(np.count_nonzero(same)), int(np.count_nonzero(~same))
    if not n_same or not n_different:
        return float("nan")
    rank_sum = float(midranks(score)[same].sum())
    return (rank_sum - n_same * (n_same + 1) / 2) / (n_same * n_different)


def eer(scores: ArrayLike, labels: ArrayLike) -> float:
    """Equal error rate: where false positive and false negative rate meet; nan when a class is missing.

    Between the two ROC points where the rates cross both are interpolated linearly, as on the ROC's segments:
    the point where the ROC meets the diagonal from (0, 1) to (1, 0).
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
    """True accept rate at a false accept rate of at most ``far``; nan when a class is missing.

    The highest true positive rate of a threshold whose false positive rate does not exceed ``far``: one
    that can be set, nothing interpolated.

    Raises:
        ValueError: besides the usual, ``far`` lies outside [0, 1].
    """
    if not 0 <= far <= 1:
        raise ValueError(f"far={far} must lie in [0, 1]")
    fpr, tpr, _ = roc_curve(scores, labels)
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        return float("nan")
    return float(tpr[fpr <= far].max())


def bce_with_logits(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Binary cross-entropy in nats of each pair, float64 [N].

    ``-log sigmoid(z)`` for a same and ``-log(1 - sigmoid(z))`` for a different pair, both of which are
    ``log(1 + exp(-+z))``; written with logaddexp, it stays exact where the sigmoid rounds to 0 or 1.
    """
    logit, same = as_scores(logits, labels)
    losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(same, -logit, logit))
    return losses


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Probability of "same" from a logit, float64 of the same shape; no overflow at either end."""
    logit = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(logit))
    probabilities: NDArray[np.float64] = np.where(logit >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 of ``values`` [N], tied values sharing the mean of their ranks; O(N log N)."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks


def as_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Checked input of every function here: scores as float64 [N], labels as bool [N].

    Raises:
        ValueError: see the head of this module; the message says which and where.
    """
    score, same = np.asarray(scores, dtype=np.float64), as_flags(labels, "labels")
    _same_length(score, same, "scores")
    bad = np.flatnonzero(~np.isfinite(score))
    if len(bad):
        raise ValueError(f"{len(bad)} of {len(score)} scores are not finite, the first at {bad[0]}: {score[bad[0]]}")
    return score, same


def as_flags(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    """Values 0 and 1 as bool [N]; ``name`` is for the message of a ValueError."""
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
    """Cumulated counts as a share of the last; nan when there is nothing to count."""
    return counts / counts[-1] if counts[-1] else np.full(len(counts), np.nan)
