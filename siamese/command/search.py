"""``siamese search``: Optuna proposes hyperparameters, ``train`` runs them, and unpromising trials are stopped early.

Hydra's own Optuna sweeper neither resumes a killed trial nor prunes; CONTRIBUTING.md compares them. Here Optuna's
storage, sampler and pruner are used directly, and each trial is an ordinary run folder. A search lives in one folder:
``search.db`` (Optuna's record) and one run folder per trial, named 0, 1, ... The same command resumes a stopped search,
and several processes may work on one search at the same time.

Optuna has no public way to continue a trial of a process that was killed. Such a trial is marked as failed, and a new
trial with the same values takes over its run folder. So the number of the run folder, recorded as the trial's attribute
`FOLDER`, identifies a trial of the search; of several trials with the same folder, the last one counts.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout

from siamese.command.jobs import SEARCHED_KEYS
from siamese.command.overrides import as_typed, quoted
from siamese.command.search_space import SearchConfig, as_override, check_space, space_file
from siamese.config.load import load_file
from siamese.config.section import to_plain
from siamese.errors import ConfigError, MissingPackageError, TrainingError
from siamese.report.sweep_page import write_sweep_page
from siamese.runs.folder import RunFolder
from siamese.runs.locks import ORPHANS_MAY_TAKE, SWEEP_PROCESS, claim, release
from siamese.runs.tables import read_history
from siamese.text import count, shell_words

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Time between two looks at the history of the running trial."""

FOLDER = "folder"
"""User attribute of each Optuna trial: the number of its run folder."""


def search(space: str, folder: Path, overrides: Sequence[str], trials: int | None = None) -> None:
    """Run trials until the search has as many as requested, including those of earlier calls.

    Args:
        space: a YAML file (see `SearchConfig`), or the name of one in ``conf/search``.
        folder: output folder of the search; created if missing.
        overrides: ``key=value`` for every trial, as for ``train.py``.
        trials: total number of trials; None: as in the file.

    Raises:
        UserError: the space, a value in it, the data or the folder cannot be used, or Optuna is not installed.
        TrainingError: a run was killed, or the first run failed.
        Interrupted: a signal arrived; the run has saved its state, and the same command resumes the search.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingPackageError("a search", "optuna", "search") from None
    plan = load_file(space_file(space), SearchConfig)
    wanted = plan.trials if trials is None else trials
    if wanted < 1:
        raise ConfigError(f"--trials {wanted}: give 1 or more")
    overrides = as_typed(overrides)
    check_space(plan, overrides)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_study(plan, folder, overrides)
    while (turn := next_trial(plan, study, folder, wanted)) is not None:
        trial, lock = turn
        try:
            run_trial(plan, study, trial, folder, overrides)
        finally:
            lock.release()
        write_sweep_page(folder)
    log_best(plan, study, overrides)


def open_study(plan: SearchConfig, folder: Path, overrides: Sequence[str]) -> Study:
    """Open the search in ``folder``, or start it.

    Raises:
        ConfigError: the folder cannot be written, or holds another search or anything else.
    """
    database = folder / "search.db"
    foreign = folder.exists() and (not folder.is_dir() or any(file.name[0] != "." for file in folder.iterdir()))
    if foreign and not database.exists():
        raise ConfigError(f"{folder} holds files that are not of a search; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _database_lock(folder):
            return _open(plan, database, overrides)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); give another folder") from None


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
    # The number of trials may change.
    asked = {"plan": {k: v for k, v in to_plain(plan).items() if k != "trials"}, "overrides": list(overrides)}
    if begun is None:
        study.set_user_attr("begun", asked)
    elif begun != asked:
        what = "another search space" if begun["overrides"] == asked["overrides"] else shell_words(begun["overrides"])
        raise ConfigError(
            f"{database.parent} already holds a search with {what or 'no overrides'}; give another folder"
        )
    return study


def next_trial(plan: SearchConfig, study: Study, folder: Path, wanted: int) -> tuple[Trial, FileLock] | None:
    """Take a trial that no other process works on: one that was left unfinished, or a new one.

    The proposed values depend only on the seed, the number of the trial's folder and the earlier results. So a search
    that was stopped and resumed ends like one that was not.

    Returns:
        the trial, and the lock that this process holds on it; None if the search has ``wanted`` trials.
    """
    import optuna
    from optuna.trial import TrialState

    with _database_lock(folder):
        _requeue_abandoned(plan, study, folder)
        waiting = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
        if waiting:
            number = folder_number(waiting[0])  # Optuna hands out the oldest first
        else:
            number = len(latest_trials(study))
            if number >= wanted:
                return None
            study.enqueue_trial({}, user_attrs={FOLDER: number})  # so that the attribute is there from the start
        lock = _trial_lock(folder, number)
        if lock is None:
            raise ConfigError(f"{folder}/.{number}.lock is held by another process; wait until that process ends")
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=plan.random, seed=int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0]),
            constant_liar=True,
        )  # fmt: skip
        return study.ask(plan.distributions), lock


def _requeue_abandoned(plan: SearchConfig, study: Study, folder: Path) -> None:
    """Enqueue trials again whose process has ended without finishing them."""
    from optuna.trial import TrialState

    for left in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        lock = _trial_lock(folder, folder_number(left))
        if lock is None:
            continue  # a living process works on it
        # First enqueue, then mark as failed: a process killed in between leaves a trial that is enqueued already.
        if latest_trials(study)[folder_number(left)].number == left.number:
            # If the process was killed while values were drawn, draw all of them again, with the same seed.
            params = left.params if left.params.keys() == plan.space.keys() else {}
            study.enqueue_trial(params, user_attrs={FOLDER: folder_number(left)})
        study.tell(left.number, state=TrialState.FAIL)
        lock.release()


def folder_number(trial: Trial | FrozenTrial) -> int:
    """Return the number of a trial's run folder."""
    return int(trial.user_attrs[FOLDER])


