"""Turn the score of a pair into a decision: calibration, then a threshold on the probability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.calibration import FITS, Calibration
from siamese.evaluation.metrics import sigmoid
from siamese.evaluation.thresholds import choose_threshold


class Decision(NamedTuple):
    """How the scores of a network become probabilities and decisions; chosen on its validation pairs.

    Attributes:
        calibration: scores -> logits.
        threshold: smallest probability that is predicted as "same".
    """

    calibration: Calibration
    threshold: float

    def recorded(self) -> dict[str, float]:
        """Return the keys of ``result.json``."""
        line = {f"calibration/{name}": value for name, value in self.calibration._asdict().items()}
        return {"threshold": self.threshold, **line}

    def probabilities(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Convert scores to probabilities of "same", float64 of the same shape."""
        return sigmoid(self.calibration.logits(scores))

    def predict(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Return whether each score is predicted as "same", bool of the same shape."""
        return self.probabilities(scores) >= self.threshold


def choose_decision(scores: ArrayLike, labels: ArrayLike, calibration: str, threshold: float | str) -> Decision:
    """Choose calibration and threshold on the validation pairs.

    Args:
        scores: float [N]; logits if ``calibration`` is ``none``.
        labels: 0 or 1 [N].
        calibration: ``none``, or a key of `siamese.evaluation.calibration.FITS`.
        threshold: a probability, or a rule (`siamese.evaluation.thresholds.choose_threshold`).

    Raises:
        ValueError: as in `siamese.evaluation.calibration` and `siamese.evaluation.thresholds`.
    """
    fitted = Calibration() if calibration == "none" else FITS[calibration](scores, labels)
    if isinstance(threshold, str):
        logits = fitted.logits(scores)
        chosen = choose_threshold(logits, labels, threshold)
        threshold, refused = float(sigmoid(chosen)), sigmoid(logits[logits < chosen])
        if refused.size and threshold <= refused.max():  # the sigmoid rounds both to one probability
            threshold = min(1.0, float(np.nextafter(refused.max(), np.inf)))
    return Decision(fitted, threshold)
