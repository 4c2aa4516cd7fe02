"""Write the curves of a run page as tables, from the scored pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from siamese.data.lists import people_of_each
from siamese.evaluation.calibration import reliability
from siamese.evaluation.intervals import share_interval
from siamese.evaluation.metrics import Roc, corners, roc_curve
from siamese.evaluation.people import PairPeople, are_few
from siamese.files import write_csv_atomically, write_text_atomically
from siamese.runs.tables import Prediction

CURVES = ("roc.csv", "reliability.csv", "lfw_roc.txt")

ROC_COLUMNS = ("score", "probability", "fpr", "tpr", "fnr")
"""Each row has the rates if pairs with at least this score are accepted; score and probability are empty if none is."""


class ReliabilityPoint(NamedTuple):
    """A row of ``reliability.csv``: the pairs with a probability in [low, high); the last bin includes 1.

    Attributes:
        low, high: limits of the bin.
        pairs: number of pairs.
        probability: mean predicted probability.
        same: share of same pairs.
        same_low, same_high: its 95 % confidence interval; nan if undefined.
    """

    low: float
    high: float
    pairs: int
    probability: float
    same: float
    same_low: float
    same_high: float


def reliability_points(probabilities: ArrayLike, labels: ArrayLike, people: PairPeople) -> list[ReliabilityPoint]:
    """Compute the points of the reliability diagram, without empty bins.

    Args:
        probabilities: float [N] in [0, 1].
        labels: 0 or 1 [N].
        people: both people of each pair, [N].
    """
    same, over_people = np.asarray(labels), are_few(people)
    return [
        ReliabilityPoint(
            *one[:-1], *share_interval(same[one.rows], [people[row] for row in one.rows], over_people=over_people)
        )
        for one in reliability(probabilities, labels)
    ]


def write_curves(folder: Path, predictions: Sequence[Prediction], of_view2: bool) -> None:
    """Write those of `CURVES` that the pairs of a run page have; delete the others.

    Args:
        folder: the run folder.
        predictions: the pairs.
        of_view2: whether they are the test pairs of all folds of LFW's View 2.
    """
    for name in CURVES:
        (folder / name).unlink(missing_ok=True)
    if not predictions:
        return
    labels, probabilities = [one.label for one in predictions], [one.probability for one in predictions]
    points = reliability_points(probabilities, labels, people_of_each(predictions))
    write_csv_atomically(folder / "reliability.csv", ReliabilityPoint._fields, points)
    roc = corners(roc_curve([one.score for one in predictions], labels))
    if np.isnan([roc.fpr, roc.tpr]).any():
        return
    write_csv_atomically(
        folder / "roc.csv", ROC_COLUMNS, _rows(roc, {one.score: one.probability for one in predictions})
    )
    if of_view2:
        write_text_atomically(folder / "lfw_roc.txt", lfw_roc(roc))


def lfw_roc(roc: Roc) -> str:
    """Format an ROC for LFW's results page: true and false positive rate in each line.

    The results page asks for the mean of both rates over the folds, for fixed thresholds. The folds of View 2 have
    equally many pairs of each class, so these are the rates of all pairs together.
    """
    return "".join(f"{tpr:.6f} {fpr:.6f}\n" for fpr, tpr in zip(roc.fpr, roc.tpr, strict=True))


def _rows(roc: Roc, probability: Mapping[float, float]) -> Iterator[tuple[float | str, ...]]:
    for fpr, tpr, score in zip(roc.fpr.tolist(), roc.tpr.tolist(), roc.thresholds.tolist(), strict=True):
        yield *((score, probability[score]) if score < math.inf else ("", "")), fpr, tpr, 1 - tpr
