"""LFW View 2: for each fold train a network on the other folds, and pool the test results of all folds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from siamese.config.protocol import View2Protocol
from siamese.config.schema import TrainConfig
from siamese.data.protocol import count_folds, read_all_folds
from siamese.data.sources import prepare_data
from siamese.errors import ConfigError
from siamese.runs.finished import find_start
from siamese.runs.folder import RunFolder
from siamese.runs.locks import claim, release
from siamese.runs.records import Result, read_config
from siamese.runs.signals import Interrupted
from siamese.runs.tables import fold_rows, read_folds
from siamese.scoring.device import pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.folds import pool_folds, tested_in_each
from siamese.scoring.groups import check_groups
from siamese.scoring.outcome import log_test_figures
from siamese.scoring.precision import choose_arithmetic, recorded_arithmetic
from siamese.training.train import train, write_page

log = logging.getLogger(__name__)

HARDWARE = ("accelerator", "devices", "nodes", "cuda_graphs", "profiler", "progress_bar")
"""Keys of ``trainer`` that say where and how a run is computed, not what it learns."""


def train_folds(
    config: TrainConfig, folder: RunFolder, label: str | None = None, swept: Mapping[str, str] | None = None
) -> Result:
    """Train and test one network per fold, each in its own run folder; return the pooled result.

    Finished folds are kept, also those that other processes trained in this folder; an unfinished fold is resumed.

    Raises:
        UserError: the configured data or device cannot be used, another process is training a fold in this folder, or
            a fold in this folder has another configuration, lacks predictions, or is none of the ten.
    """
    recorded = folder.result
    if (
        recorded is not None
        and recorded.status == "done"
        and (why := folder.why_ended(config)) is not None
        and _stands(folder, recorded.folds or 0)
    ):
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
    label = label or config.name
    folds = count_folds(config.data)
    _check_folds(config, folder, folds)
    of_folds = [fold_of(config, fold, folder) for fold in range(1, folds + 1)]
    if all(run.is_done and run.why_ended(of_fold) is not None for of_fold, run in of_folds):
        # They are only pooled, perhaps on another kind of machine.
        first = folder.fold(1).result
        assert first is not None
        device, arithmetic = torch.device("cpu"), recorded_arithmetic(first)
    else:
        device = pick_device(config)
        arithmetic = choose_arithmetic(config, device)
    facts = describe_run(config, device, arithmetic, find_start(config))
    folder.start(config, **facts, label=label)
    for fold in range(1, folds + 1):
        log.info("fold %d of %d", fold, folds)
        train_fold(config, fold, folder, f"{label}-fold{fold}", swept)
    result = pool_folds(config.groups, folder, started)
    write_page(folder, [], config, result)
    log_test_figures(result)
    return result


def fold_of(config: TrainConfig, fold: int, folder: RunFolder) -> tuple[TrainConfig, RunFolder]:
    """Return configuration and folder of one fold, numbered from 1."""
    run = folder.fold(fold)
    # The groups of a single fold would be small; one that was trained as a run of its own may have them.
    changes: dict[str, Any] = {
        "protocol": config.protocol.model_copy(update={"fold": fold}), "resume": True, "groups": None,
    }  # fmt: skip
    if run.config.exists():
        recorded = read_config(run.config)
        changes["groups"] = recorded.groups
        if run.is_done:  # perhaps on another machine, where the images lay elsewhere
            hardware = {key: getattr(recorded.trainer, key) for key in HARDWARE}
            changes["trainer"] = config.trainer.model_copy(update=hardware)
            if recorded.data.name == config.data.name:
                changes["data"] = config.data.model_copy(update={"root": recorded.data.root})
    return config.model_copy(update=changes), run


def _stands(folder: RunFolder, folds: int) -> bool:
    """Whether the recorded result is kept: it is that of the folds that are there, or some folds are not."""
    results = [folder.fold(fold).result for fold in range(1, folds + 1)]
    done = [result for result in results if result is not None and result.status == "done"]
    if len(done) < folds or not folder.folds.exists():
        return True
    written, now = read_folds(folder.folds, []), fold_rows(done)
    return [str(dict(row)) for row in written] == [str(dict(row)) for row in now]  # as text, because nan is not nan


def _check_folds(config: TrainConfig, folder: RunFolder, folds: int) -> None:
    """Check all folds that are there already, before the first is trained."""
    there = {file.parent for file in folder.path.glob("fold_*/result.json")}
    of_folds = [folder.fold(fold).path for fold in range(1, folds + 1)]
    if stray := sorted(there.difference(of_folds)):
        raise ConfigError(
            f"{stray[0]}: not a folder of one of the {folds} folds, which are {of_folds[0].name} to "
            f"{of_folds[-1].name}; rename it or remove it"
        )
    finished: list[RunFolder] = []
    for fold, path in enumerate(of_folds, 1):
        if path in there:
            claim(path)
            try:
                of_fold, run = fold_of(config, fold, folder)
                run.check(of_fold)
                if run.is_done:
                    finished.append(run)
            finally:
                release(path)
    tested_in_each(finished)


def train_fold(config: TrainConfig, fold: int, folder: RunFolder, label: str, swept: Mapping[str, str] | None) -> None:
    """Train and test the network of one fold; record a failure in the folder of the fold."""
    config, folder = fold_of(config, fold, folder)
    claim(folder.path)
    try:
        folder.check(config)
        try:
            train(config, folder, label, {**(swept or {}), "protocol.fold": str(fold)})
        except (Exception, Interrupted) as error:
            if not folder.is_done:
                with suppress(OSError):
                    folder.record_failure(error)
            raise
    finally:
        release(folder.path)
