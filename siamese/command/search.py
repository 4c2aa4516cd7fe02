"""A search for hyperparameters by validation: Optuna proposes, ``train.py`` runs, and what promises little is ended.

Hydra's own Optuna sweeper wants a release of Optuna that is years old; here Optuna's storage, sampler and pruner are
used as they are, and each trial is a run folder like any other. All of a search is in its folder: ``search.db``,
Optuna's record, and a run folder for each trial. The same command goes on with it, and several at a time share it.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, model_validator

from siamese.config.load import composition_error, load_file, load_train
from siamese.config.schema import TrainConfig
from siamese.config.section import Section, to_plain
from siamese.data.sources import check_data
from siamese.errors import ConfigError, TrainingError
from siamese.report.sweep import write_sweep_page
from siamese.runs.folder import RunFolder
from siamese.runs.locks import ORPHANS_MAY_TAKE, SWEEP_PROCESS, claim, release
from siamese.runs.records import HistoryRow, read_history

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

LOOK_EVERY = 0.2
"""Seconds between two looks at what a trial has got to."""

Value = bool | int | float | str


class Values(Section):
    """What a key may be: a number from ``low`` to ``high``, a whole one where both are, or one of ``choices``."""

    low: int | float | None = None
    high: int | float | None = Field(None, description="included")
    log: bool = Field(False, description="draw by orders of magnitude")
    step: int | float | None = Field(None, gt=0, description="between two neighbouring values")
    choices: list[Value] | None = Field(None, min_length=2, description="as they stand on the command line")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Values:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices need no low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log=true needs low above 0 and no step")
        return self

    @property
    def extremes(self) -> list[Value]:
        """The ends of a range, or all choices."""
        return self.choices or [end for end in (self.low, self.high) if end is not None]

    @property
    def distribution(self) -> BaseDistribution:
        """The same as Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float):
            return IntDistribution(self.low, self.high, self.log, self.step or 1)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Pruning(Section):
    """When a trial is ended: its best so far is worse than the median of what others had after as many epochs."""

    startup: int = Field(5, ge=1, description="finished trials before any is ended")
    warmup: int = Field(2, ge=0, description="epochs before a trial is ended")


class SearchConfig(Section):
    """A search space, and how it is searched."""

    metric: Literal["val/loss", "val/acc", "val/auc"] = Field("val/loss", description="what is to be small, or large")
    trials: int = Field(30, ge=1, description="in all, those that were ended early and that failed among them")
    random: int = Field(10, ge=1, description="trials drawn at random before those that learn from others (TPE)")
    seed: int = Field(0, ge=0, description="of what is drawn")
    pruning: Pruning | None = Field(Pruning(), description="null: every trial runs to its end")
    space: dict[str, Values] = Field(min_length=1, description="keys of the configuration and their values")

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """What the metric is to become."""
        return "minimize" if self.metric == "val/loss" else "maximize"


def search(space: str, folder: Path, overrides: Sequence[str], trials: int | None = None) -> None:
    """Search in ``folder`` until as many trials as asked for are there, those of former calls among them.

    Args:
        space: a file, or the name of one in ``conf/search``.
        folder: of the search; made when missing.
        overrides: ``key=value`` words that every trial has besides, as for ``train.py``.
        trials: how many, in place of what the file says.

    Raises:
        UserError: the space, a value in it, the data or the folder cannot be used, or Optuna is not installed.
        TrainingError: a run ended without a reason of its own.
        Interrupted: a signal came; the run has saved what it had, and the same command goes on with it.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ConfigError("a search needs optuna; pip install 'siamese[search]'") from None
    plan = load_file(space_file(space), SearchConfig)
    wanted = plan.trials if trials is None else trials
    if wanted < 1:
        raise ConfigError(f"--trials {wanted}: give 1 or more")
    check_space(plan, overrides)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(plan, folder, overrides)
    while (turn := next_trial(plan, study, folder, wanted)) is not None:
        trial, lock = turn
        try:
            follow(plan, study, trial, folder / str(trial.number), overrides)
        finally:
            lock.release()
        write_sweep_page(folder)
    tell_best(plan, study, overrides)


def space_file(name: str) -> Path:
    """The file of a search space: a path, or the name of one that comes along.

    Raises:
        ConfigError: there is none.
    """
    from siamese.config.defaults import configuration_folder

    if (file := Path(name)).is_file():
        return file
    ours = configuration_folder() / "search"
    if (file := ours / f"{name}.yaml").is_file():
        return file
    known = ", ".join(sorted(path.stem for path in ours.glob("*.yaml")))
    raise ConfigError(f"{name}: no such file; name a YAML file with a search space, or one of {known}")


def check_space(plan: SearchConfig, overrides: Sequence[str]) -> None:
    """Compose the configuration with the ends of each range and with each choice, and look for the data.

    Raises:
        UserError: something of it cannot be used.
    """
    train = composed(overrides)
    check_data(train.data, train.protocol)
    if train.trainer.processes > 1:
        raise ConfigError("a search trains each network in one process; leave trainer=ddp out")
    for key, values in plan.space.items():
        for value in values.extremes:
            try:
                composed([*overrides, as_override(key, value)])
            except ConfigError as error:
                raise ConfigError(f"space: {error}") from None


def composed(overrides: Sequence[str]) -> TrainConfig:
    """The configuration of ``train.py`` with these overrides; a ConfigError where there is none."""
    from siamese.config.defaults import configuration_folder

    try:
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            return load_train(compose("train", [*overrides, "resume=true"]))
    except (HydraException, OmegaConfBaseException) as error:
        raise composition_error(error) from None


def as_override(key: str, value: Value) -> str:
    """A value as the command line has it."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={value}"  # 0.3, not 0.30000000000000004


