"""The table of a sweep, built from its jobs' files alone: works while the sweep runs and after any launcher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from siamese.evaluation.compare import PeopleBootstrap, mcnemar
from siamese.files import flatten, write_csv_atomically, write_text_atomically
from siamese.report.load import read_predictions

FIGURES = (
    "val/loss", "val/acc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "epochs", "train_seconds",
)  # fmt: skip
"""The figures of a job in ``results.csv``; ``results.md`` leaves out some of them."""

Pairs = tuple[tuple[str, str], ...]
"""The image names of each test pair."""

NOT_SETTINGS = frozenset({"seed", "resume"})
"""Keys of the configuration that do not make another configuration."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its folder's name, the flat configuration, and what ``result.json`` holds."""

    number: str
    settings: dict[str, Any]
    result: dict[str, Any]

    @property
    def status(self) -> str:
        """running, done, failed or interrupted."""
        return str(self.result.get("status", "unknown"))


@dataclass(frozen=True)
class Group:
    """The finished jobs of one configuration, which differ in their seed alone.

    ``values`` are those of the settings that differ within the sweep, as text.
    """

    values: tuple[str, ...]
    jobs: tuple[Job, ...]

    def figures(self, name: str) -> list[float]:
        """The figure ``name`` of each job that recorded one."""
        return [job.result[name] for job in self.jobs if job.result.get(name) is not None]

    def mean(self, name: str) -> float:
        """The mean of a figure over the jobs; nan when none recorded it."""
        return fmean(self.figures(name) or [math.nan])


def write_sweep_tables(folder: Path) -> None:
    """Write the tables of a sweep into its folder.

    ``results.csv`` has a row a job; ``groups.csv`` a row a configuration, with mean, standard error, least and greatest
    of each figure over its seeds; ``results.md`` the same to read, what was chosen, and which differences are real.
    """
    jobs = read_jobs(folder)
    if not jobs:
        return
    settings = varied(jobs)
    rows = []
    for job in jobs:
        values = [job.settings.get(key) for key in [*settings, "seed"]]
        rows.append([job.number, job.status, *values, *(job.result.get(key) for key in (*FIGURES, "error"))])
    write_csv_atomically(folder / "results.csv", ["job", "status", *settings, "seed", *FIGURES, "error"], rows)
    groups = group(jobs, settings)
    of_figure = ("mean", "se", "min", "max")
    columns = [*settings, "n", *(f"{name} {what}" for name in FIGURES for what in of_figure)]
    write_csv_atomically(folder / "groups.csv", columns, [_summary(one) for one in groups])
    write_text_atomically(folder / "results.md", markdown(folder, jobs, groups, settings))


def read_jobs(folder: Path) -> list[Job]:
    """The jobs that have begun, in the order of their numbers; a damaged file never hides the other jobs."""
    jobs = []
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        if result := _mapping(path / "result.json", json.loads):
            settings = flatten(_mapping(path / "config.yaml", yaml.safe_load)) or _composed(path)
            jobs.append(Job(path.name, settings, result))
    return jobs


def varied(jobs: Sequence[Job]) -> list[str]:
    """The settings, the seed apart, that differ between jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings if key not in NOT_SETTINGS)
    return [key for key in keys if len({_show(job.settings[key]) for job in jobs if key in job.settings}) > 1]


def group(jobs: Sequence[Job], settings: Sequence[str]) -> list[Group]:
    """The finished jobs by configuration, the best by mean validation accuracy first (of equal ones, by loss)."""
    found: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        if job.status == "done":
            found.setdefault(tuple(_show(job.settings.get(key)) for key in settings), []).append(job)
    groups = [Group(values, tuple(members)) for values, members in found.items()]
    return sorted(groups, key=lambda one: (-one.mean("val/acc"), one.mean("val/loss")))


def markdown(folder: Path, jobs: Sequence[Job], groups: Sequence[Group], settings: Sequence[str]) -> str:
    """``results.md``: a row a configuration, mean ± standard error where there are several seeds."""
    columns: list[tuple[str, str, float, int]] = [
        ("val acc %", "val/acc", 100, 1),
        ("val loss", "val/loss", 1, 4),
        ("test acc %", "test/acc", 100, 1),
        ("test loss", "test/loss", 1, 4),
        ("test AUC", "test/auc", 1, 3),
        ("best epoch", "best_epoch", 1, 0),
        ("epochs", "epochs", 1, 0),
        ("seconds", "train_seconds", 1, 1),
    ]
    head = [*settings, "n", *(title for title, *_ in columns)]
    lines = ["# Sweep " + "/".join(folder.resolve().parts[-2:]), "", _line(head), _line(["---"] * len(head))]
    for one in groups:
        figures = [spread([scale * value for value in one.figures(key)], digits) for _, key, scale, digits in columns]
        lines.append(_line([*one.values, str(len(one.jobs)), *figures]))
    lines += ["", "Sorted by validation accuracy. Several seeds of one configuration: mean ± standard error."]
    about = {(job.result["dataset"], job.result["protocol"], job.result["n_test"]) for g in groups for job in g.jobs}
    for dataset, protocol, n in sorted(about):
        lines.append(
            f"{dataset}, {protocol}: one standard error of a single accuracy on {n} test pairs is up to "
            f"{50 / math.sqrt(n):.1f} points."
        )
    if len(groups) > 1:
        lines += ["", *_choice(groups, settings)]
        lines += _against_the_best(folder, groups, settings)
    if unfinished := [job for job in jobs if job.status != "done"]:
        lines += ["", "Not finished:", ""]
        lines += [f"- job {job.number}: {job.status}. {_cell(job.result.get('error', ''))}" for job in unfinished]
    return "\n".join(lines).rstrip() + "\n"


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and ± its standard error when there are at least two values; empty when there is none."""
    if not values:
        return ""
    mean = f"{fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {_standard_error(values):.{max(digits, 1)}f}"


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values))


