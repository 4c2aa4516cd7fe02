"""A sweep's tables and page, built from its jobs' files alone: works while the sweep runs and after any launcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from siamese.files import write_csv_atomically, write_text_atomically
from siamese.report.jobs import Group, Job, Sweep, luckiest, read_jobs, read_sweep, spread, standard_error
from siamese.report.sweep_page import ABOUT_DIFFERENCES, COLUMNS, NO_CHOICE, about_chance, render
from siamese.report.text import markdown_table, table_cell

FIGURES = (
    "val/loss", "val/acc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "epochs", "train_seconds",
)  # fmt: skip
"""The figures of a job in ``results.csv``; the tables to read leave out some of them."""


def write_sweep_page(folder: Path) -> Path | None:
    """Write the tables and the page of the runs below a folder into it; returns the page, None where there are no runs.

    ``results.csv`` has a row a job; ``groups.csv`` a row a configuration, with mean, standard error, least and greatest
    of each figure over its seeds; ``results.md`` the same to read, what was chosen, and which differences are shown;
    ``report.html`` all of that with pictures. Jobs that end at the same time take turns, so that the last to write has
    seen them all.
    """
    if not read_jobs(folder):
        return None
    with FileLock(folder / ".report.lock"):
        sweep = read_sweep(folder)
        columns = ["job", "name", "status", *sweep.settings, "seed", *FIGURES, "error"]
        write_csv_atomically(folder / "results.csv", columns, [_job_row(job, sweep.settings) for job in sweep.jobs])
        of_figure = ("mean", "se", "min", "max")
        columns = ["name", *sweep.settings, "n", *(f"{name} {what}" for name in FIGURES for what in of_figure)]
        write_csv_atomically(folder / "groups.csv", columns, [_group_row(one) for one in sweep.groups])
        write_text_atomically(folder / "results.md", markdown(sweep))
        page = folder / "report.html"
        write_text_atomically(page, render(sweep))
        return page


def _job_row(job: Job, settings: Sequence[str]) -> list[object]:
    """A row of ``results.csv``."""
    values = [job.settings.get(key) for key in settings]
    figures = [job.result.figure(key) for key in FIGURES]
    return [job.name, job.title, job.status, *values, job.seed, *figures, job.result.error]


def _group_row(one: Group) -> list[object]:
    """A row of ``groups.csv``; the standard error is empty for a single seed."""
    row: list[object] = [one.title, *one.values, len(one.jobs)]
    for name in FIGURES:
        values = one.figures(name)
        row += [one.mean(name), standard_error(values), min(values), max(values)] if values else [None] * 4
    return row


def markdown(sweep: Sweep) -> str:
    """``results.md``: a row a configuration, mean ± standard error where there are several seeds."""
    rows = [[*sweep.label(one), len(one.jobs), *(column.of(one) for column in COLUMNS)] for one in sweep.groups]
    lines = [f"# Sweep {sweep.title}", ""]
    lines += markdown_table([*sweep.head, "n", *(column.title for column in COLUMNS)], rows)
    lines += ["", "Sorted by validation accuracy. Several seeds of one configuration: mean ± standard error."]
    if sweep.is_wide:
        lines += ["", sweep.about_changes]
    lines += about_chance(sweep.groups)
    if len(sweep.groups) > 1:
        lines += ["", *_choice(sweep)]
    if sweep.differences:
        rows = [[*sweep.label(one), *found.told().values()] for one, found in sweep.differences.items()]
        lines += [
            "", "## Test accuracy against the chosen configuration", "",
            *markdown_table([*sweep.head, "points", "95 %", "shown", "McNemar p, seed by seed"], rows), "",
            ABOUT_DIFFERENCES,
        ]  # fmt: skip
    if unfinished := [job for job in sweep.jobs if job.status != "done"]:
        lines += ["", "Not finished:", ""]
        lines += [f"- job {job.name}: {job.status}. {table_cell(job.result.error or '')}" for job in unfinished]
    return "\n".join(lines).rstrip() + "\n"


def _choice(sweep: Sweep) -> list[str]:
    """What validation chooses, and what choosing by the test pairs would have claimed."""
    if not sweep.can_choose:
        return [NO_CHOICE]
    chosen, flattered = sweep.groups[0], luckiest(sweep.groups)

    def told(one: Group) -> str:
        return f"{sweep.described(one)}: test accuracy {spread([100 * v for v in one.figures('test/acc')], 1)} %"

    lines = [f"Chosen by validation accuracy: {told(chosen)}."]
    if flattered is not chosen:
        lines.append(
            f"Choosing by test accuracy would have claimed {told(flattered)}, which is no estimate of anything: "
            f"of {len(sweep.groups)} configurations the one that these test pairs flatter most."
        )
    return lines
