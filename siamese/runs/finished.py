"""Find finished runs, and combine each run's own configuration with what an evaluation changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from siamese.config.data import DataConfig, OwnData, PairsData
from siamese.config.defaults import group_defaults
from siamese.config.protocol import OF_PEOPLE, HoldoutProtocol, View1Protocol
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import to_plain
from siamese.errors import ConfigError
from siamese.files import flatten
from siamese.runs.continuing import EARLIER
from siamese.runs.folder import RunFolder
from siamese.runs.latest import LATEST, RUNS, run_folder
from siamese.runs.moved import moved_data
from siamese.runs.records import Result, read_config

PREPROCESSING = ("image_size", "color", "align", "crop", "interpolation")
"""Keys of `siamese.config.data.ImageOptions` that decide how an image becomes the network's input."""

SPLITTING = ("split", "val_fraction", "split_seed")
"""Keys that decide which of LFW's training pairs are validation pairs."""

LISTING = (
    "name", "root", "list", *SPLITTING, "test_fraction", "train_pairs", "val_pairs", "test_pairs",
)  # fmt: skip
"""Keys of ``data`` that decide which pairs there are."""


class FinishedRun(NamedTuple):
    """A finished run and how to score it.

    Attributes:
        folder: the run folder.
        result: its ``result.json``.
        config: its configuration, with the changes of the evaluation.
        test_only: whether all data is test data, because it is the user's own and the run was trained on other data.
        foreign: whether the data is of another kind than the training data, or other images of the user's own.
        moved: whether the data is that of the run, in another folder.
        other_lists: whether the evaluation names a data set with official lists, which may not be those of the run.
    """

    folder: RunFolder
    result: Result
    config: TrainConfig
    test_only: bool = False
    foreign: bool = False
    moved: bool = False
    other_lists: bool = False


def find_run(path: str | Path) -> FinishedRun:
    """Find one finished run, to be scored as it was trained; errors as of `find_runs`."""
    (run,) = find_runs(EvalConfig(run=str(path)))
    return run


def with_start(config: TrainConfig, folder: RunFolder | None) -> TrainConfig:
    """Write ``start_from`` as a full path, since ``latest`` or a relative path means another run later or elsewhere.

    A resumed run whose ``start_from`` was ``latest`` keeps the recorded one.

    Args:
        config: configuration of the run.
        folder: its output folder; None if it is not known yet.
    """
    if config.start_from is None:
        return config
    start: str | None = str(run_folder(config.start_from).resolve())
    if config.resume and Path(config.start_from).name == LATEST and folder is not None and folder.config.exists():
        start = read_config(folder.config).start_from
    return config.model_copy(update={"start_from": start})


def find_start(config: TrainConfig) -> FinishedRun | None:
    """Find the run whose weights a run starts from; None if ``start_from`` is null.

    Raises:
        ConfigError: as of `find_run`; network or preprocessing of the two runs differ; or nothing is trained, and what
            scores a pair differs.
    """
    if config.start_from is None:
        return None
    try:
        start = find_run(config.start_from)
    except ConfigError as error:
        raise ConfigError(str(error).replace("run=", "start_from=", 1)) from None
    own, theirs = (flatten(to_plain(one)) for one in (config, start.config))
    same = {f"data.{key}" for key in PREPROCESSING} | {key for key in theirs if key.startswith("model.")}
    if theirs["data.align"] is None:
        same.remove("data.align")  # aligned photos are like those of Labeled Faces in the Wild
    if config.max_epochs == 0:  # another head or back end would stay untrained
        same |= {"objective.name", "flip_average", "crop_average"} | {
            key for key in theirs if key.startswith("backend.")
        }
    differing = [
        f"{key.removesuffix('.name')}={json.dumps(value, separators=(',', ':'))}".replace('"', "")
        for key, value in theirs.items() if key in same and own.get(key) != value
    ]  # fmt: skip
    if differing:
        raise ConfigError(
            f"start_from={config.start_from}: the run {start.result.name}, trained on "
            f"{start.result.trained_on or start.result.dataset}, has other values: {' '.join(differing)}; "
            "give these values or another run"
        )
    return start


