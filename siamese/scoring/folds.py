"""LFW View 2: pool the test results of all folds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from siamese.data.lists import people_of_each
from siamese.errors import ConfigError
from siamese.evaluation.intervals import mean_interval
from siamese.evaluation.summary import summarise
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.tables import OUTCOMES, Prediction, read_predictions, write_folds, write_predictions
from siamese.scoring.groups import record_groups
from siamese.scoring.networks import recorded_decision
from siamese.text import count

log = logging.getLogger(__name__)


ALIKE = ("precision", "convolution", "git_commit", "version/torch")
"""Keys of ``result.json`` that should be the same for all folds."""


def pool_folds(groups: str | None, folder: RunFolder, started: float) -> Result:
    """Write tables and result of all folds below a folder, which must all be done, and return the result.

    Accuracy is the mean over the folds, each with its own calibration and threshold, which were chosen on its
    validation pairs, with the standard error of that mean (Huang et al. 2007, section on View 2). The other figures are
    computed from the pairs of all folds together, on logits: the scores after each fold's own calibration.

    Raises:
        ConfigError: the predictions of a fold are not those of its result, or two folds tested the same pair.
    """
    runs = folder.parts
    results = [result for run in runs if (result := run.result) is not None]
    tested_in = [tested_pairs(run) for run in runs]
    _check_pairs(runs, tested_in)
    _warn_of_other_images(runs)
    write_folds(folder.folds, results)
    pooled: list[Prediction] = []
    for result, tested in zip(results, tested_in, strict=True):
        slope, intercept = recorded_decision(result).calibration
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
        **_how_computed(results),
        folds=len(results),
        n_test=len(pooled),
        n_excluded=max(result.n_excluded or 0 for result in results),
        parameters=results[0].parameters,
        **({"weights": np.mean(weights, axis=0).tolist()} if weights else {}),
        **({"train_seconds": round(sum(seconds), 2)} if seconds else {}),
        total_seconds=round(time.perf_counter() - started, 2),
    )


def tested_pairs(run: RunFolder) -> list[Prediction]:
    """Return the scored test pairs of a finished fold.

    Raises:
        ConfigError: its ``predictions.csv`` is missing, damaged, or not that of its ``result.json``.
    """
    tested = [prediction for prediction in read_predictions(run.predictions) if prediction.split == "test"]
    counts, result = Counter(prediction.outcome for prediction in tested), run.result
    if result is None or any(counts[name] != result.figure(name) for name in OUTCOMES):
        raise ConfigError(
            f"{run.predictions}: holds {count(len(tested), 'test pair')}, not those that result.json counts; restore "
            "both files from the same run, or remove the folder to train this fold again"
        )
    return tested


def _check_pairs(runs: Sequence[RunFolder], tested_in: Sequence[Sequence[Prediction]]) -> None:
    seen: dict[tuple[str, str], RunFolder] = {}
    for run, tested in zip(runs, tested_in, strict=True):
        for pair in tested:
            images = min(pair.image1, pair.image2), max(pair.image1, pair.image2)
            if seen.setdefault(images, run) is not run:
                raise ConfigError(
                    f"{run.path}: it tested the pair {images[0]}, {images[1]}, as did {seen[images].path}; one of them "
                    "is not the fold that its name says: remove it to train this fold again"
                )


def _warn_of_other_images(runs: Sequence[RunFolder]) -> None:
    """Warn if an image had another content in another fold."""
    seen: dict[str, tuple[str, RunFolder]] = {}
    for run in runs:
        for row in run.memberships or []:
            if row.digest:
                digest, before = seen.setdefault(row.image, (row.digest, run))
                if digest != row.digest:
                    log.warning("%s: not the same file in %s as in %s; all folds need the same images",
                                row.image, run.path, before.path)  # fmt: skip
                    return


def _how_computed(results: Sequence[Result]) -> dict[str, Any]:
    """Return how the folds were computed, which may be elsewhere: values that differ are joined by commas."""
    keys = ["device", *ALIKE, *(key for key in results[0].as_dict() if key.startswith("version/"))]
    facts: dict[str, Any] = {"git_dirty": any(result.git_dirty for result in results)}
    for key in dict.fromkeys(keys):
        values = [result.as_dict().get(key) for result in results]
        if key in ALIKE and len(set(values)) > 1:
            log.warning("%s differs between the folds: %s", key, ", ".join(map(str, values)))
        known = [str(value) for value in dict.fromkeys(values) if value is not None]
        facts[key] = ", ".join(known) if known else None
    return facts
