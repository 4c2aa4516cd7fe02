"""All metrics of a set of scored pairs, in the form of ``result.json``."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from siamese.evaluation.calibration import brier, ece
from siamese.evaluation.intervals import Interval, auc_interval, bootstrap_interval, mean_interval, wilson
from siamese.evaluation.metrics import auc, bce_with_logits, confusion, eer, sigmoid

Figure = float | list[float] | None


def summarise(logits: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> dict[str, Figure]:
    """Compute loss, accuracy, AUC and equal error rate (EER) with 95 % confidence intervals, and other metrics.

    A pair is predicted as "same" if sigmoid(logit) >= ``threshold``. The intervals treat the pairs as independent. They
    are those of Wilson (accuracy), DeLong (AUC) and Student (loss), and a bootstrap over pairs (EER).

    Args:
        logits: float [N], finite.
        labels: 0 or 1 [N].
        threshold: decision boundary on the probability, in [0, 1].

    Returns:
        ``loss``, ``acc``, ``auc``, ``eer``, ``brier``, ``ece`` (float); ``loss_ci``, ``acc_ci``, ``auc_ci``,
        ``eer_ci`` ([low, high]); ``tp``, ``fp``, ``tn``, ``fn`` (int). All are plain Python numbers. An undefined value
        is None, because JSON has no NaN: AUC and EER without both classes, an interval with too few pairs.

    Raises:
        ValueError: the input is invalid (see `siamese.evaluation.metrics`), or ``threshold`` is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie in [0, 1]: it is a probability")
    losses = bce_with_logits(logits, labels)
    probabilities = sigmoid(logits)
    counts = confusion(probabilities >= threshold, labels)
    # AUC and EER need the logits: probabilities that the sigmoid rounds to 0 or 1 have lost their order.
    return {
        "loss": float(losses.mean()),
        "loss_ci": _ends(mean_interval(losses)),
        "acc": counts.accuracy,
        "acc_ci": _ends(wilson(counts.tp + counts.tn, sum(counts))),
        "auc": _or_none(auc(logits, labels)),
        "auc_ci": _ends(auc_interval(logits, labels)),
        "eer": _or_none(eer(logits, labels)),
        "eer_ci": _ends(bootstrap_interval(eer, logits, labels)),
        "brier": brier(probabilities, labels),
        "ece": ece(probabilities, labels),
        **counts._asdict(),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else list(interval)
