"""What both entry points share: checks before Hydra writes anything, exit codes, one-line errors, signals.

Exit codes: 0 done; 2 bad configuration or data; 130 / 143 interrupted by SIGINT / SIGTERM; 1 anything else,
a sweep with a failed job among them. Torch and Lightning are imported only when a job begins.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese.config.load import composition_error, load_eval, load_train
from siamese.config.schema import LfwData, OneShotProtocol, TrainProtocol
from siamese.data.sources import check_data, prepare_data
from siamese.errors import ConfigError, TrainingError, UnknownKeyError, UserError
from siamese.runs.finished import find_runs
from siamese.runs.folder import RunFolder
from siamese.runs.locks import ORPHANS_MAY_TAKE, SWEEP_PROCESS, claim, is_first, is_main, release
from siamese.runs.signals import REQUEUE, Interrupted, catch_signals, requeue, was_requeued

EXTRAS = ("mlflow", "wandb")
"""Loggers that are called as the packages which they need."""


class JobFailedError(Exception):
    """A job of a sweep ended with an error; the message has its number and the reason."""


def run_app(main: Callable[[], object]) -> NoReturn:
    """Call a function decorated with ``hydra.main`` and end the process with the exit code of the contract."""
    # Hydra prints several lines and ends with 1 on its own, unless told to let exceptions through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Unquoted, Hydra takes the word for a number that is none.
    sys.argv[1:] = ["debug='nan'" if word == "debug=nan" else word for word in sys.argv[1:]]
    catch_signals()
    try:
        main()
    except (Interrupted, JobFailedError) as error:
        _end(error)
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; nor may the interpreter flush to it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        # A job ends by itself. What comes here was raised while Hydra composed the configuration, or by a launcher.
        if Guard.has_composed:
            traceback.print_exc()
            _end(error)
        _end(ConfigError(_reason(error)))
    raise SystemExit(0)


def train_job(cfg: DictConfig) -> float:
    """Train, test and report one run; returns the monitor as the finished run has it, for sweepers that optimise."""

    def run(folder: RunFolder) -> float:
        config = load_train(cfg)
        is_helper = not is_main(config.trainer.processes)  # one of the processes that torchrun or SLURM started
        if not is_helper:
            folder.check(config)
        if config.protocol.name == "view2" and config.protocol.fold is None:
            from siamese.training.folds import train_folds as train
        elif is_helper:
            from siamese.training.processes import train_as_helper

            train_as_helper(config, folder)
            return float("nan")
        else:
            from siamese.training.train import train

        gc.freeze()  # imported modules stay; the garbage collection after the job need not look through them
        figure = train(config, folder, swept_values() or config.name).figure(config.monitor)
        return float("nan") if figure is None else figure

    return _job(run, _processes(cfg))


def eval_job(cfg: DictConfig) -> float:
    """Score finished runs; returns the test accuracy, of one-shot identification that of the last number of ways."""

    def run(folder: RunFolder) -> float:
        from siamese.protocols.evaluate import evaluate

        config = load_eval(cfg)
        result = evaluate(config, folder)
        if isinstance(config.protocol, OneShotProtocol):
            return float(result.oneshot(config.protocol.ways[-1], "acc"))
        return float("nan") if result.test_acc is None else result.test_acc

    return _job(run)


def swept_values() -> str:
    """What this job of a sweep was given that others were not, as ``batch_size=32,seed=1``; empty in a single run.

    The jobs may run in other processes than the sweep, so its keys are read from what Hydra has recorded of it.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return ""
    try:
        recorded = OmegaConf.load(Path(hydra.sweep.dir) / "multirun.yaml").hydra
        parsed = OverridesParser.create().parse_overrides(list(recorded.overrides.task))
        keys = {override.get_key_element() for override in parsed if override.is_sweep_override()}
        keys |= set(recorded.sweeper.get("params") or {})
    except (OSError, HydraException, OmegaConfBaseException, yaml.YAMLError):
        return ""
    return ",".join(override for override in hydra.overrides.task if override.partition("=")[0] in keys)


class Guard(Callback):
    """Hydra callback: ends a run that cannot work before anything is written; keeps a sweep's page fresh."""

    has_composed = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the configuration, the data and the output folder of a single run."""
        Guard.has_composed = True
        if not is_main(_processes(config)):
            return
        try:
            folder = Path(config.hydra.run.dir)
            _check(config, kwargs["config_name"], folder)
            claim(folder)  # before Hydra writes into it
        except (Exception, Interrupted) as error:
            # Hydra turns an exception in a callback into a warning and goes on; SystemExit passes.
            _end(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """End a sweep of which no job can work, or whose folder holds another."""
        Guard.has_composed = True
        try:
            _check_sweep(config, kwargs["config_name"])
            claim(Path(config.hydra.sweep.dir))
            os.environ[SWEEP_PROCESS] = str(os.getpid())
        except (Exception, Interrupted) as error:
            _end(error)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the sweep's tables and page anew from the files of its jobs."""
        if config.hydra.mode == RunMode.MULTIRUN:
            from siamese.report.sweep import write_sweep_report

            write_sweep_report(Path(config.hydra.sweep.dir))


