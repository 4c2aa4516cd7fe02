"""View 2 of LFW: a network for each fold, trained on the others, and the figures of all folds together."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import numpy as np

from siamese.config import TrainConfig, View2Protocol
from siamese.data.sources import count_folds, prepare_data
from siamese.distributed import started_outside
from siamese.errors import ConfigError
from siamese.evaluation.intervals import mean_interval
from siamese.evaluation.metrics import tar_at_far
from siamese.evaluation.summary import summarise
from siamese.experiment import PREDICTION_COLUMNS, announce, describe, train, write_report
from siamese.files import write_csv_atomically
from siamese.hardware import choose_arithmetic, pick_device
from siamese.report.load import OUTCOMES, Prediction, read_predictions
from siamese.runs import RunFolder
from siamese.signals import Interrupted

log = logging.getLogger(__name__)

FARS = (1e-2, 1e-3)
"""False accept rates at which true accepts are reported."""

FOLD_COLUMNS = ("fold", "test/acc", "test/auc", "val/acc", "threshold", "best_epoch", "train_seconds")


def train_folds(config: TrainConfig, folder: RunFolder, label: str | None = None) -> dict[str, Any]:
    """Train, test and report a network for each fold, each a run folder of its own; returns the pooled result.

    Folds that are done already are kept and an unfinished one goes on, whatever stopped it.

    Raises:
        UserError: the data or the device that the configuration asks for cannot be used.
    """
    if config.trainer.processes > 1 and started_outside(config.trainer.processes):
        raise ConfigError(
            "torchrun and SLURM start the processes of one training; with them give protocol.fold=1, 2, ..."
        )
    if folder.is_done:
        log.info("%s is done already", folder.path)
        return folder.result or {}
    assert isinstance(config.protocol, View2Protocol)
    started = time.perf_counter()
    prepare_data(config.data, protocol=config.protocol)
    device = pick_device(config)
    facts = describe(config, device, choose_arithmetic(config, device))
    folder.start(config, **facts, label=label or config.name)
    for fold in range(1, count_folds(config.data) + 1):
        log.info("fold %d", fold)
        one = RunFolder(folder.path / f"fold_{fold:02d}")
        protocol = config.protocol.model_copy(update={"fold": fold})
        of_fold = config.model_copy(update={"protocol": protocol, "resume": True})
        one.check(of_fold)
        try:
            train(of_fold, one, f"{label or config.name}-fold{fold}")
        except (Exception, Interrupted) as error:
            if not one.is_done:
                with suppress(OSError):
                    one.record_failure(error)
            raise
    result = pool_folds(folder, started)
    write_report(folder, [], config, result)
    announce(result)
    return result


def pool_folds(folder: RunFolder, started: float) -> dict[str, Any]:
    """Write the tables and the result of all folds below a folder, each of which is done; returns the result.

    Accuracy is the mean over the folds, each with the threshold that was chosen without it, and its standard error that
    of the mean (Huang et al. 2007, section on View 2). The other figures are of all pairs together, whose scores are
    made comparable by each fold's own calibration.
    """
    folds = sorted(folder.path.glob("fold_*/result.json"))
    runs = [RunFolder(file.parent) for file in folds]
    results = [run.result or {} for run in runs]
    rows = [[k, *(result.get(key) for key in FOLD_COLUMNS[1:])] for k, result in enumerate(results, start=1)]
    write_csv_atomically(folder.path / "folds.csv", FOLD_COLUMNS, rows)
    scored: list[Prediction] = []
    logits: list[float] = []
    for run, result in zip(runs, results, strict=True):
        tested = [prediction for prediction in read_predictions(run.path) if prediction.split == "test"]
        slope, intercept = (result[f"calibration/{name}"] for name in ("slope", "intercept"))
        logits += [slope * prediction.score + intercept for prediction in tested]
        scored += tested
    write_csv_atomically(
        folder.path / "predictions.csv",
        PREDICTION_COLUMNS,
        [
            (p.split, p.image1, p.image2, p.label, logit, p.probability, p.predicted, p.outcome)
            for p, logit in zip(scored, logits, strict=True)
        ],
    )
    labels = [prediction.label for prediction in scored]
    figures = {name: value for name, value in summarise(logits, labels).items() if name not in OUTCOMES}
    accuracies = np.array([result["test/acc"] for result in results])
    outcomes = [prediction.outcome for prediction in scored]  # each by its own fold's threshold
    return folder.record(
        status="done",
        **{f"test/{name}": value for name, value in figures.items()}
        | {
            "test/acc": float(accuracies.mean()),
            "test/acc_se": float(accuracies.std(ddof=1) / np.sqrt(len(accuracies))),
            "test/acc_ci": list(mean_interval(accuracies)),
        },
        **{f"test/tar@far={far:g}": tar_at_far(logits, labels, far) for far in FARS},
        **{f"val/{name}": float(np.mean([r[f"val/{name}"] for r in results])) for name in ("loss", "acc", "auc")},
        **{name: outcomes.count(name) for name in OUTCOMES},
        folds=len(results),
        n_test=len(scored),
        n_excluded=max(result["n_excluded"] for result in results),
        parameters=results[0]["parameters"],
        train_seconds=round(sum(result.get("train_seconds", 0) for result in results), 2),
        total_seconds=round(time.perf_counter() - started, 2),
    )
