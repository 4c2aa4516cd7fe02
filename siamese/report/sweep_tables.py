"""Write the tables of a sweep: ``results.csv``, ``groups.csv`` and ``results.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.evaluation.intervals import not_above_chance
from siamese.files import write_csv_atomically, write_text_atomically
from siamese.report.groups import ABOUT_INTERVALS, Group, best_on_test, chance_of, show, spread, standard_error
from siamese.report.identification import identification_figures
from siamese.report.jobs import Job
from siamese.report.sweep import Comparison, Sweep, tested_on
from siamese.report.sweep_summary import accuracy, summary, summary_of
from siamese.report.text import interval, markdown_table, number, percent, table_cell
from siamese.text import count

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
    Column("training seconds", "train_seconds", 1, 1),
)

ABOUT_DIFFERENCES = f"{ABOUT_INTERVALS} McNemar's test compares two single networks that have the same seed."

ABOUT_CHANGES = (
    "Changes are relative to the most frequent value of each setting; the table of settings lists all values."
)
"""Explains the column of changes."""

ABOUT_ALONE = "No other run has the same validation pairs and the same test pairs."
"""Explains the table of runs without a comparison."""

ALONE_HEAD = ("#", "run", "pairs", "validation accuracy", "test accuracy", "95 % CI", "chance level")
"""Heads of the columns that `alone_rows` fills."""

ABOUT_EVALUATIONS = "Runs that eval.py scored again. They are not compared with the runs above, and never chosen."
"""Explains the tables of evaluations."""

EVALUATION_HEAD = ("run", "trained on", "task", "accuracy", "95 % CI", "chance level")
"""Heads of the columns of evaluations that `evaluation_rows` fills."""

CHOSEN, CHOSEN_ON_TEST = "Chosen by validation accuracy", "The highest test accuracy"
"""Titles of the configuration to report and, for contrast, of the one with the best test results."""


def why_not_on_test(groups: Sequence[Group]) -> str:
    """Why the highest test accuracy must not be reported."""
    return f"too optimistic to report, because it is the highest of {len(groups)} configurations on these test pairs"


def write_tables(sweep: Sweep) -> None:
    """Write the tables into the folder of the sweep.

    ``results.csv`` has one row per job. ``groups.csv`` has one row per configuration with mean, standard error, minimum
    and maximum of each figure over its seeds. With several comparisons, both have a column with their number.
    ``results.md`` is the readable version, with the chosen configuration and the differences to it.
    """
    several = ["comparison"] if len(sweep.comparisons) > 1 else []
    columns = [*several, "job", "name", "status", *sweep.settings, "seed", *FIGURES, "error"]
    rows = [[*([sweep.number(job)] if several else []), *_job_row(job, sweep.settings)] for job in sweep.jobs]
    write_csv_atomically(sweep.folder / "results.csv", columns, rows)
    of_figure = ("mean", "se", "min", "max")
    columns = [*several, "name", *sweep.settings, "n", *(f"{name} {what}" for name in FIGURES for what in of_figure)]
    groups = [
        [*([comparison.number] if several else []), *_group_row(one, sweep.settings)]
        for comparison in sweep.comparisons
        for one in comparison.groups
    ]
    write_csv_atomically(sweep.folder / "groups.csv", columns, groups)
    write_text_atomically(sweep.folder / "results.md", markdown(sweep))


def _job_row(job: Job, settings: Sequence[str]) -> list[object]:
    values = [job.settings.get(key) for key in settings]
    figures = [job.result.figure(key) for key in FIGURES]
    return [job.name, job.title, job.status, *values, job.seed, *figures, job.result.error]


def _group_row(one: Group, settings: Sequence[str]) -> list[object]:
    row: list[object] = [one.title, *(show(one.jobs[0].settings.get(key)) for key in settings), len(one.jobs)]
    for key in FIGURES:
        values = one.figures(key)
        row += [one.mean(key), standard_error(values), min(values), max(values)] if values else [None] * 4
    return row


def markdown(sweep: Sweep) -> str:
    """The text of ``results.md``."""
    lines = [f"# Sweep {sweep.title}", "", summary(sweep)]
    if len(sweep.comparisons) == 1:
        lines += _comparison(sweep.comparisons[0], "##")
    else:
        for one in sweep.sections:
            lines += ["", f"## Comparison {one.number}: {one.title}", "", summary_of(one), *_comparison(one, "###")]
        if rows := alone_rows(sweep):
            lines += ["", "## Runs without a comparison", "", ABOUT_ALONE, "", *markdown_table(ALONE_HEAD, rows)]
    if sweep.evaluations:
        lines += ["", "## Evaluations", "", ABOUT_EVALUATIONS]
    for tested, evaluations in by_test_data(sweep.evaluations).items():
        rows = [[job.name, *cells] for job in evaluations for cells in evaluation_rows(job, sweep.folder)]
        lines += ["", f"### {tested}", "", *markdown_table(["evaluation", *EVALUATION_HEAD], rows)]
    if unfinished := [job for job in (*sweep.jobs, *sweep.evaluations) if job.status != "done"]:
        lines += ["", "Not finished:", ""]
        lines += [f"- job {job.name}: {job.status}. {table_cell(job.result.error or '')}" for job in unfinished]
    return "\n".join(lines).rstrip() + "\n"


def _comparison(one: Comparison, level: str) -> list[str]:
    """The lines of ``results.md`` about one comparison, with headings of this level."""
    if not one.groups:
        return []
    # The table of settings refers to configurations by their number.
    head = ["#", *one.head] if one.is_wide else one.head
    labels = [
        [f"#{i}", *one.label(group)] if one.is_wide else one.label(group) for i, group in enumerate(one.groups, 1)
    ]
    rows = [
        [*label, len(group.jobs), *(column.of(group) for column in COLUMNS)]
        for label, group in zip(labels, one.groups, strict=True)
    ]
    lines = ["", *markdown_table([*head, "n", *(column.title for column in COLUMNS)], rows)]
    lines += ["", "Sorted by validation accuracy. n is the number of seeds. With several seeds: mean ± standard error."]
    if one.is_wide:
        lines += ["", ABOUT_CHANGES]
    lines += about_test_set(one.groups)
    if (best := best_on_test(one.groups)) is not one.groups[0]:
        described = f"{one.described(best)}: {accuracy(best, 'test/acc')}"
        lines += ["", f"{CHOSEN_ON_TEST}: {described}; {why_not_on_test(one.groups)}."]
    if one.differences:
        rows = [[*one.label(group), *found.cells().values()] for group, found in one.differences.items()]
        lines += [
            "", f"{level} Difference in test accuracy to the chosen configuration", "",
            *markdown_table([*one.head, "points", "95 % CI", "significant", "McNemar p per seed"], rows), "",
            ABOUT_DIFFERENCES,
        ]  # fmt: skip
    if one.is_wide:
        lines += ["", f"{level} Settings that differ", "", *markdown_table(*one.settings_table())]
    return lines


def alone_rows(sweep: Sweep) -> list[list[str]]:
    """The rows of the table of runs that no other run can be compared with, below `ALONE_HEAD`."""
    rows = []
    for one in sweep.alone:
        (job,) = one.jobs
        figures = [number(figure, percent) for figure in (job.result.val_acc, job.result.test_acc)]
        uncertainty = _uncertainty(job.result.test_acc_ci, chance_of(job))
        rows.append([str(one.number), job.name, one.title, *figures, *uncertainty])
    return rows


def about_test_set(groups: Sequence[Group]) -> list[str]:
    """The standard error of an accuracy that the number of test pairs implies, one line per test set."""
    results = [job.result for one in groups for job in one.jobs]
    about = {(one.dataset, one.protocol, one.n_test) for one in results if one.dataset and one.protocol and one.n_test}
    return [
        f"{titled(dataset, DATASETS)}, {titled(protocol, PROTOCOLS)}: the standard error of a single accuracy on "
        f"{n:,} test pairs is up to {50 / math.sqrt(n):.1f} points."
        for dataset, protocol, n in sorted(about)
    ]


def by_test_data(evaluations: Sequence[Job]) -> dict[str, list[Job]]:
    """Evaluations by what they were tested on."""
    found: dict[str, list[Job]] = {}
    for job in evaluations:
        found.setdefault(tested_on([job]), []).append(job)
    return found


def evaluation_rows(job: Job, folder: Path) -> list[list[str]]:
    """The rows of an evaluation below `EVALUATION_HEAD`: one per N for N-way one-shot evaluations, one per
    figure for identification, otherwise one.

    Args:
        job: the evaluation.
        folder: folder that the path of the evaluated run is relative to, if the run is below it.
    """
    result = job.result
    trained_on = titled(result.trained_on, DATASETS) if result.trained_on else ""
    figures: list[tuple[str, Any, Any, float | None]] = [
        (f"{n}-way one-shot", result.oneshot(n, "acc"), result.oneshot(n, "acc_ci"), 1 / n) for n in result.ways
    ]
    figures += [(one.title, one.value, one.ends, one.chance) for one in identification_figures(result)]
    figures = figures or [("verification", result.test_acc, result.test_acc_ci, chance_of(job))]
    return [
        [_evaluated(job, folder), trained_on, task, number(acc, percent), *_uncertainty(ends, chance)]
        for task, acc, ends, chance in figures
    ]


def _uncertainty(ends: Sequence[float] | None, chance: float | None) -> list[str]:
    """Two cells: the confidence interval of an accuracy, and the chance level, with a remark if it is not exceeded."""
    remark = " (not exceeded)" if not_above_chance(ends, chance) else ""
    return [interval(ends, percent), number(chance, percent) + remark]


def _evaluated(job: Job, folder: Path) -> str:
    run = job.result.run
    if not isinstance(run, str):
        return f"ensemble of {count(len(run or ()), 'run')}"
    path = Path(run)
    return path.relative_to(folder.resolve()).as_posix() if path.is_relative_to(folder.resolve()) else run
