"""The runs below a folder, grouped by configuration, and what can be said of them together: from their files alone.

Works while a sweep runs and after any launcher, on a sweep's folder as on one that holds several sweeps and runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from siamese.data.lists import Pair, identities
from siamese.evaluation.compare import McNemar, accuracy_difference, mcnemar
from siamese.evaluation.intervals import Interval
from siamese.evaluation.metrics import roc_curve
from siamese.files import flatten
from siamese.runs.records import Result, read_history, read_mapping, read_predictions, read_result

NOT_SETTINGS = frozenset({"seed", "resume", "name"})
"""Keys of the configuration that do not make another configuration."""

ABOUT_INTERVALS = (
    "On the same test pairs. The interval allows for other test people and, where there are several runs, for other "
    "seeds; with one run each it is about these two networks. A difference is shown where it leaves 0 out. One that is "
    "not shown may be there all the same, as large as either end."
)
"""What tables of differences say of themselves."""

ROC_GRID = np.linspace(0, 1, 201)
"""False positive rates at which the ROC of a run is read: finer than a line in a picture."""

# PyYAML's own parser in C, where it was built with it, reads a sweep's configurations ten times as fast.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Pairs = tuple[Pair, ...]
"""The image names of each test pair."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run below a folder: where it lies, its flat configuration, and what ``result.json`` holds.

    Attributes:
        folder: the run folder.
        name: its path below the folder that was read, as ``3`` or ``grid/3``.
        settings: the configuration by dotted keys.
        result: ``result.json``.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    result: Result

    @property
    def status(self) -> str:
        """running, done, failed or interrupted."""
        return self.result.status or "unknown"

    @property
    def title(self) -> str:
        """The run's ``name``, its label in tables."""
        return str(self.result.name or self.settings.get("name") or "")

    @property
    def seed(self) -> Any:
        """The seed, as configured."""
        return self.settings.get("seed")


COLUMNS_TO_READ = 6
"""Settings that have a column each; of more, a row tells only those that are not as in most configurations."""


@dataclass(frozen=True, eq=False)
class Group:
    """The finished jobs of one configuration, which differ in their seed alone.

    ``values`` are those of the settings that differ between the groups, as text.
    """

    values: tuple[str, ...]
    jobs: tuple[Job, ...]

    @property
    def title(self) -> str:
        """The names of its jobs, each once."""
        return ", ".join(dict.fromkeys(job.title for job in self.jobs if job.title))

    def figures(self, name: str) -> list[float]:
        """The figure ``name`` of each job that recorded one."""
        return [value for job in self.jobs if (value := job.result.figure(name)) is not None]

    def mean(self, name: str) -> float:
        """The mean of a figure over the jobs; nan when none recorded it."""
        return fmean(self.figures(name) or [math.nan])


class Difference(NamedTuple):
    """The test accuracy of a configuration less that of another, on the same test pairs.

    Attributes:
        points: the difference of the means, as a fraction.
        interval: 95 %, over other people and, where there are several runs, other seeds.
        tests: McNemar's test for each seed that both were trained with.
    """

    points: float
    interval: Interval
    tests: tuple[McNemar, ...]

    @property
    def is_shown(self) -> bool:
        """Whether 0 lies outside the interval."""
        return not self.interval.low <= 0 <= self.interval.high

    def told(self) -> dict[str, str]:
        """``points``, ``interval``, ``shown`` and ``p`` as tables write them, in percentage points."""
        low, high = self.interval
        if len(self.tests) == 1:
            p = f"{self.tests[0].p:.3f}" if self.tests[0].p >= 0.001 else "< 0.001"
        else:
            p = f"{sum(test.p < 0.05 for test in self.tests)} of {len(self.tests)} below 0.05" if self.tests else "–"
        return {
            "points": f"{100 * self.points:+.1f}",
            "interval": f"{100 * low:+.1f} to {100 * high:+.1f}",
            "shown": "yes" if self.is_shown else "no",
            "p": p,
        }