def distributions(plan: SearchConfig) -> dict[str, BaseDistribution]:
    """The space as Optuna has it."""
    return {key: values.distribution for key, values in plan.space.items()}


def open_study(plan: SearchConfig, folder: Path, overrides: Sequence[str]) -> Study:
    """The search of a folder, begun where there is none.

    Raises:
        ConfigError: the folder cannot be written, or holds something else.
    """
    database = folder / "search.db"
    foreign = folder.exists() and (not folder.is_dir() or any(file.name[0] != "." for file in folder.iterdir()))
    if foreign and not database.exists():
        raise ConfigError(f"{folder} holds something else; name another folder for the search")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".asking.lock"):
            return _open(plan, database, overrides)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None


def _open(plan: SearchConfig, database: Path, overrides: Sequence[str]) -> Study:
    import optuna

    pruner = (
        optuna.pruners.MedianPruner(plan.pruning.startup, plan.pruning.warmup + 1)  # epochs count from 1
        if plan.pruning
        else optuna.pruners.NopPruner()
    )
    study = optuna.create_study(
        storage=f"sqlite:///{database}", study_name="search", direction=plan.direction, pruner=pruner,
        load_if_exists=True,
    )  # fmt: skip
    begun = study.user_attrs.get("begun")
    # How many there are may change.
    asked = {"plan": {k: v for k, v in to_plain(plan).items() if k != "trials"}, "overrides": list(overrides)}
    if begun is None:
        study.set_user_attr("begun", asked)
    elif begun != asked:
        what = "another space" if begun["overrides"] == asked["overrides"] else shlex.join(begun["overrides"])
        raise ConfigError(
            f"{database.parent} holds a search with {what or 'no overrides'}; name another folder for this one"
        )
    return study


def next_trial(plan: SearchConfig, study: Study, folder: Path, wanted: int) -> tuple[Trial, FileLock] | None:
    """A trial that nobody works on, begun by a search that was stopped or anew, and held; None when all are there.

    What is proposed depends on the seed, the number of the trial and the results so far alone, so that a search which
    was stopped ends as one that was not.
    """
    import optuna

    with FileLock(folder / ".asking.lock"):
        for left in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            if (lock := held(folder, left.number)) is not None:
                return _complete(plan, study, left), lock
        number = len(study.get_trials(deepcopy=False))
        if number >= wanted:
            return None
        lock = held(folder, number)
        if lock is None:
            raise ConfigError(f"{folder}/.{number}.lock is held by another process; wait until that has ended")
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=plan.random, seed=int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0]),
            constant_liar=True,
        )  # fmt: skip
        return study.ask(distributions(plan)), lock


def _complete(plan: SearchConfig, study: Study, left: FrozenTrial) -> Trial:
    """A trial that has begun, with whatever of its values a killed search had not drawn yet."""
    import optuna

    trial = optuna.trial.Trial(study, left._trial_id)  # what `Study.ask` does for a new one
    for key, values in distributions(plan).items():
        trial._suggest(key, values)
    return trial


