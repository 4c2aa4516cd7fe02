"""Write the sweep page, ``report.html``, and its tables, from the files of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml
from filelock import FileLock

from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.files import write_text_atomically
from siamese.report.figures import Overlaid, overlaid_curves_figure, overlaid_roc_figure, palette, shade, themed, to_svg
from siamese.report.groups import Grid, Group, accuracy_interval, best_on_test, largest_grid, show
from siamese.report.html import render_page
from siamese.report.jobs import Job, history, read_runs
from siamese.report.load import configuration_options
from siamese.report.scored import scored
from siamese.report.sweep import Comparison, Sweep, read_sweep
from siamese.report.sweep_summary import accuracy, summary, summary_of
from siamese.report.sweep_tables import (
    ABOUT_ALONE,
    ABOUT_CHANGES,
    ABOUT_DIFFERENCES,
    ABOUT_EVALUATIONS,
    ALONE_HEAD,
    CHOSEN,
    CHOSEN_ON_TEST,
    COLUMNS,
    EVALUATION_HEAD,
    Column,
    about_test_set,
    alone_rows,
    by_test_data,
    evaluation_rows,
    why_not_on_test,
    write_tables,
)
from siamese.report.text import interval, percent
from siamese.text import count, duration, shell_words

MOST_DRAWN = 40
"""Most configurations of a comparison whose curves are drawn. More curves look alike, and take seconds to draw."""

HEAT_MAPS = tuple(column for column in COLUMNS if column.key.endswith(("acc", "loss")))


def write_sweep_page(folder: Path) -> Path | None:
    """Write ``report.html`` and the tables of `write_tables` into a folder with runs below it.

    Can be called by several processes at once: they take turns, so that the last page shows all runs.

    Returns:
        the page; None if there are no runs.
    """
    if not any(read_runs(folder)):
        return None
    with FileLock(folder / ".report.lock"):
        sweep = read_sweep(folder)
        write_tables(sweep)
        page = folder / "report.html"
        write_text_atomically(page, render(sweep))
        return page


def render(sweep: Sweep) -> str:
    """The page as HTML; values that come from files are escaped."""
    jobs, evaluations = sweep.jobs, sweep.evaluations
    statuses = [job.status for job in jobs]
    tally = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))]
    colors = [color for one in sweep.sections for color in _colors(len(one.groups))]
    number = {job: i for i, one in enumerate(_groups(sweep)) for job in one.jobs}
    longest = max((job.result.train_seconds or 0 for job in jobs), default=0)
    return render_page(
        "sweep.html.j2",
        title=sweep.title,
        status=_status([*statuses, *(job.status for job in evaluations)]),
        tally=", ".join([*tally, *([count(len(evaluations), "evaluation")] if evaluations else [])]),
        context=_context([*jobs, *evaluations]),
        command=_command(sweep.folder),
        summary=summary(sweep),
        open=[_open_view(job) for job in (*jobs, *evaluations) if job.status != "done"],
        is_one=len(sweep.comparisons) == 1,
        sections=[_comparison_view(sweep, one, colors) for one in sweep.sections],
        alone={"about": ABOUT_ALONE, "head": ALONE_HEAD, "rows": _alone_views(sweep)},
        evaluations={"about": ABOUT_EVALUATIONS, "head": EVALUATION_HEAD, "tables": _evaluation_views(sweep)},
        columns=COLUMNS,
        about_changes=ABOUT_CHANGES,
        jobs=[_job_view(sweep, job, number.get(job), colors, longest) for job in jobs],
        setting_heads=sweep.comparisons[0].setting_heads,
        is_named=len({job.title for job in jobs}) > 1,
        training_time=duration(sum(job.result.train_seconds or 0 for job in jobs)),
        notes=_notes(sweep),
        script=(Path(__file__).parent / "sweep.js").read_text(encoding="utf-8"),
    )


def _colors(groups: int) -> list[str | None]:
    """A colour for each configuration of a comparison that is drawn, None for the others."""
    drawn = min(groups, MOST_DRAWN)
    return [*palette(drawn), *[None] * (groups - drawn)]


def _groups(sweep: Sweep) -> list[Group]:
    """The groups of all sections. A group's index is its number in the page's scripts and figures."""
    return [group for one in sweep.sections for group in one.groups]


def _comparison_view(sweep: Sweep, one: Comparison, colors: Sequence[str | None]) -> dict[str, Any]:
    """A section of the page."""
    first = _groups(sweep).index(one.groups[0]) if one.groups else 0
    drawn = one.groups[:MOST_DRAWN]
    number = {job: i for i, group in enumerate(drawn, start=first) for job in group.jobs}
    runs = [
        Overlaid(number[job], history(job), job.result.best_epoch, scored(job).tpr) for job in one.jobs if job in number
    ]
    shown = [color or "" for color in colors]
    curves = f"Learning curves of comparison {one.number}; the tables list the results"
    roc = f"ROC of comparison {one.number}; the tables list the areas under the curves"
    return {
        "number": one.number,
        "title": one.title,
        "summary": summary_of(one),
        "head": one.head,
        "choice": _choice_cards(one),
        "about_test_set": about_test_set(one.groups),
        "groups": [_group_view(one, i, first, colors) for i in range(len(one.groups))],
        "differences": [
            {**_numbered(i, first, colors), "label": one.label(group), "sort": found.points, **found.cells()}
            for i, group in enumerate(one.groups)
            if (found := one.differences.get(group)) is not None
        ],
        "drawn": len(drawn),
        "settings": one.settings_table() if one.is_wide else None,
        "heat_maps": _heat_maps(one),
        "curves": to_svg(overlaid_curves_figure(runs, shown), curves) if any(run.history for run in runs) else None,
        "roc": to_svg(overlaid_roc_figure(runs, shown), roc) if any(not np.isnan(run.tpr[0]) for run in runs) else None,
    }


def _numbered(index: int, first: int, colors: Sequence[str | None]) -> dict[str, Any]:
    """Rank of a configuration within its comparison; its number on the page and its colour if it is drawn."""
    color = colors[first + index]
    return {"rank": index + 1, "group": None if color is None else first + index, "color": color and themed(color)}


def _status(statuses: Sequence[str]) -> str:
    """The status of the sweep: running if any job is, otherwise interrupted or failed, otherwise done."""
    return next(
        (status for status in ("running", "interrupted", "failed") if status in statuses),
        "done" if statuses else "unknown",
    )


def _context(jobs: Sequence[Job]) -> str:
    """The line below the title: data sets, protocols, numbers of test pairs and devices."""
    parts = []
    results = [job.result for job in jobs]
    for values, titles in (
        ([one.dataset for one in results], DATASETS),
        ([one.protocol for one in results], PROTOCOLS),
        ([None if one.n_test is None else count(one.n_test, "test pair") for one in results], {}),
        ([one.device for one in results], {}),
    ):
        parts.append(", ".join(titled(value, titles) for value in dict.fromkeys(values) if value is not None))
    return " · ".join(part for part in parts if part)


def _command(folder: Path) -> str:
    """The command line of the sweep, without its output folder; empty if Hydra has not recorded it."""
    try:
        recorded = yaml.safe_load((folder / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]
        words = [str(word) for word in [*recorded["overrides"]["task"], *recorded["overrides"]["hydra"]]]
        job = recorded["job"]
        script = "eval.py" if "eval" in (job["config_name"], job.get("name")) else "train.py"
        options = configuration_options(recorded)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    own = ("hydra.mode=", "hydra.sweep.dir=")
    return shell_words(["python", script, "-m", *options, *(word for word in words if not word.startswith(own))])


def _choice_cards(one: Comparison) -> list[dict[str, str]]:
    """The cards at the top: the chosen configuration, and for contrast the one with the highest test accuracy."""
    if not one.groups or (len(one.groups) > 1 and not one.groups[0].figures("val/acc")):
        return []
    chosen, best = one.groups[0], best_on_test(one.groups)
    title = CHOSEN if len(one.groups) > 1 else "The configuration"
    cards = [(title, chosen, "This is the result to report.")]
    if best is not chosen:
        cards.append((CHOSEN_ON_TEST, best, f"{why_not_on_test(one.groups).capitalize()}."))
    return [
        {
            "what": what,
            "value": accuracy(group, "test/acc"),
            "validation": accuracy(group, "val/acc") if group.figures("val/acc") else "",
            "interval": _interval(group),
            "which": one.described(group),
            "why": why,
        }
        for what, group, why in cards
        if group.figures("test/acc")
    ]


def _interval(one: Group) -> str:
    """The uncertainty of the test accuracy: the interval, and the number of seeds."""
    n = len(one.jobs)
    ends = interval(accuracy_interval(one), percent)
    seeds = "one seed" if n == 1 else f"mean ± standard error, {n} seeds"
    return f"95 % CI: {ends}; {seeds}" if ends else seeds


def _group_view(comparison: Comparison, index: int, first: int, colors: Sequence[str | None]) -> dict[str, Any]:
    """A row of the table of configurations."""
    one = comparison.groups[index]
    figures = []
    for column in COLUMNS:
        values = [column.scale * value for value in one.figures(column.key)]
        ends = f"{min(values):.{column.digits}f} to {max(values):.{column.digits}f}" if len(values) > 1 else ""
        figures.append({"text": column.of(one), "sort": one.mean(column.key), "range": ends})
    is_unique = comparison.is_named and [other.title for other in comparison.groups].count(one.title) == 1
    return {
        **_numbered(index, first, colors),
        "label": comparison.label(one),
        "legend": one.title if is_unique else comparison.described(one) or "all runs",
        "n": len(one.jobs),
        "figures": figures,
    }


def _job_view(
    sweep: Sweep, job: Job, number: int | None, colors: Sequence[str | None], longest: float
) -> dict[str, Any]:
    """A row of the table of jobs."""
    result = job.result
    seconds = result.train_seconds
    color = None if number is None else colors[number]
    return {
        "name": job.name,
        "title": job.title,
        "href": _href(job),
        "status": job.status,
        "group": None if color is None else number,
        "color": color and themed(color),
        "comparison": sweep.number(job),
        "values": _job_cells(sweep, job),
        "seed": job.seed,
        "acc": result.test_acc,
        "interval": interval(result.test_acc_ci, percent),
        "loss": result.test_loss,
        "auc": result.test_auc,
        "epochs": result.epochs,
        "seconds": seconds,
        "time": "" if seconds is None else duration(seconds),
        "share": 0 if not longest or seconds is None else 100 * seconds / longest,
        "error": result.error or "",
    }


def _job_cells(sweep: Sweep, job: Job) -> list[str]:
    """The settings of a job; with several comparisons none, because each has its own."""
    if len(sweep.comparisons) > 1:
        return []
    (one,) = sweep.comparisons
    if one.is_wide:
        return one.setting_cells([show(job.settings.get(key)) for key in one.settings])
    return [show(job.settings.get(key)) if key in job.settings else "" for key in one.settings]


def _href(job: Job) -> str:
    """The link to the page of a run; empty if it has none."""
    return quote(f"{job.name}/report.html") if (job.folder / "report.html").exists() else ""


def _open_view(job: Job) -> dict[str, str]:
    """A line about a job that is not done."""
    return {"name": job.name, "title": job.title, "status": job.status, "error": job.result.error or ""}


def _alone_views(sweep: Sweep) -> list[dict[str, Any]]:
    """The rows of the table of runs without a comparison."""
    rows = zip(sweep.alone, alone_rows(sweep), strict=True)
    return [{"cells": cells, "href": _href(one.jobs[0])} for one, cells in rows]


def _evaluation_views(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """The tables of evaluations, by what they were tested on."""
    return {
        tested: [
            {"name": job.name, "href": _href(job), "status": job.status, "cells": cells}
            for job in evaluations
            for cells in evaluation_rows(job, sweep.folder)
        ]
        for tested, evaluations in by_test_data(sweep.evaluations).items()
    }


def _heat_maps(one: Comparison) -> dict[str, Any] | None:
    """One table per figure for the largest grid of two settings; better is darker."""
    grid = largest_grid(one.groups, one.settings)
    if grid is None:
        return None
    return {
        "row": grid.row,
        "column": grid.column,
        "columns": grid.columns,
        "others": ", ".join(f"{key}={value}" for key, value in grid.others),
        "tables": [{"title": column.title, "rows": _shaded(grid, column)} for column in HEAT_MAPS],
    }


def _shaded(grid: Grid, column: Column) -> list[tuple[str, list[dict[str, Any] | None]]]:
    means = {place: one.mean(column.key) for place, one in grid.cells.items()}
    worst, best = min(means.values()), max(means.values())
    if column.key.endswith("loss"):
        worst, best = best, worst
    rows = []
    for row in grid.rows:
        cells: list[dict[str, Any] | None] = []
        for place in ((row, value) for value in grid.columns):
            if place not in grid.cells or math.isnan(means[place]):
                cells.append(None)
                continue
            share = (means[place] - worst) / (best - worst) if best != worst else 0.5
            background, ink = shade(share)
            text = column.of(grid.cells[place])
            cells.append({"text": text, "background": background, "ink": ink, "n": len(grid.cells[place].jobs)})
        rows.append((row, cells))
    return rows


def _notes(sweep: Sweep) -> list[str]:
    """The section "How to read the results"."""
    jobs, groups = sweep.jobs, _groups(sweep)
    notes = [
        "Configurations are sorted by mean validation accuracy over their seeds, then by validation loss; the first is "
        "the chosen one. The test pairs are not used for any choice."
    ]
    again = sum(len(one.jobs) - sum(len(group.jobs) for group in one.groups) for one in sweep.comparisons)
    if again:
        notes.append(f"Not counted: {count(again, 'job')} with the same configuration and seed as another job.")
    if any(one.differences for one in sweep.sections):
        notes.append(ABOUT_DIFFERENCES)
    if any(len(one.jobs) > 1 for one in groups):
        notes.append(
            "“Mean ± standard error” is over the seeds. It shows how much the mean would change with other seeds, not "
            "with other test pairs."
        )
    if any(job.result.protocol == "view1" and job.result.dataset != "synthetic" for job in jobs):
        notes.append(
            "View 1 of LFW is meant for development. Do not compare these results with published results, which are on "
            "View 2."
        )
    precisions, devices = (  # several of a job: of the folds of View 2
        sorted({one for job in jobs for one in (getattr(job.result, key) or "").split(", ") if one})
        for key in ("precision", "device")
    )
    if len(precisions) > 1 or len(devices) > 1:
        notes.append(
            f"The runs used {count(len(devices), 'device')} and precision {', '.join(precisions)}, so their times "
            "cannot be compared."
        )
    return notes
