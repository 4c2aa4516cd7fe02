"""The table of a sweep, built from its jobs' files alone: works while the sweep runs and after any launcher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from siamese.files import flatten, write_csv_atomically, write_text_atomically

FIGURES = (
    "val/loss", "val/acc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "epochs", "train_seconds",
)  # fmt: skip
"""The figures of a job in ``results.csv``; ``results.md`` leaves out some of them."""

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


def write_sweep_tables(folder: Path) -> None:
    """Write ``results.csv`` (a row a job) and ``results.md`` (a row a configuration) into a sweep's folder."""
    jobs = read_jobs(folder)
    if not jobs:
        return
    settings = varied(jobs)
    rows = []
    for job in jobs:
        values = [job.settings.get(key) for key in [*settings, "seed"]]
        rows.append([job.number, job.status, *values, *(job.result.get(key) for key in (*FIGURES, "error"))])
    write_csv_atomically(folder / "results.csv", ["job", "status", *settings, "seed", *FIGURES, "error"], rows)
    write_text_atomically(folder / "results.md", markdown(folder, jobs, settings))


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


def markdown(folder: Path, jobs: Sequence[Job], settings: Sequence[str]) -> str:
    """The table with the seeds of one configuration grouped: mean ± standard error where there are several."""
    columns: list[tuple[str, str, float, int]] = [
        ("val acc %", "val/acc", 100, 1),
        ("val loss", "val/loss", 1, 4),
        ("test acc %", "test/acc", 100, 1),
        ("test loss", "test/loss", 1, 4),
        ("test AUC", "test/auc", 1, 3),
        ("best epoch", "best_epoch", 1, 0),
        ("seconds", "train_seconds", 1, 1),
    ]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        if job.status == "done":
            groups.setdefault(tuple(_show(job.settings.get(key)) for key in settings), []).append(job.result)
    head = [*settings, "n", *(title for title, *_ in columns)]
    lines = ["# Sweep " + "/".join(folder.resolve().parts[-2:]), "", _line(head), _line(["---"] * len(head))]
    for values, results in sorted(groups.items(), key=lambda group: -fmean(r["val/acc"] for r in group[1])):
        figures = [
            spread([scale * r[key] for r in results if r.get(key) is not None], digits)
            for _, key, scale, digits in columns
        ]
        lines.append(_line([*values, str(len(results)), *figures]))
    lines += ["", "Sorted by validation accuracy. Several seeds of one configuration: mean ± standard error."]
    about = {(r["dataset"], r["protocol"], r["n_test"]) for group in groups.values() for r in group}
    for dataset, protocol, n in sorted(about):
        lines.append(
            f"{dataset}, {protocol}: one standard error of a single accuracy on {n} test pairs is up to "
            f"{50 / math.sqrt(n):.1f} points."
        )
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
    return f"{mean} ± {stdev(values) / math.sqrt(len(values)):.{max(digits, 1)}f}"


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
