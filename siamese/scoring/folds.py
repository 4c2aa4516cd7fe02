"""LFW View 2: pool the test results of all folds."""

from __future__ import annotations

import logging
import time

import numpy as np

from siamese.data.lists import people_of_each
from siamese.evaluation.intervals import mean_interval
from siamese.evaluation.summary import summarise
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.tables import OUTCOMES, Prediction, read_predictions, write_folds, write_predictions
from siamese.scoring.groups import record_groups
from siamese.scoring.networks import recorded_decision

log = logging.getLogger(__name__)


def pool_folds(groups: str | None, folder: RunFolder, started: float) -> Result:
    """Write tables and result of all folds below a folder, which must all be done, and return the result.

    Accuracy is the mean over the folds, each with the threshold chosen on its own validation pairs, with the standard
    error of that mean (Huang et al. 2007, section on View 2). The other figures are computed from the pairs of all
    folds together, on logits: the scores after each fold's own calibration.
    """
    runs = folder.parts
    results = [result for run in runs if (result := run.result) is not None]
    for key in ("precision", "convolution", "git_commit"):
        values = [getattr(result, key) for result in results]
        if len(set(values)) > 1:
            log.warning("%s differs between the folds: %s", key, ", ".join(map(str, values)))
    write_folds(folder.folds, results)
    pooled: list[Prediction] = []
    for run, result in zip(runs, results, strict=True):
        slope, intercept = recorded_decision(result).calibration
        tested = [prediction for prediction in read_predictions(run.predictions) if prediction.split == "test"]
        pooled += [prediction._replace(score=slope * prediction.score + intercept) for prediction in tested]
    write_predictions(folder.predictions, pooled)
    logits, labels = [prediction.score for prediction in pooled], [prediction.label for prediction in pooled]
    summary = summarise(logits, labels, people_of_each(pooled))
    figures = {name: value for name, value in summary.items() if name not in OUTCOMES}
    accuracies = np.array([result.test_acc for result in results], dtype=float)
    outcomes = [prediction.outcome for prediction in pooled]  # decided with the threshold of each fold
    weights = [result.weights for result in results if result.weights is not None]  # of ensembles
    seconds = [result.train_seconds for result in results if result.train_seconds is not None]  # absent: an evaluation
    return folder.record(
        status="done",
        **{f"test/{name}": value for name, value in figures.items()}
        | {
            "test/acc": float(accuracies.mean()),
            "test/acc_se": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
            "test/acc_ci": list(mean_interval(accuracies)),
        },
        **{key: float(np.mean([r.figure(key) for r in results])) for key in ("val/loss", "val/acc", "val/auc")},
        **{name: outcomes.count(name) for name in OUTCOMES},
        **record_groups(groups, folder),
        folds=len(results),
        n_test=len(pooled),
        n_excluded=max(result.n_excluded or 0 for result in results),
        parameters=results[0].parameters,
        **({"weights": np.mean(weights, axis=0).tolist()} if weights else {}),
        **({"train_seconds": round(sum(seconds), 2)} if seconds else {}),
        total_seconds=round(time.perf_counter() - started, 2),
    )
