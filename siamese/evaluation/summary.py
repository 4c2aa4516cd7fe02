"""All metrics of a set of scored pairs, in the form of ``result.json``."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from siamese.evaluation.calibration import brier, ece
from siamese.evaluation.intervals import (
    Interval,
    auc_interval,
    eer_interval,
    mean_interval,
    share_interval,
    tar_interval,
)
from siamese.evaluation.metrics import as_flags, auc, bce_with_logits, confusion, eer, sigmoid, tar_at_far
from siamese.evaluation.people import NumberedPeople, PairPeople, are_few

FARS = (1e-2, 1e-3, 1e-4)
"""False accept rates at which the true accept rate is reported, if there are at least 1 / rate different pairs."""

Figure = float | list[float] | str | None


def summarise(logits: ArrayLike, labels: ArrayLike, people: PairPeople, threshold: float = 0.5) -> dict[str, Figure]:
    """Compute loss, accuracy, AUC and equal error rate (EER) with 95 % confidence intervals, and other metrics.

    A pair is predicted as "same" if sigmoid(logit) >= ``threshold``. The intervals are those of Wilson (accuracy),
    DeLong (AUC) and Student (loss), and a bootstrap over pairs (EER); or over people, if many pairs come from few.

    Args:
        logits: float [N], finite.
        labels: 0 or 1 [N].
        people: both people of each pair, [N].
        threshold: decision boundary on the probability, in [0, 1].

    Returns:
        ``loss``, ``acc``, ``auc``, ``eer``, ``brier``, ``ece``, and ``tar@far=RATE`` for each of `FARS` (float);
        ``loss_ci``, ``acc_ci``, ``auc_ci``, ``eer_ci``, ``tar@far=RATE_ci`` ([low, high]); ``ci_over`` (``pairs`` or
        ``people``); ``tp``, ``fp``, ``tn``, ``fn`` (int). All
        numbers are plain Python numbers. An undefined value is None, because JSON has no NaN: AUC and EER without both
        classes, an interval with too few pairs or people.

    Raises:
        ValueError: the input is invalid (see `siamese.evaluation.metrics`), or ``threshold`` is not in [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must lie in [0, 1]: it is a probability")
    known = NumberedPeople(people)
    losses = bce_with_logits(logits, labels)
    probabilities = sigmoid(logits)
    predicted = probabilities >= threshold
    counts = confusion(predicted, labels)
    rates: dict[str, Figure] = {}
    for far in FARS:
        if counts.tp + counts.fn and (counts.fp + counts.tn) * far >= 1:
            rates[f"tar@far={far:g}"] = tar_at_far(logits, labels, far)
            rates[f"tar@far={far:g}_ci"] = _ends(tar_interval(logits, labels, far, known))
    # AUC and EER need the logits: probabilities that the sigmoid rounds to 0 or 1 have lost their order.
    return {
        "loss": float(losses.mean()),
        "loss_ci": _ends(mean_interval(losses, known)),
        "acc": counts.accuracy,
        "acc_ci": _ends(share_interval(predicted == as_flags(labels, "labels"), known)),
        "auc": _or_none(auc(logits, labels)),
        "auc_ci": _ends(auc_interval(logits, labels, known)),
        "eer": _or_none(eer(logits, labels)),
        "eer_ci": _ends(eer_interval(logits, labels, known)),
        **rates,
        "ci_over": "people" if are_few(known) else "pairs",
        "brier": brier(probabilities, labels),
        "ece": ece(probabilities, labels),
        **counts._asdict(),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ends(interval: Interval) -> list[float] | None:
    return None if math.isnan(interval.low) else list(interval)
