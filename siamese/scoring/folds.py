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

log = logging.getLogger(__name__)


ALIKE = ("precision", "convolution", "git_commit", "version/torch")
"""Keys of ``result.json`` that should be the same for all folds."""


def pool_folds(groups: str | None, folder: RunFolder, started: float) -> Result:
    """Write tables and result of all folds below a folder, which must all be done, and return the result.

    Accuracy is the mean over the folds, each with its own calibration and threshold, which were chosen on its
    validation pairs, with the standard error of that mean (Huang et al. 2007, section on View 2). The other figures are
    computed from the pairs of all folds together, on logits: the scores after each fold's own calibration.

    Raises:
        ConfigError: as of `tested_in_each`.
    """
    runs = folder.parts
    results = [result for run in runs if (result := run.result) is not None]
    tested_in = tested_in_each(runs)
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


def tested_in_each(runs: Sequence[RunFolder]) -> list[list[Prediction]]:
    """Return the scored test pairs of each of these finished folds.

    Raises:
        ConfigError: the ``predictions.csv`` of a fold is missing, damaged, or not that of its ``result.json``, or two
            folds tested the same pairs.
    """
    tested_in: list[list[Prediction]] = []
    seen: dict[frozenset[tuple[str, str]], RunFolder] = {}
    for run in runs:
        tested = [prediction for prediction in read_predictions(run.predictions) if prediction.split == "test"]
        counts, result = Counter(prediction.outcome for prediction in tested), run.result
        found = [counts[name] for name in OUTCOMES]
        recorded = [None if result is None else result.figure(name) for name in OUTCOMES]
        if found != recorded:
            raise ConfigError(
                f"{run.predictions}: tp, fp, tn and fn of its test pairs are {found}, but {recorded} in result.json; "
                f"copy both files from the same run, or remove {run.path} to train this fold again"
            )
        other = seen.setdefault(frozenset(pair[1:3] for pair in tested), run)
        if other is not run:
            raise ConfigError(
                f"{run.path}: it tested the pairs of {other.path.name}, so one of them is not the fold that its name "
                "says; remove it to train this fold again"
            )
        tested_in.append(tested)
    return tested_in


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
    records = [result.as_dict() for result in results]
    versions = {key for record in records for key in record if key.startswith("version/")}
    facts: dict[str, Any] = {}
    if any("git_dirty" in record for record in records):
        facts["git_dirty"] = any(result.git_dirty for result in results)
    for key in ["device", *ALIKE, *sorted(versions - {*ALIKE})]:
        folds: dict[str, list[int]] = {}
        for number, record in enumerate(records, 1):
            if record.get(key) is not None:
                folds.setdefault(str(record[key]), []).append(number)
        if folds:
            facts[key] = ", ".join(folds)
        if key in ALIKE and len(folds) > 1:
            listed = "; ".join(f"{value[:12]} in {', '.join(map(str, of))}" for value, of in folds.items())
            log.warning("%s differs between the folds: %s", key, listed)
    return facts