def _job(run: Callable[[RunFolder], float], processes: int = 1) -> float:
    """Run one job and record how it ended; in a sweep a failure is left to Hydra, which goes on."""
    catch_signals()  # a launcher may have started another process for the job
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
        _end(error)
    _end_with_sweep()
    try:
        return run(folder)
    except (Exception, Interrupted) as error:
        if not folder.is_done:  # what is done stays so, whatever comes after
            with contextlib.suppress(OSError):  # as on a full disk: the reason is told all the same
                folder.record_failure(error, f"{hydra.job.name}.log")
        hint = ""
        if folder.last.exists() and not isinstance(error, Interrupted | UserError | TrainingError):
            hint = "; what was saved goes on with the same command, its folder and resume=true"
        if isinstance(error, Interrupted) or not in_sweep:
            _end(error, hint)
        raise JobFailedError(f"job {hydra.job.num} failed: {_reason(error)}{hint}") from None
    finally:
        release(folder.path)
        gc.collect()  # trainer and network refer to each other: half a gigabyte that the next job would find taken
        gc.unfreeze()


def _check(config: DictConfig, config_name: str, folder: Path | None, fetch: bool = True) -> None:
    """Raise what a run with this composed configuration would fail with before its first step.

    Data that can be downloaded is downloaded here: a failure then leaves no run folder behind.
    """
    cfg = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    protocol: TrainProtocol | OneShotProtocol
    test_only = False
    if config_name == "train":
        try:
            train = load_train(cfg)
        except UnknownKeyError as error:
            experiment = config.hydra.runtime.choices.get("experiment")
            if experiment and not any(error.key in override for override in config.hydra.overrides.task):
                raise ConfigError(
                    f"{error}; experiment={experiment} sets it for another choice: leave it out with ~{error.key}"
                ) from None
            raise
        if folder is not None:
            RunFolder(folder).check(train)
        if train.trainer.accelerator == "gpu":
            from siamese.scoring.device import pick_device

            pick_device(train)
        if train.logger.name in EXTRAS and importlib.util.find_spec(train.logger.name) is None:
            raise ConfigError(f"logger={train.logger.name} needs a package: pip install 'siamese[{train.logger.name}]'")
        data, protocol = train.data, train.protocol
    else:
        wanted = load_eval(cfg)
        run = find_runs(wanted)[0]
        first, test_only = run.config, run.test_only
        data, protocol = first.data, wanted.protocol if isinstance(wanted.protocol, OneShotProtocol) else first.protocol
        if folder is not None and RunFolder(folder).result is not None:
            raise ConfigError(f"{folder} already holds a run; give another output folder")
    check_data(data, protocol, test_only)
    if fetch and isinstance(data, LfwData):
        prepare_data(data, sys.stderr.isatty(), protocol)


def _check_sweep(config: DictConfig, config_name: str) -> None:
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ConfigError("torchrun starts the processes of one run, not of a sweep; leave -m or torchrun out")
    folder = Path(config.hydra.sweep.dir)
    held = sorted(folder.glob("*/result.json"))
    resume = any(override.replace(" ", "").lower() == "resume=true" for override in config.hydra.overrides.task)
    if held and not (resume or was_requeued()):
        raise ConfigError(
            f"{folder} already holds a sweep ({len(held)} jobs); give resume=true to go on with it, or another "
            "hydra.sweep.dir"
        )
    problems = []
    for overrides in _jobs(config):
        job = GlobalHydra.instance().config_loader().load_configuration(config_name, overrides, RunMode.RUN)
        try:
            _check(job, config_name, folder=None, fetch=False)
        except UserError as error:
            problems.append(error)
        else:
            return  # the others may fail one by one, each with its reason in the table
    if problems:
        raise problems[0]


def _jobs(config: DictConfig) -> Iterator[list[str]]:
    """The overrides of each job, when Hydra's own sweeper makes them; others choose theirs as they go."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides(lines + list(config.hydra.overrides.task))
    for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None):
        yield from batch


def _end(error: BaseException, hint: str = "") -> NoReturn:
    """Print the reason in one line and end with its exit code."""
    if isinstance(error, Interrupted):
        code = error.code
        if error.signal == REQUEUE and is_first() and not requeue():
            print("warning: SLURM did not take the job for another start", file=sys.stderr)
    elif isinstance(error, UserError | HydraException | OmegaConfBaseException):
        code = 2
    else:
        code = 1
    print(f"error: {_reason(error)}{hint}", file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, UserError | TrainingError | Interrupted | JobFailedError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return str(composition_error(error))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the disk"
        return f"{where}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _end_with_sweep() -> None:
    """In a process that joblib or a search has started: stop, as after SIGTERM, soon after that was killed.

    (What submitit has started is to outlive it.)
    """
    sweep = os.environ.get(SWEEP_PROCESS, "")
    if sweep in ("", str(os.getpid())) or "SUBMITIT_EXECUTOR" in os.environ:
        return

    def is_gone() -> bool:
        try:
            os.kill(int(sweep), 0)
        except ProcessLookupError:
            return True
        return False

    def watch() -> None:
        while not is_gone():
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if is_gone():  # joblib's processes take further jobs from their queue
        os._exit(128 + signal.SIGTERM)
    if not any(thread.name == SWEEP_PROCESS for thread in threading.enumerate()):
        threading.Thread(target=watch, name=SWEEP_PROCESS, daemon=True).start()


def _processes(config: DictConfig) -> int:
    """How many processes train together; 1 where the configuration does not say so rightly, which is told later."""
    try:
        return int(config.trainer.devices) * int(config.trainer.nodes)
    except (OmegaConfBaseException, TypeError, ValueError):
        return 1
