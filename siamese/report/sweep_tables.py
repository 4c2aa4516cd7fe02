"""Write the tables of a sweep: ``results.csv``, ``groups.csv`` and ``results.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from siamese.files import write_csv_atomically, write_text_atomically
from siamese.report.groups import ABOUT_INTERVALS, Group, best_on_test, spread, standard_error
from siamese.report.jobs import Job
from siamese.report.sweep import Sweep
from siamese.report.text import markdown_table, table_cell

FIGURES = (
    "val/loss", "val/acc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "epochs", "train_seconds",
)  # fmt: skip
"""Keys of ``result.json`` in ``results.csv`` and ``groups.csv``."""


class Column(NamedTuple):
    """A figure in ``results.md`` and on the sweep page: title, key in ``result.json``, factor, decimals."""

    title: str
    key: str
    scale: float
    digits: int

    def of(self, one: Group) -> str:
        """The figure of a group; mean ± standard error for several seeds."""
        return spread([self.scale * value for value in one.figures(self.key)], self.digits)


COLUMNS = (
    Column("val acc %", "val/acc", 100, 1),
    Column("val loss", "val/loss", 1, 4),
    Column("test acc %", "test/acc", 100, 1),
    Column("test loss", "test/loss", 1, 4),
    Column("test AUC", "test/auc", 1, 3),
    Column("best epoch", "best_epoch", 1, 0),
    Column("epochs", "epochs", 1, 0),
    Column("seconds", "train_seconds", 1, 1),
)

ABOUT_DIFFERENCES = f"{ABOUT_INTERVALS} McNemar's test compares two single networks that have the same seed."

NO_CHOICE = (
    "The configurations were validated or tested on different pairs, so their results cannot be compared, and none is "
    "chosen."
)

CHOSEN, CHOSEN_ON_TEST = "Chosen by validation accuracy", "The highest test accuracy"
"""Titles of the configuration to report and, for contrast, of the one with the best test results."""


def why_not_on_test(groups: Sequence[Group]) -> str:
    """Why the highest test accuracy must not be reported."""
    return f"too optimistic to report, because it is the highest of {len(groups)} configurations on these test pairs"


def write_tables(sweep: Sweep) -> None:
    """Write the tables into the folder of the sweep.

    ``results.csv`` has one row per job. ``groups.csv`` has one row per configuration with mean, standard error, minimum
    and maximum of each figure over its seeds. ``results.md`` is the readable version, with the chosen configuration
    and the differences to it.
    """
    columns = ["job", "name", "status", *sweep.settings, "seed", *FIGURES, "error"]
    rows = [_job_row(job, sweep.settings) for job in sweep.jobs]
    write_csv_atomically(sweep.folder / "results.csv", columns, rows)
    of_figure = ("mean", "se", "min", "max")
    columns = ["name", *sweep.settings, "n", *(f"{name} {what}" for name in FIGURES for what in of_figure)]
    write_csv_atomically(sweep.folder / "groups.csv", columns, [_group_row(one) for one in sweep.groups])
    write_text_atomically(sweep.folder / "results.md", markdown(sweep))


def _job_row(job: Job, settings: Sequence[str]) -> list[object]:
    values = [job.settings.get(key) for key in settings]
    figures = [job.result.figure(key) for key in FIGURES]
    return [job.name, job.title, job.status, *values, job.seed, *figures, job.result.error]


def _group_row(one: Group) -> list[object]:
    row: list[object] = [one.title, *one.values, len(one.jobs)]
    for key in FIGURES:
        values = one.figures(key)
        row += [one.mean(key), standard_error(values), min(values), max(values)] if values else [None] * 4
    return row


def markdown(sweep: Sweep) -> str:
    """The text of ``results.md``."""
    rows = [[*sweep.label(one), len(one.jobs), *(column.of(one) for column in COLUMNS)] for one in sweep.groups]
    lines = [f"# Sweep {sweep.title}", ""]
    lines += markdown_table([*sweep.head, "n", *(column.title for column in COLUMNS)], rows)
    lines += ["", "Sorted by validation accuracy. n is the number of seeds. With several seeds: mean ± standard error."]
    if sweep.is_wide:
        lines += ["", sweep.about_changes]
    lines += about_chance(sweep.groups)
    if len(sweep.groups) > 1:
        lines += ["", *_choice(sweep)]
    if sweep.differences:
        rows = [[*sweep.label(one), *found.cells().values()] for one, found in sweep.differences.items()]
        lines += [
            "", "## Difference in test accuracy to the chosen configuration", "",
            *markdown_table([*sweep.head, "points", "95 % CI", "significant", "McNemar p per seed"], rows), "",
            ABOUT_DIFFERENCES,
        ]  # fmt: skip
    if unfinished := [job for job in sweep.jobs if job.status != "done"]:
        lines += ["", "Not finished:", ""]
        lines += [f"- job {job.name}: {job.status}. {table_cell(job.result.error or '')}" for job in unfinished]
    return "\n".join(lines).rstrip() + "\n"


def _choice(sweep: Sweep) -> list[str]:
    """The chosen configuration, and the one with the highest test accuracy if it is another."""
    if not sweep.can_choose:
        return [NO_CHOICE]
    chosen, best = sweep.groups[0], best_on_test(sweep.groups)

    def described(one: Group) -> str:
        return f"{sweep.described(one)}: test accuracy {spread([100 * v for v in one.figures('test/acc')], 1)} %"

    lines = [f"{CHOSEN}: {described(chosen)}."]
    if best is not chosen:
        lines.append(f"{CHOSEN_ON_TEST}: {described(best)}; {why_not_on_test(sweep.groups)}.")
    return lines


def about_chance(groups: Sequence[Group]) -> list[str]:
    """The standard error of an accuracy that the number of test pairs implies, one line per test set."""
    results = [job.result for one in groups for job in one.jobs]
    about = {(one.dataset, one.protocol, one.n_test) for one in results if one.dataset and one.protocol and one.n_test}
    return [
        f"{dataset}, {protocol}: the standard error of a single accuracy on {n} test pairs is up to "
        f"{50 / math.sqrt(n):.1f} points."
        for dataset, protocol, n in sorted(about)
    ]
