"""Group the runs of a sweep by configuration, and compare the groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese.config.schema import HOW_IT_IS_STARTED
from siamese.evaluation.compare import McNemar, accuracy_difference, mcnemar
from siamese.evaluation.intervals import Interval
from siamese.evaluation.metrics import chance_level
from siamese.report.jobs import Job
from siamese.report.scored import PairSet, people_of_tested, scored

NOT_SETTINGS = (*HOW_IT_IS_STARTED, "seed", "name", "checkpoint", "logger")
"""Keys and sections in which runs of one configuration may differ."""

ABOUT_INTERVALS = (
    "Differences are computed on the same test pairs. The 95 % confidence interval (CI) covers the variation between "
    "test people and, with several runs per configuration, between seeds; with one run each, it holds for these two "
    "networks only. A difference is significant if the interval does not contain 0. A difference that is not "
    "significant may still be as large as either end of its interval."
)
"""Explains tables of differences."""


@dataclass(frozen=True, eq=False)
class Group:
    """The finished jobs of one configuration, which differ only in their seed.

    Attributes:
        values: the values, as text, of the settings that differ between the groups.
        jobs: one job per seed.
    """

    values: tuple[str, ...]
    jobs: tuple[Job, ...]

    @cached_property
    def title(self) -> str:
        """The names of its jobs, each once."""
        return ", ".join(dict.fromkeys(job.title for job in self.jobs if job.title))

    def figures(self, key: str) -> list[float]:
        """The values under a key of ``result.json``, of the jobs that recorded one."""
        return [value for job in self.jobs if (value := job.result.figure(key)) is not None]

    def mean(self, key: str) -> float:
        """The mean of a figure over the jobs; nan if no job recorded it."""
        return fmean(self.figures(key) or [math.nan])

    @cached_property
    def rank(self) -> tuple[float, float]:
        """Lower is better on the validation pairs: first the mean accuracy decides, then the mean loss."""
        return _last(-self.mean("val/acc")), _last(self.mean("val/loss"))


class Difference(NamedTuple):
    """The difference in test accuracy between two configurations, on the same test pairs.

    Attributes:
        points: difference of the means, as a fraction.
        interval: 95 % confidence interval over test people and, with several runs, seeds.
        tests: McNemar's test for each seed that both configurations were trained with.
    """

    points: float
    interval: Interval
    tests: tuple[McNemar, ...]

    @property
    def is_significant(self) -> bool:
        """Whether the interval does not contain 0."""
        return not self.interval.low <= 0 <= self.interval.high

    def cells(self) -> dict[str, str]:
        """``points``, ``interval``, ``significant`` and ``p`` as table cells, in percentage points."""
        low, high = self.interval
        if len(self.tests) == 1:
            p = f"{self.tests[0].p:.3f}" if self.tests[0].p >= 0.001 else "< 0.001"
        else:
            p = f"{sum(test.p < 0.05 for test in self.tests)} of {len(self.tests)} below 0.05" if self.tests else "–"
        return {
            "points": f"{100 * self.points:+.1f}",
            "interval": f"{100 * low:+.1f} to {100 * high:+.1f}",
            "significant": "yes" if self.is_significant else "no",
            "p": p,
        }


class Grid(NamedTuple):
    """Groups that differ in two settings only, as a table of these settings.

    Attributes:
        row, column: the two settings.
        rows, columns: their values.
        cells: (row, column) -> group.
        others: the further settings that differ between groups outside of the grid, with their value in the grid.
    """

    row: str
    column: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[tuple[str, str], Group]
    others: tuple[tuple[str, str], ...]


def varied(jobs: Sequence[Job]) -> list[str]:
    """The settings that differ between jobs, without `NOT_SETTINGS`.

    A job that lacks a setting differs from those that have it, unless the setting belongs to another option of its
    group: ``optimizer=sgd`` has no ``optimizer.betas``.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    settings = [key for key in keys if not {key, key.partition(".")[0]} & {*NOT_SETTINGS}]
    return [key for key in settings if len(_values(key, jobs)) > 1]


def _values(key: str, jobs: Sequence[Job]) -> set[str | None]:
    option = key.rpartition(".")[0] + ".name"
    having = [job for job in jobs if key in job.settings]
    options = {show(job.settings.get(option)) for job in having}
    lacking = any(key not in job.settings and show(job.settings.get(option)) in options for job in jobs)
    return {*(show(job.settings[key]) for job in having), *([None] if lacking else [])}