def latest_trials(study: Study) -> dict[int, FrozenTrial]:
    """Return the trial that counts for each run folder, by the folder's number."""
    return {folder_number(trial): trial for trial in study.get_trials(deepcopy=False)}


def _database_lock(folder: Path) -> FileLock:
    """Return the lock to hold while a process opens the study or takes a trial."""
    return FileLock(folder / ".asking.lock")


def _trial_lock(folder: Path, number: int) -> FileLock | None:
    """Lock a trial; returns None if another process has locked it."""
    lock = FileLock(folder / f".{number}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def run_trial(plan: SearchConfig, study: Study, trial: Trial, folder: Path, overrides: Sequence[str]) -> None:
    """Train a trial's run, report each epoch to Optuna, stop it early if unpromising, and record the outcome.

    Raises:
        TrainingError, ConfigError: the first run of a search failed, or a run was killed.
        Interrupted: a signal arrived; the run has saved its state.
    """
    from optuna.trial import TrialState

    number = folder_number(trial)
    run = RunFolder(folder / str(number))
    chosen = [as_override(key, value) for key, value in trial.params.items()]
    shown = ", ".join(chosen)
    claim(run.path, ORPHANS_MAY_TAKE)  # wait for the run of a search that was killed
    release(run.path)
    with _started([*overrides, *chosen], run.path, plan.space) as (child, last_line):
        pruned_after = _follow(plan, trial, run, child)
    if pruned_after:
        study.tell(trial, state=TrialState.PRUNED)
        log.info("trial %d: stopped early after epoch %d: %s", number, pruned_after, shown)
        if not run.is_done:
            run.record(status="interrupted", error=f"stopped early by the search after epoch {pruned_after}")
        run.last.unlink(missing_ok=True)
        return
    if child.returncode == 0:
        recorded = None if run.result is None else run.result.figure(plan.metric)
        figure = float("nan") if recorded is None else recorded
        study.tell(trial, figure)
        log.info("trial %d: %s %.4f: %s", number, plan.metric, figure, shown)
        return
    reason = last_line() or f"ended with exit code {child.returncode}"
    if child.returncode < 0 or child.returncode > 128:
        raise TrainingError(f"trial {number}: {reason}; run the same command again to resume")
    study.tell(trial, state=TrialState.FAIL)
    log.warning("trial %d: failed: %s: %s", number, reason, shown)
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED]):
        raise (ConfigError if child.returncode == 2 else TrainingError)(f"trial {number}: {reason}")


def _follow(plan: SearchConfig, trial: Trial, run: RunFolder, child: subprocess.Popen[bytes]) -> int:
    """Report each epoch until the run ends, or stop it; returns the epoch after which it was stopped, or 0."""
    reported = 0
    while True:
        ended = child.poll() is not None  # looked at before the history, so that no last epoch is missed
        for row in read_history(run.history) if run.history.exists() else []:
            if row["epoch"] <= reported:
                continue
            reported = int(row["epoch"])
            trial.report(row[plan.metric], reported)
            if trial.should_prune():
                _stop(child)
                return reported
        if ended:
            return 0
        time.sleep(POLL_SECONDS)


@contextmanager
def _started(
    words: Sequence[str], folder: Path, keys: Iterable[str]
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    """Train a run in a process of its own, which ends when this process does; ``keys`` are those of the search.

    The process gets a process group of its own. Otherwise Ctrl-C would reach it twice, and it would not wait until
    its state is saved.

    Yields:
        the process, and a function that returns the last line it wrote to stderr.
    """
    command = [sys.executable, "-m", "siamese", "train", *words, f"hydra.run.dir={quoted(str(folder))}", "resume=true"]
    with tempfile.TemporaryFile() as stderr:

        def last_line() -> str:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").strip().splitlines()
            return lines[-1].removeprefix("error: ") if lines else ""

        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            env={**os.environ, SWEEP_PROCESS: str(os.getpid()), SEARCHED_KEYS: " ".join(keys)},
        )  # fmt: skip
        try:
            yield child, last_line
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let a run save its state and end, unless it has ended."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    child.wait()


def log_best(plan: SearchConfig, study: Study, overrides: Sequence[str]) -> None:
    """Log the best trial, and the command that trains it again with several seeds."""
    from optuna.trial import TrialState

    states = [trial.state for trial in latest_trials(study).values()]
    finished, pruned, failed = (states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    trials = count(len(states), "trial")
    log.info("%s: %d finished, %d stopped early, %d failed", trials, finished, pruned, failed)
    if not finished:
        return
    best = study.best_trial
    log.info("best: trial %d, %s %.4f; train it again with other seeds:", folder_number(best), plan.metric, best.value)
    words = [*overrides, *(as_override(key, value) for key, value in best.params.items())]
    log.info("  %s", shell_words(["python", "train.py", "-m", "seed=0,1,2", *words]))
