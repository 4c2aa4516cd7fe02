"""Checks of a run, an evaluation or a sweep before anything is written.

They do not import torch, except to look for the GPU of ``trainer=gpu``.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser

from siamese.command.overrides import is_option
from siamese.config.data import DataConfig, FolderData, LfwData, PairsData, SyntheticData
from siamese.config.load import Composed, check_hydra, load_eval, load_train, without_hydra
from siamese.config.protocol import EvalProtocol, PeopleProtocol
from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, MissingPackageError, UnknownKeyError, UserError
from siamese.runs.finished import find_folds, find_runs, find_start, with_start
from siamese.runs.folder import RunFolder
from siamese.runs.moved import photo_folder
from siamese.runs.signals import was_requeued
from siamese.text import count

EXTRAS = ("mlflow", "wandb")
"""Loggers that need an optional package of the same name."""


class Checked(NamedTuple):
    """What the data of a job is checked for."""

    data: DataConfig
    protocol: EvalProtocol
    groups: str | None
    test_only: bool = False


def check_job(config: Composed, command: str, folder: Path | None, fetch: bool = True) -> None:
    """Check one run or evaluation, and download its data if it is missing and available for download.

    Args:
        config: what Hydra composed, including its own section ``hydra``.
        command: ``train`` or ``eval``.
        folder: the output folder; None: do not check it.
        fetch: download missing data now, so that a failed download leaves no run folder behind.

    Raises:
        UserError: the configuration, data, device or output folder cannot be used.
    """
    check_hydra(config)
    data, protocol, groups, test_only = (_check_train if command == "train" else _check_eval)(config, folder)
    # Here, because it loads numpy: --help and a wrong key need not wait for that.
    from siamese.data.sources import check_data, prepare_data

    check_data(data, protocol, test_only)
    # The groups of the synthetic faces are drawn with them.
    drawn = isinstance(data, SyntheticData) and groups is not None and Path(groups).parent == Path(data.root)
    if fetch and (isinstance(data, LfwData) or drawn):
        prepare_data(data, sys.stderr.isatty(), protocol)
    if groups is not None:
        from siamese.data.attributes import check_attributes, read_attributes
        from siamese.data.protocol import read_tested

        attributes = read_attributes(Path(groups))
        assert not isinstance(protocol, PeopleProtocol)
        if drawn or (fetch and not isinstance(data, SyntheticData)):  # other lists may not exist yet
            check_attributes(attributes, read_tested(data, protocol, test_only))


def check_sweep(config: Composed, command: str, config_name: str) -> None:
    """Check the output folder of a sweep, and that at least one of its jobs can work (or be resumed).

    Args:
        config: what Hydra composed for the sweep.
        command: ``train`` or ``eval``.
        config_name: the primary configuration file, usually the one of the command.

    Raises:
        UserError: the folder holds another sweep; or no job can work, for the reason of the first one.
        HydraException: a job has an unknown option of a group.
    """
    if any(os.environ.get(name, "1") not in ("", "1") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")):
        raise ConfigError(
            "torchrun and srun start the processes of one run, not of a sweep; on one machine, leave them out "
            "(trainer=ddp starts processes itself); on several, give hydra/launcher=submitit_slurm "
            "hydra.launcher.nodes=N hydra.launcher.tasks_per_node=M"
        )
    check_hydra(config)
    folder = Path(config.hydra.sweep.dir)
    held = sorted(folder.glob("*/result.json"))
    resume = any(override.replace(" ", "").lower() == "resume=true" for override in config.hydra.overrides.task)
    if held and not (resume or was_requeued()):
        remedy = "give resume=true to resume it, or another" if command == "train" else "give another"
        raise ConfigError(f"{folder} already holds a sweep ({count(len(held), 'job')}); {remedy} hydra.sweep.dir")
    jobs = list(_overrides_of_jobs(config))
    others = config.hydra.overrides.hydra  # such as hydra.searchpath
    for options in dict.fromkeys(tuple(word for word in job if is_option(word)) for job in jobs):
        compose(config_name, [*others, *options])  # Hydra would find an unknown option after the jobs before it
    problems = []
    for number, overrides in enumerate(jobs):
        job = compose(config_name, [*others, *overrides], return_hydra_config=True)
        try:
            check_job(job, command, folder / str(number) if held else None, fetch=False)
        except UserError as error:
            problems.append(error)
        else:
            return  # a job that fails later is a row of the sweep's table, with its reason
    if problems:
        raise problems[0]


def _check_train(config: Composed, folder: Path | None) -> Checked:
    run = None if folder is None else RunFolder(folder)
    train = with_start(_load_with_hint(config), run)
    if run is not None:
        run.check(train)
    is_done = run is not None and run.is_done  # a finished run is only reported
    if not is_done:
        find_start(train)
    if train.trainer.accelerator == "gpu":
        from siamese.scoring.device import pick_device

        pick_device(train)
    if train.logger.name in EXTRAS and importlib.util.find_spec(train.logger.name) is None:
        raise MissingPackageError(f"logger={train.logger.name}", train.logger.name, train.logger.name)
    return Checked(train.data, train.protocol, None if is_done else train.groups)


def _load_with_hint(config: Composed) -> TrainConfig:
    """Load the configuration; if an experiment sets a key that no longer fits, the error says how to remove it."""
    try:
        return load_train(without_hydra(config))
    except UnknownKeyError as error:
        experiment = config.hydra.runtime.choices.get("experiment")
        if experiment and not any(error.key in override for override in config.hydra.overrides.task):
            raise ConfigError(
                f"{error}; experiment={experiment} sets this key for another option of its group; remove it with "
                f"~{error.key}"
            ) from None
        raise


def _check_eval(config: Composed, folder: Path | None) -> Checked:
    evaluation = load_eval(without_hydra(config))
    folds = find_folds(evaluation)
    runs_of_each = [find_runs(one) for one in folds or [evaluation]]
    run = runs_of_each[0][0]
    own = run.config.data
    if evaluation.data is None and isinstance(own, FolderData | PairsData) and not photo_folder(own).is_dir():
        place = "data.root=NEW" if isinstance(own, FolderData) else "data.list=NEW_LIST data.root=NEW"
        raise ConfigError(
            f"run={run.folder.path}: its photos are not in {photo_folder(own)} any more; restore them, or give their "
            f"new place: data={own.name} {place}"
        )
    if folder is not None and not _may_evaluate_in(RunFolder(folder)):
        raise ConfigError(f"{folder} already holds a run; give another output folder")
    protocol = evaluation.protocol if isinstance(evaluation.protocol, PeopleProtocol) else run.config.protocol
    if folds:
        protocol = protocol.model_copy(update={"fold": None})
    return Checked(run.config.data, protocol, evaluation.groups, run.test_only)


def _may_evaluate_in(folder: RunFolder) -> bool:
    """Whether a folder holds nothing, or an evaluation that was not finished."""
    result = folder.result
    return result is None or (result.status != "done" and (result.is_evaluation or not folder.config.exists()))


def _overrides_of_jobs(config: Composed) -> Iterator[list[str]]:
    """Yield the overrides of each job for Hydra's own sweeper; other sweepers choose values while they run."""
    sweeper = config.hydra.sweeper
    if not sweeper._target_.endswith(".BasicSweeper"):
        return
    lines = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    values: dict[str, list[str]] = {}  # a later override of the same key replaces the earlier one
    for override in OverridesParser.create().parse_overrides(lines + list(config.hydra.overrides.task)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line}: a sweep needs a list of values; give choice(...) or range(...)")
    for job in itertools.product(*values.values()):
        yield list(job)
