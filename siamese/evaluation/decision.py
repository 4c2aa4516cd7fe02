"""From the score of a pair to an answer: calibration, then a threshold on the probability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.calibration import FITS, Calibration
from siamese.evaluation.metrics import sigmoid
from siamese.evaluation.thresholds import choose_threshold


class Decision(NamedTuple):
    """What belongs to a network from its validation on: how scores become probabilities and these become answers.

    Attributes:
        calibration: scores -> logits.
        threshold: "same" from this probability on.
    """

    calibration: Calibration
    threshold: float

    def probabilities(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Scores -> probabilities of "same", float64 of the same shape."""
        return sigmoid(self.calibration.logits(scores))

    def predict(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Scores -> whether each pair is called "same"."""
        return self.probabilities(scores) >= self.threshold


def choose_decision(scores: ArrayLike, labels: ArrayLike, calibration: str, threshold: float | str) -> Decision:
    """Fit on the validation pairs what is left to them.

    Args:
        scores: float [N], of validation pairs; logits when ``calibration`` is ``none``.
        labels: 0 or 1 [N].
        calibration: ``none``, or one of `siamese.evaluation.calibration.FITS`.
        threshold: a probability, or a rule of `siamese.evaluation.rules`.

    Raises:
        ValueError: as in `siamese.evaluation.calibration` and `siamese.evaluation.thresholds`.
    """
    line = Calibration() if calibration == "none" else FITS[calibration](scores, labels)
    if isinstance(threshold, str):
        logits = line.logits(scores)
        chosen = choose_threshold(logits, labels, threshold)
        threshold, refused = float(sigmoid(chosen)), sigmoid(logits[logits < chosen])
        if refused.size and threshold <= refused.max():  # neighbours that the sigmoid rounds to one probability
            threshold = min(1.0, float(np.nextafter(refused.max(), np.inf)))
    return Decision(line, threshold)