def held(folder: Path, number: int) -> FileLock | None:
    """The lock of a trial, taken; None where another process has it."""
    lock = FileLock(folder / f".{number}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def follow(plan: SearchConfig, study: Study, trial: Trial, folder: Path, overrides: Sequence[str]) -> None:
    """Have a trial's run trained, report each epoch, end it where it promises little, and record what came of it.

    Raises:
        TrainingError, ConfigError: the first run of a search failed, or a run was stopped by somebody else.
        Interrupted: a signal came; the run has saved what it had.
    """
    from optuna.trial import TrialState

    words = [*overrides, *(as_override(key, value) for key, value in trial.params.items())]
    told = ", ".join(as_override(key, value) for key, value in trial.params.items())
    reported, pruned = set(study.trials[trial.number].intermediate_values), False
    claim(folder, ORPHANS_MAY_TAKE)  # by the run of a search that was killed
    release(folder)
    with started(words, folder) as (child, last_words):
        while True:
            ended = child.poll() is not None
            for row in _epochs(RunFolder(folder)):
                epoch, value = int(row["epoch"]), row[plan.metric]
                if epoch not in reported:
                    trial.report(value, epoch)
                    reported.add(epoch)
                    if trial.should_prune():
                        pruned = True
                        break
            if ended or pruned:
                break
            time.sleep(LOOK_EVERY)
        if pruned:
            stop(child)
    run = RunFolder(folder)
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
        log.info("trial %d: ended after epoch %d: %s", trial.number, max(reported), told)
        if not run.is_done:
            run.record(status="interrupted", error=f"ended by the search after epoch {max(reported)}")
        run.last.unlink(missing_ok=True)
        return
    if child.returncode == 0:
        result = run.result
        recorded = None if result is None else result.figure(plan.metric)
        figure = float("nan") if recorded is None else recorded
        study.tell(trial, figure)
        log.info("trial %d: %s %.4f: %s", trial.number, plan.metric, figure, told)
        return
    reason = last_words() or f"ended with exit code {child.returncode}"
    if child.returncode < 0 or child.returncode > 128:
        raise TrainingError(f"trial {trial.number}: {reason}; the same command goes on with it")
    study.tell(trial, state=TrialState.FAIL)
    log.warning("trial %d: failed: %s: %s", trial.number, reason, told)
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]):
        raise (ConfigError if child.returncode == 2 else TrainingError)(f"trial {trial.number}: {reason}")


def _epochs(run: RunFolder) -> list[HistoryRow]:
    """The epochs so far; a run that has just started has none."""
    return read_history(run.history) if run.history.exists() else []


@contextmanager
def started(words: Sequence[str], folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A run in a process of its own, which ends when this one does, and what tells the last line it wrote.

    Not in this process's group: Ctrl-C would reach it twice, and a second signal does not wait for what is saved.
    """
    command = [sys.executable, "-m", "siamese", "train", *words, f"hydra.run.dir={folder}", "resume=true"]
    with tempfile.TemporaryFile() as told:

        def last_words() -> str:
            told.seek(0)
            lines = told.read().decode(errors="replace").strip().splitlines()
            return lines[-1].removeprefix("error: ") if lines else ""

        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=told, start_new_session=True,
            env={**os.environ, SWEEP_PROCESS: str(os.getpid())},
        )  # fmt: skip
        try:
            yield child, last_words
        finally:
            stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """Have a run save what it has and end, if it has not ended."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    child.wait()


def tell_best(plan: SearchConfig, study: Study, overrides: Sequence[str]) -> None:
    """Log the best trial, and how to train it again."""
    from optuna.trial import TrialState

    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    counts: Mapping[str, int] = {
        "finished": states.count(TrialState.COMPLETE), "ended early": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
    }  # fmt: skip
    log.info("%d trials: %s", len(states), ", ".join(f"{n} {what}" for what, n in counts.items()))
    if not counts["finished"]:
        return
    best = study.best_trial
    log.info("best: trial %d, %s %.4f; see what other seeds make of it:", best.number, plan.metric, best.value)
    words = [*overrides, *(as_override(key, value) for key, value in best.params.items())]
    log.info("  %s", shlex.join(["python", "train.py", "-m", "seed=0,1,2", *words]))
