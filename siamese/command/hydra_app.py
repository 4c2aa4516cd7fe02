"""What ``train.py``, ``eval.py`` and the subcommands ``train`` and ``eval`` share: `run_app`, and Hydra's callback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode

from siamese.command.checks import check_job, check_sweep
from siamese.command.exit_codes import JobFailedError, discard_output, end, reason
from siamese.command.help import help_tables
from siamese.command.jobs import process_count
from siamese.command.overrides import MULTIRUN, as_typed
from siamese.config.load import Composed, is_composition_error, register_help, register_hydra
from siamese.data.own import reading_once
from siamese.errors import ConfigError
from siamese.runs.latest import SWEEPS, point_latest
from siamese.runs.locks import SWEEP_PROCESS, claim, is_main
from siamese.runs.signals import Interrupted, catch_signals

CONFIG_PATH = ("--config-path", "-cp")


def run_app(main: Callable[[], object], command: str) -> NoReturn:
    """Call a function decorated with ``hydra.main`` and end the process with an exit code of `exit_codes`.

    Args:
        main: the decorated function.
        command: ``train`` or ``eval``.
    """
    # Otherwise Hydra prints several lines and ends the process with exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    Guard.command = command
    register_hydra(command)
    register_help(help_tables)
    catch_signals()
    try:
        # Python's argparse refuses overrides on both sides of an option.
        words = sorted(sys.argv[1:], key=lambda word: word not in MULTIRUN)
        sys.argv[1:] = as_typed(_from_here(words))
        with reading_once():  # by the check before a run, and the run
            main()
        _print_ending()
    except (Interrupted, JobFailedError) as error:
        if isinstance(error, JobFailedError):
            _print_ending()
        end(error)
    except SystemExit as exit:
        if exit.code == 2 and not Guard.has_composed:  # Hydra has printed the option that it does not know
            print("write keys without dashes, as in batch_size=32; --help lists them", file=sys.stderr)
        raise
    except BrokenPipeError:  # for example `train.py --help | head`
        discard_output()
        raise SystemExit(1) from None
    except Exception as error:
        # A failed run has ended the process. What arrives here was raised by Hydra's composition, which for the jobs of
        # a sweep comes later, or by a launcher.
        if Guard.has_composed and not is_composition_error(error):
            traceback.print_exc()
            end(error)
        end(ConfigError(reason(error)))
    raise SystemExit(0)


def _from_here(words: list[str]) -> list[str]:
    """Let ``--config-path`` start in the working directory; Hydra looks beside the script."""
    changed, option = [], ""
    for word in words:
        name, equals, value = word.partition("=")
        if name not in CONFIG_PATH or not equals:
            name, equals, value = "", "", word
        if (name or option) in CONFIG_PATH and (folder := Path(value).expanduser()).is_dir():
            value = str(folder.absolute())
        changed.append(f"{name}{equals}{value}")
        option = word
    return changed


def _print_ending() -> None:
    if Guard.folder is None:
        return
    from siamese.command.ending import print_ending

    try:
        print_ending(Guard.folder)
    except BrokenPipeError:
        raise
    except Exception as error:  # the run or sweep itself is finished
        print(f"warning: cannot say what to do next: {reason(error)}", file=sys.stderr)


class Guard(Callback):
    """Hydra callback: stop a run that cannot work before anything is written; keep a sweep's page up to date.

    Attributes:
        command: ``train`` or ``eval``.
        has_composed: whether Hydra could compose the configuration.
        folder: folder of the run or sweep that this process has started; None in a process that helps another one.
    """

    command = ""
    has_composed = False
    folder: Path | None = None

    def on_run_start(self, config: Composed, **kwargs: Any) -> None:
        """Check the configuration, the data and the output folder of a single run."""
        Guard.has_composed = True
        if not is_main(process_count(config)):
            return
        try:
            if config.hydra.run.dir == "":
                raise ConfigError("hydra.run.dir is not set; give the output folder, as in hydra.run.dir=FOLDER")
            folder = Path(config.hydra.run.dir)
            check_job(config, self.command, folder)
            claim(folder)  # before Hydra writes into it
            Guard.folder = folder
        except (Exception, Interrupted) as error:
            # Hydra only warns about an exception in a callback, and runs the job; SystemExit passes.
            end(error)

    def on_multirun_start(self, config: Composed, **kwargs: Any) -> None:
        """Stop a sweep if none of its jobs can work, or if its folder holds another sweep."""
        Guard.has_composed = True
        try:
            with reading_once():  # apart from the jobs: photos may change until those begin
                check_sweep(config, self.command, kwargs["config_name"])
            Guard.folder = Path(config.hydra.sweep.dir)
            claim(Guard.folder)
            if self.command == "train":
                point_latest(Guard.folder, SWEEPS)
            os.environ[SWEEP_PROCESS] = str(os.getpid())
        except (Exception, Interrupted) as error:
            end(error)

    def on_job_end(self, config: Composed, job_return: JobReturn, **kwargs: Any) -> None:
        """Rebuild the sweep's tables and page from the files of its jobs."""
        if config.hydra.mode == RunMode.MULTIRUN:
            from siamese.report.sweep_page import write_sweep_page

            write_sweep_page(Path(config.hydra.sweep.dir))
