"""The jobs behind ``train`` and ``eval``: from a composed configuration to a finished run, with its failure recorded.

Torch and Lightning are imported only when a job begins.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path

import yaml
from hydra import compose
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode

from siamese.command.exit_codes import JobFailedError, end, reason
from siamese.command.orphans import end_with_sweep
from siamese.command.overrides import has_several, shell_word
from siamese.config.load import Composed, is_composition_error, load_eval, load_train
from siamese.config.protocol import IdentificationProtocol, OneShotProtocol
from siamese.config.schema import TrainConfig
from siamese.data.own import reading_once
from siamese.errors import ConfigError, TrainingError, UserError, WorkerKilledError
from siamese.runs.finished import with_start
from siamese.runs.folder import RunFolder
from siamese.runs.locks import ORPHANS_MAY_TAKE, claim, is_main, release
from siamese.runs.signals import Interrupted, catch_signals

log = logging.getLogger(__name__)

SEARCHED_KEYS = "SIAMESE_SEARCHED_KEYS"
"""Environment variable: the keys that a search varies, separated by spaces, set for the runs that it starts."""

ABBREVIATIONS = {"batch_size": "bs", "learning_rate": "lr", "weight_decay": "wd"}
"""Keys in the names of a sweep's jobs."""

WORD = re.compile(r"(?!(true|false|null|none)$)[a-z][\w/-]*", re.IGNORECASE)
"""A value that says by itself what it is, such as ``adam`` or ``lfw_funneled``."""

ALIKE = {"adam", "adamw"}
"""Optimizers that suit the same learning rates."""


def train_job(cfg: Composed) -> float:
    """Train, test and report one run; returns the figure that ``monitor`` names, for sweepers that optimise it."""

    def run(folder: RunFolder) -> float:
        config = with_start(load_train(cfg), folder)
        is_helper = not is_main(config.trainer.processes)  # one of the processes that torchrun or SLURM started
        if not is_helper:
            folder.check(config)
        if is_helper:
            from siamese.training.processes.helper import train_as_helper

            train_as_helper(config, folder)
            return float("nan")
        if config.protocol.name == "view2" and config.protocol.fold is None:
            from siamese.training.folds import train_folds as train
        else:
            from siamese.training.train import train

        if caution := caution_about_learning_rate(HydraConfig.get(), config):
            log.warning(caution)
        gc.freeze()  # imported modules stay; the garbage collection after the job need not look through them
        swept = swept_values()
        figure = train(config, folder, label_of(swept) or config.name, swept).figure(config.monitor)
        return float("nan") if figure is None else figure

    return run_job(run, process_count(cfg))


def eval_job(cfg: Composed) -> float:
    """Score finished runs, and return the test accuracy.

    For one-shot identification it is that of the last number of ways, for identification the rate at rank 1.
    """

    def run(folder: RunFolder) -> float:
        from siamese.protocols.evaluate import evaluate

        config = load_eval(cfg)
        result = evaluate(config, folder)
        if isinstance(config.protocol, OneShotProtocol):
            return float(result.oneshot(config.protocol.ways[-1], "acc"))
        if isinstance(config.protocol, IdentificationProtocol):
            return float(result.figure("identification/rank1") or 0)
        return float("nan") if result.test_acc is None else result.test_acc

    return run_job(run, resumes=False)


def run_job(run: Callable[[RunFolder], float], processes: int = 1, resumes: bool = True) -> float:
    """Run one job in its output folder and record a failure there.

    A failed run ends the process. A failed job of a sweep raises `JobFailedError`, after which Hydra continues with the
    next job.

    Args:
        run: does the work; returns the figure of the job.
        processes: how many processes train together; only the first one writes.
        resumes: whether the job can be resumed.
    """
    catch_signals()  # again, because a launcher may run the job in another process
    hydra = HydraConfig.get()
    folder = RunFolder(Path(hydra.runtime.output_dir))
    in_sweep = hydra.mode == RunMode.MULTIRUN
    if not is_main(processes):
        logging.getLogger().setLevel(logging.WARNING)
        return run(folder)
    try:
        claim(folder.path, ORPHANS_MAY_TAKE if in_sweep else 0.0)
    except UserError as error:
        if in_sweep:
            raise JobFailedError(f"job {hydra.job.num} failed: {error}") from None
        end(error)
    end_with_sweep()
    try:
        with reading_once() if in_sweep else contextlib.nullcontext():  # a single run: `run_app`
            return run(folder)
    except (Exception, Interrupted) as error:
        if not folder.is_done:  # a finished run stays finished, for example if drawing its page fails
            with contextlib.suppress(OSError):  # for example a full disk: still print the reason below
                folder.record_failure(error, f"{hydra.job.name}.log")
        key, path = ("sweep", hydra.sweep.dir) if in_sweep else ("run", folder.path)
        hint = f"; to resume, repeat the command with {shell_word(f'hydra.{key}.dir', str(path))} resume=true"
        if isinstance(error, Interrupted):
            hint = hint if resumes else "; run the same command again"
        elif not (resumes and folder.config.exists() and not folder.is_done and _may_pass(error)):
            hint = ""
        if isinstance(error, Interrupted) or not in_sweep:
            end(error, hint)
        raise JobFailedError(f"job {hydra.job.num} failed: {reason(error)}{hint}") from None
    finally:
        release(folder.path)
        gc.collect()  # trainer and network refer to each other: half a gigabyte that the next job needs
        gc.unfreeze()


