"""Score finished runs again: on their own test pairs, on other images, as an ensemble, or by whom they find."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese.config.protocol import IdentificationProtocol, OneShotProtocol, View2Protocol
from siamese.config.schema import EvalConfig
from siamese.data.lists import Pair, identities
from siamese.data.protocol import read_all_folds
from siamese.errors import DataError
from siamese.evaluation.calibration import fit_fusion
from siamese.evaluation.decision import Decision, choose_decision
from siamese.protocols.identification import evaluate_identification
from siamese.protocols.oneshot import evaluate_oneshot
from siamese.report.run_page import write_run_page
from siamese.runs.finished import FinishedRun, find_folds, find_runs
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.signals import Interrupted
from siamese.scoring.device import pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.folds import pool_folds
from siamese.scoring.groups import check_groups, record_groups
from siamese.scoring.leakage import check_names, check_unseen
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.outcome import SplitScores, log_test_figures, record_predictions, score_splits
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.run_data import load_run_data

log = logging.getLogger(__name__)


def evaluate(config: EvalConfig, folder: RunFolder) -> Result:
    """Score the best weights of a run, or the mean of several runs, and write the result into ``folder``.

    A single run keeps its own calibration and threshold. The scores of an ensemble are the weighted mean of its
    members' calibrated logits; its calibration and threshold are chosen on the validation pairs. Runs of View 2 over
    all folds are scored fold by fold.

    Raises:
        UserError: the runs or the data cannot be used.
    """
    started = time.perf_counter()
    if folds := find_folds(config):
        return evaluate_folds(config, folds, folder, started)
    runs = find_runs(config)
    if runs[0].moved:
        log.info("these are the run's own photos, in another folder: testing the run's own test images")
    record_start(runs, config, folder)
    if isinstance(config.protocol, OneShotProtocol):
        evaluate_oneshot(runs, config.changes_scores, config.protocol, folder)
    elif isinstance(config.protocol, IdentificationProtocol):
        evaluate_identification(runs, config.changes_scores, config.protocol, folder)
    else:
        evaluate_pairs(runs, config.changes_scores, config.fusion, folder)
    result = folder.record(status="done", total_seconds=round(time.perf_counter() - started, 2))
    write_run_page(folder.path)
    return result


def evaluate_folds(config: EvalConfig, folds: list[EvalConfig], folder: RunFolder, started: float) -> Result:
    """Evaluate each fold of View 2 in a folder of its own, and pool the results; arguments as of `evaluate`."""
    runs_of_each = [find_runs(fold) for fold in folds]  # all of them, before any is scored
    runs = [_of_all_folds(run, config.groups) for run in runs_of_each[0]]
    record_start(runs, config, folder)
    protocol = runs[0].config.protocol
    if config.groups is not None and isinstance(protocol, View2Protocol):
        check_groups(config.groups, read_all_folds(runs[0].config.data, protocol))
    for number, fold in enumerate(folds, 1):
        log.info("fold %d of %d", number, len(folds))
        of_fold = folder.fold(number)
        try:
            evaluate(fold, of_fold)
        except (Exception, Interrupted) as error:
            if not of_fold.is_done and of_fold.path.is_dir():
                with suppress(OSError):
                    of_fold.record_failure(error, "eval.log")
            raise
    result = pool_folds(config.groups, folder, started)
    write_run_page(folder.path)
    log_test_figures(result)
    return result


def _of_all_folds(run: FinishedRun, groups: str | None) -> FinishedRun:
    """Return the run that a fold belongs to."""
    whole = RunFolder(run.folder.path.parent)
    assert whole.result is not None
    protocol = run.config.protocol.model_copy(update={"fold": None})
    return FinishedRun(whole, whole.result, run.config.model_copy(update={"protocol": protocol, "groups": groups}))


def record_start(runs: list[FinishedRun], config: EvalConfig, folder: RunFolder) -> None:
    """Record what is scored, before it is scored."""
    first = runs[0]
    facts = describe_run(first.config, pick_device(first.config), recorded_arithmetic(first.result))
    # Outside data that shaped the weights counts, whatever they are scored on.
    facts["outside_data"] |= any(run.result.outside_data for run in runs)
    facts["setting"] = first.result.setting
    if config.protocol is not None:
        facts["protocol"] = config.protocol.name
    paths = [str(run.folder.path.resolve()) for run in runs]
    folder.start(
        first.config,
        **facts,
        run=paths[0] if len(paths) == 1 else paths,
        trained_on=first.result.trained_on or first.result.dataset,
        best_epoch=first.result.best_epoch if len(paths) == 1 else None,
        parameters=sum(run.result.parameters or 0 for run in runs),
    )


def evaluate_pairs(runs: list[FinishedRun], refit: bool, fusion: str, folder: RunFolder) -> None:
    """Score the validation pairs and the test pairs, and record the figures.

    Args:
        runs: one run, or the members of an ensemble.
        refit: fit back end, calibration and threshold again instead of using those of the runs.
        fusion: how the weights of an ensemble are chosen, ``mean`` or ``logistic``.
        folder: folder of the evaluation.

    Raises:
        DataError: a file of a run cannot be used, the members exclude different images, or a test person was seen in
            training.
    """
    first = runs[0]
    scored: list[SplitScores] = []
    pairs: list[list[Pair]] = []
    for run in runs:
        data = load_run_data(run.config, folder, run.test_only, None if run.foreign else run.folder)
        if run.foreign:
            check_unseen(run, identities(data.test.pairs), folder)
        elif run.other_lists:
            check_names(run, identities(data.test.pairs))
        pairs.append(data.val.pairs + data.test.pairs)
        if pairs[-1] != pairs[0]:
            raise DataError(
                f"{run.folder.path}: its excluded images differ from those of {first.folder.path}; an "
                "ensemble needs the same pairs"
            )
        network = load_scorer(run, refit, data)
        scored.append(score_splits(network, data, pick_device(run.config), recorded_arithmetic(run.result).bf16))
    labels = data.val.labels.numpy()  # the same pairs for all runs
    decisions = [
        choose_decision(scores["val"], labels, run.config.fitted_calibration, run.config.threshold)
        if refit
        else recorded_decision(run.result)
        for run, scores in zip(runs, scored, strict=True)
    ]
    figures: dict[str, Any] = {}
    if len(runs) == 1:
        scores, decision = scored[0], decisions[0]
    else:
        scores, weights = fuse(scored, decisions, labels, fusion)
        if fusion != "mean":
            log.info("weights of the runs: %s", ", ".join(f"{weight:.2f}" for weight in weights))
            figures["weights"] = weights
        decision = choose_decision(scores["val"], labels, "platt", first.config.threshold)
    figures |= record_predictions(scores, data, decision, first.config.threshold, folder)
    figures |= record_groups(first.config.groups, folder)
    log_test_figures(folder.record(**figures))


def fuse(
    scored: list[SplitScores], decisions: list[Decision], labels: NDArray[np.int64], fusion: str
) -> tuple[SplitScores, list[float]]:
    """Return the weighted mean over the members of an ensemble of their calibrated logits, and the weights.

    Args:
        scored: the scores of each member.
        decisions: their calibrations.
        labels: of the validation pairs.
        fusion: ``mean`` or ``logistic``.
    """
    logits = [
        {split: decision.calibration.logits(scores[split]) for split in scores}
        for scores, decision in zip(scored, decisions, strict=True)
    ]
    weights = [1 / len(logits)] * len(logits)
    if fusion == "logistic":
        weights = fit_fusion([member["val"] for member in logits], labels).tolist()
    return {s: np.average([member[s] for member in logits], axis=0, weights=weights) for s in scored[0]}, weights