def _summary(one: Group) -> list[object]:
    """A row of ``groups.csv``; the standard error is empty for a single seed."""
    row: list[object] = [*one.values, len(one.jobs)]
    for name in FIGURES:
        values = one.figures(name)
        error = _standard_error(values) if len(values) > 1 else None
        row += [fmean(values), error, min(values), max(values)] if values else [None] * 4
    return row


def _choice(groups: Sequence[Group], settings: Sequence[str]) -> list[str]:
    """What validation chooses, and what choosing by the test pairs would have claimed."""
    best, luckiest = groups[0], max(groups, key=lambda one: one.mean("test/acc"))

    def told(one: Group) -> str:
        return f"{_named(one, settings)}: test accuracy {spread([100 * v for v in one.figures('test/acc')], 1)} %"

    lines = [f"Chosen by validation accuracy: {told(best)}."]
    if luckiest is not best:
        lines.append(
            f"Choosing by test accuracy would have claimed {told(luckiest)}, which is no estimate of anything: "
            f"of {len(groups)} configurations the one that these test pairs flatter most."
        )
    return lines


def _against_the_best(folder: Path, groups: Sequence[Group], settings: Sequence[str]) -> list[str]:
    """Each other configuration against the chosen one, on the test pairs that they share."""
    decided = [_decisions(folder, one) for one in groups]
    if decided[0] is None:
        return []
    pairs, best = decided[0]
    bootstrap = _bootstrap(pairs)
    rows = []
    for one, found in zip(groups[1:], decided[1:], strict=True):
        if found is None or found[0] != pairs:
            continue
        low, high = bootstrap.accuracy_difference(found[1], best)
        tests = [
            mcnemar(mine, theirs)
            for job, mine in zip(one.jobs, found[1], strict=True)
            for other, theirs in zip(groups[0].jobs, best, strict=True)
            if job.settings.get("seed") == other.settings.get("seed")
        ]
        if len(tests) == 1:
            p = f"{tests[0].p:.3f}" if tests[0].p >= 0.001 else "< 0.001"
        else:
            p = f"{sum(test.p < 0.05 for test in tests)} of {len(tests)} below 0.05"
        difference = 100 * (found[1].mean() - best.mean())
        real = "no" if low <= 0 <= high else "yes"
        rows.append([*one.values, f"{difference:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", real, p])
    if not rows:
        return []
    head = [*settings, "points", "95 %", "real", "McNemar p, seed by seed"]
    return [
        "", "## Test accuracy against the chosen configuration", "",
        _line(head), _line(["---"] * len(head)), *map(_line, rows), "",
        "On the same test pairs. The interval is a bootstrap over people and, where there are several, over seeds; a "
        "difference is real where it leaves 0 out. Of twenty differences that are none, one will look real. McNemar's "
        "test is about two single networks with the same seed.",
    ]  # fmt: skip


def _named(one: Group, settings: Sequence[str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in zip(settings, one.values, strict=True))


def _decisions(folder: Path, one: Group) -> tuple[Pairs, NDArray[np.bool_]] | None:
    """The test pairs of a group's jobs, and whether each job decides them rightly [jobs, P]; None where they differ."""
    files = [folder / job.number / "predictions.csv" for job in one.jobs]
    runs = [_decided(file.parent, file.stat().st_mtime_ns if file.exists() else 0) for file in files]
    pairs = runs[0][0]
    if not pairs or any(other != pairs for other, _ in runs):
        return None
    return pairs, np.stack([right for _, right in runs])


@lru_cache(maxsize=4096)
def _decided(folder: Path, changed: int) -> tuple[Pairs, NDArray[np.bool_]]:
    """A job's test pairs, and which are decided rightly; read once, though the table is written after every job."""
    run = [prediction for prediction in read_predictions(folder) if prediction.split == "test"]
    return tuple((p.image1, p.image2) for p in run), np.array([p.label == p.predicted for p in run])


@lru_cache(maxsize=4)
def _bootstrap(pairs: Pairs) -> PeopleBootstrap:
    return PeopleBootstrap([(Path(a).parent.name, Path(b).parent.name) for a, b in pairs])


def _composed(path: Path) -> dict[str, Any]:
    """The settings of a job whose configuration was refused, as Hydra composed it; unresolved ones left out."""
    settings = flatten(_mapping(path / ".hydra" / "config.yaml", yaml.safe_load))
    return {key: value for key, value in settings.items() if "${" not in str(value)}


def _mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """What a file holds; empty when it is missing, damaged or no mapping."""
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _show(value: Any) -> str:
    return _cell(f"{value:g}" if isinstance(value, float) else value)


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
