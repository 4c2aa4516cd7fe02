"""From scores to the figures and predictions of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese.config.threshold_rules import far_of
from siamese.config.titles import PROTOCOLS, titled
from siamese.data.dataset import PairDataset
from siamese.data.lists import people_of_each
from siamese.evaluation.decision import Decision
from siamese.evaluation.intervals import UNCLEAR, not_above_chance
from siamese.evaluation.metrics import chance_level, confusion
from siamese.evaluation.summary import summarise
from siamese.models.siamese import SiameseNetwork
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.tables import OUTCOMES, Prediction, write_predictions
from siamese.scoring.scores import score_pairs
from siamese.text import count

log = logging.getLogger(__name__)

SplitScores = dict[str, NDArray[np.floating]]
"""``val`` and ``test`` -> the scores of their pairs, float [P]."""


def score_splits(network: SiameseNetwork, data: PairDataset, device: torch.device, bf16: bool) -> SplitScores:
    """Score the validation pairs and the test pairs."""
    splits = {"val": data.val, "test": data.test}
    return {name: score_pairs(network, data.pixels, pairs.indices, device, bf16) for name, pairs in splits.items()}


def record_predictions(
    scores: SplitScores, data: PairDataset, decision: Decision, threshold: float | str, folder: RunFolder
) -> dict[str, Any]:
    """Write ``predictions.csv`` and return the figures of both splits, with calibration and threshold.

    Args:
        scores: the scores of the validation pairs and of the test pairs.
        data: the pairs.
        decision: how scores become probabilities and predictions.
        threshold: the configured threshold or rule, to record where the threshold comes from.
        folder: the run folder.

    Returns:
        keys of ``result.json`` -> values.
    """
    predictions: list[Prediction] = []
    figures: dict[str, Any] = {}
    for split, pairs in (("val", data.val), ("test", data.test)):
        if not len(pairs):  # a data set that is only tested on
            continue
        probabilities = decision.probabilities(scores[split])
        for pair, score, probability in zip(pairs.pairs, scores[split], probabilities, strict=True):
            predicted = int(probability >= decision.threshold)
            predictions.append(Prediction(split, *pair, float(score), float(probability), predicted))
        logits = decision.calibration.logits(scores[split])
        summary = summarise(logits, pairs.labels.numpy(), people_of_each(pairs.pairs), decision.threshold)
        counts = confusion(probabilities >= decision.threshold, pairs.labels.numpy())
        ends = summary["acc_ci"]
        assert ends is None or isinstance(ends, list)
        if level := not_above_chance(ends, chance_level(counts.tp + counts.fn, counts.fp + counts.tn)):
            area = summary["auc_ci"]
            if isinstance(area, list) and area[0] > 0.5:
                why = "the scores separate the pairs, but not at this threshold"
            elif level == UNCLEAR:
                why = "there are too few pairs or people to tell"
            else:
                why = "the network has not learned to tell these pairs apart"
            name = {"val": "validation"}.get(split, split)
            log.warning("%s accuracy %.1f %% is %s: %s", name, 100 * counts.accuracy, level, why)
        # The four counts and the intervals are those of the test.
        keep = ("loss", "acc", "auc") if split == "val" else summary
        figures |= {name if name in OUTCOMES else f"{split}/{name}": summary[name] for name in keep}
    write_predictions(folder.predictions, predictions)
    if isinstance(threshold, str):
        figures["threshold_origin"] = f"chosen on the validation pairs, by {threshold}"
        different = int((data.val.labels == 0).sum())
        if (far := far_of(threshold)) is not None and different and round(far * different, 9) < 1:
            log.warning(
                "threshold=%s: the validation pairs show %s, too few to measure so low a rate; on other pairs it may "
                "be higher by far. From %g on, it can be measured",
                threshold, count(different, "pair of different people", "pairs of different people"),
                math.ceil(1000 / different) / 1000,
            )  # fmt: skip
    return figures | decision.recorded()


def log_test_figures(result: Result) -> None:
    """Log the figures of the test pairs and what they were measured on; "-" for a figure that is not defined."""

    def shown(value: float | None, digits: int, factor: float = 1.0) -> str:
        return "-" if value is None else f"{factor * value:.{digits}f}"

    low, high = (shown(end, 1, 100) for end in result.test_acc_ci or (None, None))
    folds = f", standard error over {result.folds} folds {shown(result.test_acc_se, 1, 100)}" if result.folds else ""
    log.info(
        "test accuracy %s %% (95 %% confidence interval: %s - %s%s)  loss %s  AUC %s  EER %s %%  "
        "(%d pairs of %s, %s, %s)",
        shown(result.test_acc, 1, 100), low, high, folds, shown(result.test_loss, 4), shown(result.test_auc, 3),
        shown(result.test_eer, 1, 100), result.n_test, result.dataset, titled(result.protocol, PROTOCOLS),
        result.setting,
    )  # fmt: skip
