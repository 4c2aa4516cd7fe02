"""What ``train`` and ``eval`` print at the end: where the page is, and which commands to type next."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from siamese.command.overrides import shell_word
from siamese.config.data import FolderData
from siamese.config.defaults import group_defaults
from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.runs.latest import RUNS, point_latest
from siamese.runs.records import Result, read_config
from siamese.text import shell_words

PHOTOS = ("A.jpg", "B.jpg")
"""Stand for two photos in a suggested command."""


def print_ending(folder: Path) -> None:
    """Print the page of a run or sweep as a link, and the next commands; nothing if it is not recorded as done.

    A finished run becomes ``outputs/latest``: not before, so that ``latest`` can always be used.
    """
    result = RunFolder(folder).result
    if result is None:
        _print_sweep(folder)
    elif result.status == "done":
        if not result.is_evaluation:
            point_latest(folder, RUNS)
        _print_page("evaluation page" if result.is_evaluation else "run page", folder)
        _print_next(_after_run(folder, result))


def _print_sweep(folder: Path) -> None:
    from siamese.report.load import read_run
    from siamese.report.sweep import read_sweep
    from siamese.report.sweep_summary import summary

    sweep = read_sweep(folder)
    print(f"\n{summary(sweep)}")
    _print_page("sweep page", folder)
    commands = []
    if any(job.settings.get("logger.name") == "tensorboard" for job in sweep.jobs):
        commands.append(("learning curves of all jobs", shell_words(["tensorboard", "--logdir", _shown(folder)])))
    groups = sweep.comparisons[0].groups if len(sweep.comparisons) == 1 else []
    if len(groups) > 1:
        chosen = groups[0].jobs[0]
        commands += _verify(chosen.folder, chosen.result, read_config(RunFolder(chosen.folder).config))
        if len(groups[0].jobs) == 1:
            words = [word for word in read_run(chosen.folder).overrides if not word.startswith(("seed=", "resume="))]
            again = shell_words(["python", "train.py", "-m", *words, "seed=0,1,2"])
            commands.append(("train the chosen configuration with more seeds", again))
    _print_next(commands)


def _after_run(folder: Path, result: Result) -> list[tuple[str, str]]:
    """The commands that make sense after a run, as (purpose, command)."""
    run = RunFolder(folder)
    if result.is_evaluation or not run.config.is_file():
        return []
    config = read_config(run.config)
    shown = _shown(folder)
    commands = _verify(folder, result, config)
    if commands and isinstance(config.data, FolderData):
        identify = shell_words(["python", "-m", "siamese", "identify", shown, config.data.root, PHOTOS[0]])
        commands.append(("who of these people is on a photo?", identify))
    if commands and config.protocol.name in ("view1", "holdout") and (ways := _ways(run)) is not None:
        command = f"python eval.py {shell_word('run', shown)} protocol=oneshot{ways}"
        commands.append(("one-shot identification", command))
    if config.logger.name == "tensorboard" and result.epochs != 0:
        commands.append(("learning curves", shell_words(["tensorboard", "--logdir", shown])))
    return commands


def _ways(run: RunFolder) -> str | None:
    """What a one-shot evaluation needs in addition if a run has few test people; None if there is no trial."""
    ways = group_defaults("protocol", "oneshot")["ways"]
    images = Counter(row.person for row in run.memberships or [] if row.split == "test")
    possible = [n for n in ways if n <= len(images)]
    if images and (not possible or max(images.values()) < 2):
        return None
    return "" if possible == ways or not images else " " + shell_words([f"protocol.ways={possible}".replace(" ", "")])


def _verify(folder: Path, result: Result, config: TrainConfig) -> list[tuple[str, str]]:
    """The command that uses the network of a run; none if its weights were not kept."""
    if config.checkpoint.keep == "none":
        return []
    network = _shown(folder / "fold_01" if result.folds else folder)
    command = shell_words(["python", "-m", "siamese", "verify", network, *PHOTOS])
    return [("do two photos show the same person?", command)]


def _print_page(title: str, folder: Path) -> None:
    page = folder / "report.html"
    if page.is_file():
        print(f"\n{title}: {page.resolve().as_uri()}")


def _print_next(commands: list[tuple[str, str]]) -> None:
    if commands:
        print("\nnext:")
        for purpose, command in commands:
            print(f"  {command}\n      {purpose}")
    sys.stdout.flush()


def _shown(folder: Path) -> str:
    """A folder as an argument of a command, relative if it lies below the working directory; never like an option."""
    path = folder.resolve()
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f"./{shown}" if shown.startswith(("-", "~")) else shown
