"""LFW View 2: for each fold train a network on the other folds, and pool the test results of all folds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from siamese.config.protocol import View2Protocol
from siamese.config.schema import TrainConfig
from siamese.data.lists import people_of_each
from siamese.data.protocol import count_folds, read_all_folds
from siamese.data.sources import prepare_data
from siamese.evaluation.intervals import mean_interval
from siamese.evaluation.summary import summarise
from siamese.runs.finished import find_start
from siamese.runs.folder import RunFolder
from siamese.runs.records import OUTCOMES, Prediction, Result, read_predictions, write_folds, write_predictions
from siamese.runs.signals import Interrupted
from siamese.scoring.device import pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.groups import check_groups, record_groups
from siamese.scoring.networks import recorded_decision
from siamese.scoring.outcome import log_test_figures
from siamese.scoring.precision import choose_arithmetic
from siamese.training.train import train, write_page

log = logging.getLogger(__name__)


def train_folds(
    config: TrainConfig, folder: RunFolder, label: str | None = None, swept: Mapping[str, str] | None = None
) -> Result:
    """Train and test one network per fold, each in its own run folder; return the pooled result.

    Finished folds are kept; an unfinished fold is resumed.

    Raises:
        UserError: the configured data or device cannot be used.
    """
    recorded = folder.result
    if recorded is not None and recorded.status == "done" and (why := folder.why_ended(config)) is not None:
        log.info("%s is already done", folder.path)
        if why:
            log.warning(why)
            folder.accept(config)
        log_test_figures(recorded)
        return recorded
    assert isinstance(config.protocol, View2Protocol)
    started = time.perf_counter()
    prepare_data(config.data, protocol=config.protocol)
    if config.groups is not None:
        check_groups(config.groups, read_all_folds(config.data, config.protocol))
    device = pick_device(config)
    facts = describe_run(config, device, choose_arithmetic(config, device), find_start(config))
    label = label or config.name
    folder.start(config, **facts, label=label)
    folds = count_folds(config.data)
    for fold in range(1, folds + 1):
        log.info("fold %d of %d", fold, folds)
        train_fold(config, fold, folder, f"{label}-fold{fold}", swept)
    result = pool_folds(config, folder, started)
    write_page(folder, [], config, result)
    log_test_figures(result)
    return result


def fold_of(config: TrainConfig, fold: int, folder: RunFolder) -> tuple[TrainConfig, RunFolder]:
    """Return configuration and folder of one fold, numbered from 1."""
    protocol = config.protocol.model_copy(update={"fold": fold})
    # The groups of a single fold would be small.
    of_fold = config.model_copy(update={"protocol": protocol, "resume": True, "groups": None})
    return of_fold, RunFolder(folder.path / f"fold_{fold:02d}")


def train_fold(config: TrainConfig, fold: int, folder: RunFolder, label: str, swept: Mapping[str, str] | None) -> None:
    """Train and test the network of one fold; record a failure in the folder of the fold."""
    config, folder = fold_of(config, fold, folder)
    folder.check(config)
    try:
        train(config, folder, label, {**(swept or {}), "protocol.fold": str(fold)})
    except (Exception, Interrupted) as error:
        if not folder.is_done:
            with suppress(OSError):
                folder.record_failure(error)
        raise


def pool_folds(config: TrainConfig, folder: RunFolder, started: float) -> Result:
    """Write tables and result of all folds below a folder, which must all be done, and return the result.

    Accuracy is the mean over the folds, each with the threshold chosen on its own validation pairs, with the standard
    error of that mean (Huang et al. 2007, section on View 2). The other figures are computed from the pairs of all
    folds together, on logits: the scores after each fold's own calibration.
    """
    runs = [RunFolder(file.parent) for file in sorted(folder.path.glob("fold_*/result.json"))]
    results = [result for run in runs if (result := run.result) is not None]
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
        **record_groups(config.groups, folder),
        folds=len(results),
        n_test=len(pooled),
        n_excluded=max(result.n_excluded or 0 for result in results),
        parameters=results[0].parameters,
        train_seconds=round(sum(result.train_seconds or 0 for result in results), 2),
        total_seconds=round(time.perf_counter() - started, 2),
    )