class Grid(NamedTuple):
    """Groups that differ in two settings alone, as a table of these.

    Attributes:
        row, column: the settings.
        rows, columns: their values.
        cells: the group of each (row, column) that has one.
        others: the other settings that differ between groups elsewhere, with the value they have here.
    """

    row: str
    column: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Group]
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs below a folder, and what is said of them together.

    Attributes:
        folder: a sweep's, or one that holds several sweeps and runs.
        jobs: in natural order, whatever they have got to.
        settings: those that differ between jobs.
        groups: the finished jobs by configuration, the one that validation chooses first.
        differences: of each other group to the first, where both were tested on the same pairs.
    """

    folder: Path
    jobs: Sequence[Job]
    settings: Sequence[str]
    groups: Sequence[Group]
    differences: Mapping[Group, Difference]

    @property
    def title(self) -> str:
        """The last two parts of its path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def can_choose(self) -> bool:
        """Whether all configurations were validated and tested on the same pairs, so that validation can choose."""
        sets = {(one.validated, one.pairs) for group in self.groups for one in map(scored, group.jobs) if one.pairs}
        return len(sets) < 2

    @property
    def is_named(self) -> bool:
        """Whether the names of the runs tell configurations apart."""
        return len({one.title for one in self.groups}) > 1

    @property
    def usual(self) -> dict[str, str]:
        """The value of each setting that most configurations have."""
        columns = zip(*(one.values for one in self.groups), strict=True)
        return {key: Counter(values).most_common(1)[0][0] for key, values in zip(self.settings, columns, strict=False)}

    @property
    def setting_heads(self) -> list[str]:
        """The columns of the settings: one for each, or where they would be too many one for what is not as usual."""
        return ["change"] if self.is_wide else list(self.settings)

    @property
    def is_wide(self) -> bool:
        """Whether a column for each setting would be too many to read."""
        return len(self.settings) > COLUMNS_TO_READ and len(self.groups) > 1

    def setting_cells(self, values: Sequence[str]) -> list[str]:
        """What stands in these columns, for a configuration's values of the settings."""
        return [", ".join(self._changes(values)) or "–"] if self.is_wide else list(values)

    def _changes(self, values: Sequence[str]) -> list[str]:
        usual = self.usual
        own = dict(zip(self.settings, values, strict=True))
        other = {key.rpartition(".")[0] for key in own if key.endswith(".name") and own[key] != usual[key]}
        return [
            f"{key}={value}"
            for key, value in own.items()
            if value != usual[key] and not (value == "None" and key.rpartition(".")[0] in other)
        ]

    @property
    def head(self) -> list[str]:
        """The columns that say which configuration a row is about."""
        return [*(["name"] if self.is_named else []), *self.setting_heads]

    def label(self, one: Group) -> list[str]:
        """What stands in these columns."""
        return [*([one.title] if self.is_named else []), *self.setting_cells(one.values)]

    def described(self, one: Group) -> str:
        """A configuration within a sentence."""
        if self.is_wide:
            values = self._changes(one.values) or ["no change"]
        else:
            values = [f"{key}={value}" for key, value in zip(self.settings, one.values, strict=True)]
        return ", ".join([*([one.title] if self.is_named else []), *values]) or one.title

    @property
    def about_changes(self) -> str:
        """What a row is a change of; empty where each setting has its column."""
        if not self.is_wide:
            return ""
        return f"Changes are of: {', '.join(f'{key}={value}' for key, value in self.usual.items())}."


class Scored(NamedTuple):
    """A job's validation and test pairs, bool [P] which of the latter it decides rightly, and float [201] its ROC at
    `ROC_GRID`, nan without one.
    """

    validated: Pairs
    pairs: Pairs
    right: NDArray[np.bool_]
    tpr: NDArray[np.float64]