def group_jobs(jobs: Sequence[Job], settings: Sequence[str]) -> list[Group]:
    """Group the finished jobs by configuration, the highest mean validation accuracy first (then the lowest loss).

    Each seed counts once: of several jobs with the same configuration and seed, only the first is used.
    """
    found: dict[tuple[str, ...], dict[Any, Job]] = {}
    for job in jobs:
        if job.status == "done":
            values = tuple(show(job.settings.get(key)) for key in settings)
            found.setdefault(values, {}).setdefault(job.seed, job)
    groups = [Group(values, tuple(members.values())) for values, members in found.items()]
    return sorted(groups, key=lambda one: one.rank)


def best_on_test(groups: Sequence[Group]) -> Group:
    """The group with the highest mean test accuracy, which is not an unbiased choice."""
    return min(groups, key=lambda one: _last(-one.mean("test/acc")))


def _last(figure: float) -> float:
    """A sort key that puts nan last."""
    return math.inf if math.isnan(figure) else figure


def differences(groups: Sequence[Group]) -> dict[Group, Difference]:
    """Compare each group with the first; groups that were not tested on the same pairs are skipped."""
    found = {one: difference(one, groups[0]) for one in groups[1:]}
    return {one: against for one, against in found.items() if against is not None}


def difference(one: Group, base: Group) -> Difference | None:
    """The test accuracy of a group minus that of ``base``; None if they were not tested on the same pairs."""
    mine, theirs = _decisions(one), _decisions(base)
    if mine is None or theirs is None or mine[0] != theirs[0]:
        return None
    right, people = mine[1], people_of_tested(base.jobs[0])
    if people is None:
        return None
    tests = tuple(
        mcnemar(first, second)
        for job, first in zip(one.jobs, right, strict=True)
        for other, second in zip(base.jobs, theirs[1], strict=True)
        if job.seed == other.seed
    )
    interval = accuracy_difference(people, right, theirs[1])
    return Difference(float(right.mean() - theirs[1].mean()), interval, tests)


def accuracy_interval(one: Group) -> Interval | None:
    """The 95 % confidence interval of the mean test accuracy; None if it is unknown.

    For one seed it is the recorded interval (``test/ci_over``; View 2: over the folds). For several seeds it is over
    test people and seeds.
    """
    recorded = one.jobs[0].result.test_acc_ci
    if len(one.jobs) == 1:
        return None if recorded is None else Interval(*recorded)
    decisions = _decisions(one)
    people = None if decisions is None else people_of_tested(one.jobs[0])
    if decisions is None or people is None:
        return None
    return accuracy_difference(people, decisions[1], np.zeros(len(people), dtype=bool))


def chance_of(job: Job) -> float | None:
    """The chance level of the test accuracy; None without both same and different test pairs."""
    tested = scored(job).tested
    return chance_level(tested.same, tested.n - tested.same)


def _decisions(one: Group) -> tuple[PairSet, NDArray[np.bool_]] | None:
    """The test pairs of a group, and bool [jobs, P], which are predicted correctly; None if its jobs' pairs differ."""
    runs = [scored(job) for job in one.jobs]
    tested = runs[0].tested
    if not tested.n or any(run.tested != tested for run in runs):
        return None
    return tested, np.stack([run.right for run in runs])


def largest_grid(groups: Sequence[Group], settings: Sequence[str]) -> Grid | None:
    """The largest set of groups that differ in two settings only, with at least two values of each; None if none."""
    best: Grid | None = None
    for i, row in enumerate(settings):
        for column in settings[i + 1 :]:
            planes: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], Group]] = {}
            for one in groups:
                values = dict(zip(settings, one.values, strict=True))
                cell = values.pop(row), values.pop(column)
                planes.setdefault(tuple(values.items()), {})[cell] = one
            for others, cells in planes.items():
                rows, columns = (tuple(in_order({cell[side] for cell in cells})) for side in (0, 1))
                if min(len(rows), len(columns)) < 2 or len(cells) <= max(len(rows), len(columns)):
                    continue
                if best is None or len(cells) > len(best.cells):
                    best = Grid(row, column, rows, columns, cells, others)
    return best


def in_order(values: Iterable[str]) -> list[str]:
    """Numbers by size, then other texts alphabetically."""

    def key(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    return sorted(values, key=key)


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean; None for fewer than two values."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def spread(values: Sequence[float], digits: int) -> str:
    """``mean ± standard error``; the mean alone for a single value, empty for none."""
    if not values:
        return ""
    error = standard_error(values)
    if error is None:
        return f"{fmean(values):.{digits}f}"
    return f"{fmean(values):.{max(digits, 1)}f} ± {error:.{max(digits, 1)}f}"


def show(value: Any) -> str:
    """The value of a setting as text."""
    return " ".join((f"{value:g}" if isinstance(value, float) else str(value)).split())