def find_runs(config: EvalConfig) -> list[FinishedRun]:
    """Find the finished runs of an evaluation; several runs are an ensemble.

    Raises:
        ConfigError: a folder holds no finished run with weights; the protocol would test people that the run was
            trained on; the data needs other preprocessing than the network's; or the runs of an ensemble differ in
            their pairs.
    """
    runs = [_prepare(name, config) for name in _folders(config)]
    first = runs[0]
    if first.test_only and (config.changes_scores or len(runs) > 1):
        what = "an ensemble needs" if len(runs) > 1 else "backend, flip_average and crop_average need"
        raise ConfigError(
            f"data={first.config.data.name}: {what} training and validation pairs to fit to, but all of this data is "
            "test data; leave out data="
        )
    for run in runs[1:]:
        _check_same_pairs(run, first)
    return runs


def find_folds(config: EvalConfig) -> list[EvalConfig]:
    """Divide an evaluation of View 2 over all folds into those of each fold; return nothing for other runs.

    Raises:
        ConfigError: a run is not finished or is not View 2 over all folds, the runs have different numbers of folds, or
            the evaluation needs the network of a single fold.
    """
    names = _folders(config)
    recorded = [RunFolder(Path(name)).result for name in names]
    whole = next((name for name, result in zip(names, recorded, strict=True) if result and result.folds), None)
    if whole is None or EARLIER in (Path(name).name for name in names):
        return []
    numbers = {name: _finished_result(RunFolder(Path(name)), name).folds for name in names}
    folds = numbers[whole] or 0
    for name, number in numbers.items():
        if number != folds:
            has = "is not View 2 over all folds" if number is None else f"has {number} folds of View 2"
            raise ConfigError(f"run={name}: it {has}, but {whole} has {folds} folds; an ensemble needs the same folds")
    if isinstance(config.data, OwnData) or getattr(config.protocol, "fold", None) is not None:
        what = f"data={config.data.name}" if isinstance(config.data, OwnData) else "protocol.fold"
        raise ConfigError(f"{what} needs one network; give the folder of one fold instead: run={whole}/fold_01")
    return [
        config.model_copy(
            update={"run": [str(RunFolder(Path(name)).fold(fold).path) for name in names], "groups": None}
        )
        for fold in range(1, folds + 1)
    ]


def _folders(config: EvalConfig) -> list[str]:
    names = [str(run_folder(name)) for name in ([config.run] if isinstance(config.run, str) else config.run)]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"run={list(names)}: give one folder, or several different ones")
    return names


def _prepare(name: str, config: EvalConfig) -> FinishedRun:
    folder = RunFolder(Path(name))
    result = _finished_result(folder, name)
    if result.folds is not None:
        fold = folder.path / "fold_01"
        if folder.path.name == EARLIER:  # of a View 2 run that is trained further
            fold = folder.path.parent / "fold_01" / EARLIER
        raise ConfigError(f"run={name}: it holds one network per fold; give the folder of a fold: {fold}")
    trained = _on_this_machine(read_config(folder.config))
    if trained.checkpoint.keep == "none":
        raise ConfigError(f"run={name}: the run was trained with checkpoint=none, so its weights were not kept")
    own = isinstance(trained.data if config.data is None else config.data, OwnData)
    was_own = isinstance(trained.data, OwnData)
    if own != was_own:
        holdout, view1 = (
            HoldoutProtocol(name="holdout", setting=trained.protocol.setting),
            View1Protocol(name="view1", setting="restricted"),
        )
        trained = trained.model_copy(update={"protocol": holdout if own else view1})
    _check_protocol(config, trained, own)
    trained = trained.model_copy(update=_changes(config))
    if config.data is None:
        return FinishedRun(folder, result, trained)
    # Preprocessing is the network's. So are the validation pairs of LFW's lists, whichever images they name: the run
    # was trained on the other pairs.
    fixed = PREPROCESSING if own or was_own else (*PREPROCESSING, *SPLITTING)
    _check_preprocessing(config.data, trained)
    if (moved := moved_data(folder.memberships or [], trained.data, config.data)) is not None:
        return FinishedRun(folder, result, trained.model_copy(update={"data": moved}), moved=True)
    data = config.data.model_copy(update={key: getattr(trained.data, key) for key in fixed})
    foreign = own or was_own
    return FinishedRun(folder, result, trained.model_copy(update={"data": data}), own, foreign, other_lists=not foreign)