def read_sweep(folder: Path) -> Sweep:
    """The runs below a folder and all that is said of them."""
    jobs = read_jobs(folder)
    settings = varied(jobs)
    groups = group(jobs, settings)
    return Sweep(folder, jobs, settings, groups, differences(groups))


def read_jobs(folder: Path) -> list[Job]:
    """The runs below a folder that have begun, in natural order; evaluations are none, nor are the folds of a run.

    A damaged file never hides the other jobs.
    """
    runs = {path.parent for path in folder.rglob("result.json") if path.parent != folder}
    found = [run for run in runs if run.parent not in runs]
    jobs = [job for path in found if (job := _job(folder, path, *map(_changed, _files(path)))) is not None]
    return sorted(jobs, key=lambda job: [(len(part), part) for part in Path(job.name).parts])


def varied(jobs: Sequence[Job]) -> list[str]:
    """The settings that differ between jobs; the seed and the name are none.

    A job without a setting differs from those that have it, unless it has another option of the group, as an
    ``optimizer.name`` that knows no such key.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.settings if key not in NOT_SETTINGS)
    return [key for key in keys if len(_values(key, jobs)) > 1]


def _values(key: str, jobs: Sequence[Job]) -> set[str | None]:
    option = key.rpartition(".")[0] + ".name"
    having = [job for job in jobs if key in job.settings]
    options = {show(job.settings.get(option)) for job in having}
    lacking = any(key not in job.settings and show(job.settings.get(option)) in options for job in jobs)
    return {*(show(job.settings[key]) for job in having), *([None] if lacking else [])}


def group(jobs: Sequence[Job], settings: Sequence[str]) -> list[Group]:
    """The finished jobs by configuration, the best by mean validation accuracy first (of equal ones, by loss).

    Each seed counts once: of jobs with the same configuration and seed the first stands for all.
    """
    found: dict[tuple[str, ...], dict[Any, Job]] = {}
    for job in jobs:
        if job.status == "done":
            values = tuple(show(job.settings.get(key)) for key in settings)
            found.setdefault(values, {}).setdefault(job.seed, job)
    groups = [Group(values, tuple(members.values())) for values, members in found.items()]
    return sorted(groups, key=lambda one: (_last(-one.mean("val/acc")), _last(one.mean("val/loss"))))


def luckiest(groups: Sequence[Group]) -> Group:
    """The group that choosing by test accuracy would have chosen."""
    return min(groups, key=lambda one: _last(-one.mean("test/acc")))


def _last(figure: float) -> float:
    """A key for sorting that puts what is not measured last."""
    return math.inf if math.isnan(figure) else figure


def differences(groups: Sequence[Group]) -> dict[Group, Difference]:
    """Each group against the first, the chosen one; those that were not tested on the same pairs are left out."""
    found = {one: difference(one, groups[0]) for one in groups[1:]}
    return {one: against for one, against in found.items() if against is not None}


def difference(one: Group, base: Group) -> Difference | None:
    """The test accuracy of a group less that of another; None when they were not tested on the same pairs."""
    mine, theirs = _decisions(one), _decisions(base)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return None
    pairs, right = mine
    tests = tuple(
        mcnemar(first, second)
        for job, first in zip(one.jobs, right, strict=True)
        for other, second in zip(base.jobs, theirs[1], strict=True)
        if job.seed == other.seed
    )
    person = identities(pairs)
    people = [(person[pair.image1], person[pair.image2]) for pair in pairs]
    interval = accuracy_difference(people, right, theirs[1])
    return Difference(float(right.mean() - theirs[1].mean()), interval, tests)


def largest_grid(groups: Sequence[Group], settings: Sequence[str]) -> Grid | None:
    """The most groups that differ in two settings alone, at least two values of each; None when there are none."""
    best: Grid | None = None
    for i, row in enumerate(settings):
        for column in settings[i + 1 :]:
            planes: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], Group]] = {}
            for one in groups:
                values = dict(zip(settings, one.values, strict=True))
                cell = values.pop(row), values.pop(column)
                planes.setdefault(tuple(values.items()), {})[cell] = one
            for others, cells in planes.items():
                rows, columns = (tuple(_in_order({cell[side] for cell in cells})) for side in (0, 1))
                if min(len(rows), len(columns)) < 2 or len(cells) <= max(len(rows), len(columns)):
                    continue
                if best is None or len(cells) > len(best.cells):
                    best = Grid(row, column, rows, columns, cells, others)
    return best


def standard_error(values: Sequence[float]) -> float | None:
    """That of the mean; None for a single value, which shows no spread."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and ± its standard error when there are at least two values; empty when there is none."""
    if not values:
        return ""
    mean, error = f"{fmean(values):.{digits}f}", standard_error(values)
    return mean if error is None else f"{mean} ± {error:.{max(digits, 1)}f}"


