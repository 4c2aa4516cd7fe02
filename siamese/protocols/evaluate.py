"""Score finished runs again: on their own test pairs, on other images, as an ensemble, or by whom they find."""

from __future__ import annotations

import logging
import time

import numpy as np

from siamese.config.protocol import IdentificationProtocol, OneShotProtocol
from siamese.config.schema import EvalConfig
from siamese.data.lists import Pair, identities
from siamese.errors import DataError
from siamese.evaluation.decision import Decision, choose_decision
from siamese.protocols.identification import evaluate_identification
from siamese.protocols.oneshot import evaluate_oneshot
from siamese.report.run_page import write_run_page
from siamese.runs.finished import FinishedRun, find_runs
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.scoring.device import pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.groups import record_groups
from siamese.scoring.leakage import check_unseen
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.outcome import SplitScores, log_test_figures, record_predictions, score_splits
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.run_data import load_run_data

log = logging.getLogger(__name__)


def evaluate(config: EvalConfig, folder: RunFolder) -> Result:
    """Score the best weights of a run, or the mean of several runs, and write the result into ``folder``.

    A single run keeps its own calibration and threshold. The scores of an ensemble are the mean of its members'
    calibrated logits; its calibration and threshold are chosen on the validation pairs.

    Raises:
        UserError: the runs or the data cannot be used.
    """
    started = time.perf_counter()
    runs = find_runs(config)
    if runs[0].moved:
        log.info("these are the run's own photos, in another folder: testing the run's own test images")
    record_start(runs, config, folder)
    if isinstance(config.protocol, OneShotProtocol):
        evaluate_oneshot(runs, config.changes_scores, config.protocol, folder)
    elif isinstance(config.protocol, IdentificationProtocol):
        evaluate_identification(runs, config.changes_scores, config.protocol, folder)
    else:
        evaluate_pairs(runs, config.changes_scores, folder)
    result = folder.record(status="done", total_seconds=round(time.perf_counter() - started, 2))
    write_run_page(folder.path)
    return result


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


def evaluate_pairs(runs: list[FinishedRun], refit: bool, folder: RunFolder) -> None:
    """Score the validation pairs and the test pairs, and record the figures.

    Args:
        runs: one run, or the members of an ensemble.
        refit: fit back end, calibration and threshold again instead of using those of the runs.
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
    if len(runs) == 1:
        scores, decision = scored[0], decisions[0]
    else:
        scores = mean_of_members(scored, decisions)
        decision = choose_decision(scores["val"], labels, "platt", first.config.threshold)
    figures = record_predictions(scores, data, decision, first.config.threshold, folder)
    figures |= record_groups(first.config.groups, folder)
    log_test_figures(folder.record(**figures))


def mean_of_members(scored: list[SplitScores], decisions: list[Decision]) -> SplitScores:
    """Return the mean over the members of an ensemble of their calibrated logits, for each split."""
    logits = [
        {split: decision.calibration.logits(scores[split]) for split in scores}
        for scores, decision in zip(scored, decisions, strict=True)
    ]
    return {split: np.mean([member[split] for member in logits], axis=0) for split in scored[0]}