def _finished_result(folder: RunFolder, name: str) -> Result:
    result = folder.result
    if result is None:
        if folder.path.is_dir():
            raise ConfigError(f"run={name}: no run found; give a folder that holds a result.json")
        if folder.path == RUNS / LATEST:
            raise ConfigError(f"run={LATEST}: no finished run below {RUNS} yet; train one, or give its folder")
        raise ConfigError(f"run={name}: no such folder; give the folder of a finished run, or {LATEST}")
    if result.is_evaluation:
        raise ConfigError(f"run={name} is an evaluation; give the run that it scored: {result.run}")
    if result.status != "done":
        raise ConfigError(
            f"run={name}: the run is not finished ({result.status}); "
            "finish it with train.py, its output folder and resume=true"
            + (f", or use its earlier result: {folder.earlier}" if folder.earlier.is_dir() else "")
        )
    return result


def _on_this_machine(trained: TrainConfig) -> TrainConfig:
    """A run that was trained on GPUs, or by several processes, can be scored without."""
    accelerator = "auto" if trained.trainer.accelerator == "gpu" else trained.trainer.accelerator
    alone = {"accelerator": accelerator, "devices": 1, "nodes": 1}
    return trained.model_copy(update={"trainer": trained.trainer.model_copy(update=alone)})


def _check_protocol(config: EvalConfig, trained: TrainConfig, own: bool) -> None:
    """Refuse a protocol that tests people of the training set."""
    wanted = config.protocol.name if config.protocol else trained.protocol.name
    if wanted != trained.protocol.name and not (wanted in OF_PEOPLE and trained.protocol.name in ("view1", "holdout")):
        raise ConfigError(
            f"protocol={wanted}: the run was trained with protocol={trained.protocol.name}, on people that {wanted} "
            f"tests; train with protocol={'view1' if wanted in OF_PEOPLE else wanted}"
        )
    if wanted == "identification" and isinstance(config.data or trained.data, PairsData):
        raise ConfigError(
            "protocol=identification: a list of pairs does not say which other pairs show the same person; give a "
            "folder per person (data=folder)"
        )
    # Setting and fold are the run's. Their values in conf/protocol/*.yaml count as "not given", and the setting of the
    # user's own data comes with its group.
    defaults = group_defaults("protocol", config.protocol.name) if config.protocol else {}
    for key in () if own else ("setting", "fold"):
        not_given = defaults.get(key)
        asked, given = getattr(config.protocol, key, not_given), getattr(trained.protocol, key, None)
        if asked not in (not_given, given):
            raise ConfigError(f"protocol.{key}={asked}: the run was trained with protocol.{key}={given}; leave it out")


def _check_preprocessing(data: DataConfig, trained: TrainConfig) -> None:
    """Refuse preprocessing that differs from the run's. A value equal to the data set's default counts as not given."""
    not_given = group_defaults("data", data.name)
    for key in PREPROCESSING:
        asked, given = getattr(data, key), getattr(trained.data, key)
        if asked not in (given, not_given[key]):
            raise ConfigError(f"data.{key}={asked}: the run was trained with data.{key}={given}; leave it out")


def _changes(config: EvalConfig) -> dict[str, Any]:
    """What the evaluation scores in another way than the run did."""
    changes: dict[str, Any] = {"groups": config.groups, "resume": False}  # an evaluation starts from the beginning
    if config.backend is not None:
        changes |= {"backend": config.backend, "calibration": "auto"}  # that of another back end need not fit
    views = {key: getattr(config, key) for key in ("flip_average", "crop_average")}
    return changes | {key: value for key, value in views.items() if value is not None}


def _check_same_pairs(run: FinishedRun, first: FinishedRun) -> None:
    """Refuse an ensemble whose members were trained or tested on different pairs."""
    for key in LISTING:
        own, others = (getattr(one.config.data, key, None) for one in (run, first))
        if own != others:
            raise ConfigError(
                f"run={run.folder.path}: its data.{key}={own} differs from {others} of {first.folder.path}; an "
                "ensemble needs the same pairs"
            )
    own, others = (to_plain(one.config.protocol) for one in (run, first))
    for key in own:
        if own[key] != others.get(key):
            raise ConfigError(
                f"run={run.folder.path}: trained with protocol.{key}={own[key]}, unlike {first.folder.path} with "
                f"{others.get(key)}; an ensemble needs the same"
            )