def show(value: Any) -> str:
    """A setting as a table writes it."""
    return " ".join((f"{value:g}" if isinstance(value, float) else str(value)).split())


def scored(job: Job) -> Scored:
    """The test predictions of a job; read once, though a sweep's page is written after every job."""
    return _scored(job.folder, _changed(job.folder / "predictions.csv"))


def history(job: Job) -> list[Mapping[str, float]]:
    """The epochs of a job as in ``history.csv``; none when there is no such file."""
    return _history(job.folder, _changed(job.folder / "history.csv"))


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path / "result.json", path / "config.yaml", path / ".hydra" / "config.yaml"


def _changed(file: Path) -> int:
    """What tells that a file is another one now."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=4096)
def _job(folder: Path, path: Path, *changed: int) -> Job | None:
    result_file, config_file, composed_file = _files(path)
    result = read_result(result_file, [])
    if result is None or not result.model_fields_set or result.is_evaluation:
        return None
    settings = flatten(read_mapping(config_file, _parse_yaml, []))
    if not settings:  # a configuration that was refused, as Hydra composed it; unresolved values left out
        composed = flatten(read_mapping(composed_file, _parse_yaml, []))
        settings = {key: value for key, value in composed.items() if "${" not in str(value)}
    return Job(path, path.relative_to(folder).as_posix(), settings, result)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_YamlLoader)


def _decisions(one: Group) -> tuple[Pairs, NDArray[np.bool_]] | None:
    """The test pairs of a group's jobs, and whether each job decides them rightly [jobs, P]; None where they differ."""
    runs = [scored(job) for job in one.jobs]
    pairs = runs[0].pairs
    if not pairs or any(run.pairs != pairs for run in runs):
        return None
    return pairs, np.stack([run.right for run in runs])


@lru_cache(maxsize=4096)
def _scored(folder: Path, changed: int) -> Scored:
    predictions = read_predictions(folder / "predictions.csv", [])
    tested = [prediction for prediction in predictions if prediction.split == "test"]
    validated = tuple(Pair(p.image1, p.image2, p.label) for p in predictions if p.split == "val")
    tpr = np.full(len(ROC_GRID), math.nan)
    if tested:
        x, y, _ = roc_curve([p.score for p in tested], [p.label for p in tested])
        if not np.isnan(x).any() and not np.isnan(y).any():
            tpr = np.interp(ROC_GRID, x, y)
    right = np.array([prediction.label == prediction.predicted for prediction in tested], dtype=bool)
    return Scored(validated, tuple(Pair(p.image1, p.image2, p.label) for p in tested), right, tpr)


@lru_cache(maxsize=4096)
def _history(folder: Path, changed: int) -> list[Mapping[str, float]]:
    return read_history(folder / "history.csv", [])


def _in_order(values: Iterable[str]) -> list[str]:
    """Numbers by size, other texts by the alphabet."""

    def key(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    return sorted(values, key=key)