def _may_pass(error: BaseException) -> bool:
    """Whether a run may succeed with the same configuration, perhaps after photos, disk or memory were seen to."""
    return isinstance(error, WorkerKilledError) or not isinstance(error, ConfigError | TrainingError)


def swept_values() -> dict[str, str]:
    """Return key -> value of the overrides in which this job of a sweep or search differs; empty in a single run.

    The job may run in another process than the sweep, so the swept keys are read from Hydra's ``multirun.yaml``.
    """
    hydra = HydraConfig.get()
    keys = set(os.environ.get(SEARCHED_KEYS, "").split())
    if hydra.mode == RunMode.MULTIRUN:
        try:
            recorded = yaml.safe_load((Path(hydra.sweep.dir) / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
            parsed = OverridesParser.create().parse_overrides(list(recorded["overrides"]["task"]))
            keys = {override.get_key_element() for override in parsed if has_several(override)}
            keys |= set(recorded["sweeper"].get("params") or {})
        except (OSError, KeyError, TypeError, ValueError, HydraException, yaml.YAMLError):
            return {}
    pairs = (override.partition("=") for override in hydra.overrides.task)
    return {key.lstrip("+"): value for key, _, value in pairs if key in keys}


def caution_about_learning_rate(hydra: HydraConf, config: TrainConfig) -> str | None:
    """Return a warning if a run has another optimizer than its experiment, but the learning rate of the experiment.

    Args:
        hydra: Hydra's own section.
        config: the configuration of the run.

    Returns:
        None if optimizer and learning rate belong together or are both the user's choice, if the experiment sets no
        learning rate, and if nothing is trained.
    """
    words = [*hydra.overrides.hydra, *hydra.overrides.task]
    given = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    experiment = given.get("experiment") or hydra.runtime.choices.get("experiment")  # Hydra does not record a list
    if not experiment or "optimizer" not in given or "learning_rate" in given or config.max_epochs == 0:
        return None
    others = [word for word in words if not re.match(r"[+~]*optimizer\b", word)]
    try:
        defaults, unchanged = (compose(hydra.job.config_name, some) for some in (list(hydra.overrides.hydra), others))
    except Exception as error:
        if is_composition_error(error):
            return None
        raise
    own, name = unchanged.optimizer.name, config.optimizer.name
    if own == name or {own, name} == ALIKE or unchanged.learning_rate == defaults.learning_rate:
        return None
    return (
        f"learning_rate={config.learning_rate:g} is from experiment={experiment}, which has optimizer={own}, but this "
        f"run has optimizer={name}; give a learning_rate for {name}"
    )


def label_of(swept: Mapping[str, str]) -> str:
    """Return a name for a job, such as ``wd=1e-5,sgd``; TensorBoard's tables have no room for longer names.

    A value that is a word stands alone. Other keys are abbreviated, or named without their group.
    """

    def short(key: str, value: str) -> str:
        if WORD.fullmatch(value):
            return value
        with contextlib.suppress(ValueError):  # not a number
            rounded = value if value.isdigit() else f"{float(value):.4g}"
            value = min(rounded, f"{Decimal(rounded).normalize():e}", key=len)
        return f"{ABBREVIATIONS.get(key, key.rpartition('.')[2])}={value}"

    return ",".join(short(key, value) for key, value in swept.items())


def process_count(config: Composed) -> int:
    """Return how many processes train together; 1 if the configuration is invalid, which a later check reports."""
    try:
        return int(config.trainer.devices) * int(config.trainer.nodes)
    except (TypeError, ValueError):
        return 1
    except Exception as error:
        if is_composition_error(error):
            return 1
        raise
