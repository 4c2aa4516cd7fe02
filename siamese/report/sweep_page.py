"""Write the sweep page, ``report.html``, and its tables, from the files of the runs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml
from filelock import FileLock

from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.files import write_text_atomically
from siamese.report.figures import Overlaid, overlaid_curves_figure, overlaid_roc_figure, palette, shade, to_svg
from siamese.report.groups import Grid, Group, best_on_test, largest_grid, show, spread
from siamese.report.html import render_page
from siamese.report.jobs import Job, history, read_jobs, scored
from siamese.report.sweep import Sweep, read_sweep
from siamese.report.sweep_tables import (
    ABOUT_DIFFERENCES,
    CHOSEN,
    CHOSEN_ON_TEST,
    COLUMNS,
    NO_CHOICE,
    Column,
    about_chance,
    why_not_on_test,
    write_tables,
)
from siamese.report.text import duration, interval, percent
from siamese.text import count

HEAT_MAPS = tuple(column for column in COLUMNS if column.key.endswith(("acc", "loss")))


def write_sweep_page(folder: Path) -> Path | None:
    """Write ``report.html`` and the tables of `write_tables` into a folder with runs below it.

    Can be called by several processes at once: they take turns, so that the last page shows all runs.

    Returns:
        the page; None if there are no runs.
    """
    if not read_jobs(folder):
        return None
    with FileLock(folder / ".report.lock"):
        sweep = read_sweep(folder)
        write_tables(sweep)
        page = folder / "report.html"
        write_text_atomically(page, render(sweep))
        return page


def render(sweep: Sweep) -> str:
    """The page as HTML; values that come from files are escaped."""
    jobs, groups = sweep.jobs, sweep.groups
    number = {job: i for i, one in enumerate(groups) for job in one.jobs}
    colors = palette(len(groups))
    runs = [
        Overlaid(number[job], history(job), job.result.best_epoch, scored(job).tpr) for job in jobs if job in number
    ]
    longest = max((job.result.train_seconds or 0 for job in jobs), default=0)
    statuses = [job.status for job in jobs]
    return render_page(
        "sweep.html.j2",
        title=sweep.title,
        status=_status(statuses),
        tally=", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))),
        context=_context(jobs),
        command=_command(sweep.folder),
        sweep=sweep,
        columns=COLUMNS,
        choice=_choice_cards(sweep),
        groups=[_group_view(sweep, one, colors[i]) for i, one in enumerate(groups)],
        differences=[
            {"group": i, "color": colors[i], "label": sweep.label(one), "sort": found.points, **found.cells()}
            for i, one in enumerate(groups)
            if (found := sweep.differences.get(one)) is not None
        ],
        about_differences=ABOUT_DIFFERENCES,
        about_chance=about_chance(groups),
        heat_maps=_heat_maps(sweep),
        curves=to_svg(overlaid_curves_figure(runs, colors), "Learning curves of all runs; the tables list the results")
        if any(run.history for run in runs)
        else None,
        roc=to_svg(overlaid_roc_figure(runs, colors), "ROC of all runs; the tables list the areas under the curves")
        if any(not np.isnan(run.tpr[0]) for run in runs)
        else None,
        jobs=[_job_view(sweep, job, number.get(job), colors, longest) for job in jobs],
        training_time=duration(sum(job.result.train_seconds or 0 for job in jobs)),
        notes=_notes(sweep),
        script=(Path(__file__).parent / "sweep.js").read_text(encoding="utf-8"),
    )


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
        recorded = yaml.safe_load((folder / "multirun.yaml").read_text(encoding="utf-8"))["hydra"]["overrides"]
        words = [str(word) for word in [*recorded["task"], *recorded["hydra"]]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    own = ("hydra.mode=", "hydra.sweep.dir=")
    return shlex.join(["python", "train.py", "-m", *(word for word in words if not word.startswith(own))])


def _choice_cards(sweep: Sweep) -> list[dict[str, str]]:
    """The cards at the top: the chosen configuration, and for contrast the one with the highest test accuracy."""
    groups = sweep.groups
    if not groups or not sweep.can_choose:
        return []
    chosen, best = groups[0], best_on_test(groups)
    title = CHOSEN if len(groups) > 1 else "The configuration"
    cards = [(title, chosen, "this is the result to report")]
    if best is not chosen:
        cards.append((CHOSEN_ON_TEST, best, why_not_on_test(groups)))
    return [
        {
            "what": what,
            "value": spread([100 * value for value in one.figures("test/acc")], 1) + " %",
            "interval": _interval(one),
            "which": sweep.described(one),
            "why": why,
        }
        for what, one, why in cards
    ]


def _interval(one: Group) -> str:
    """The uncertainty of the test accuracy: over the seeds, or for a single seed over the test pairs."""
    if len(one.jobs) > 1:
        return f"mean ± standard error of {len(one.jobs)} seeds"
    ends = interval(one.jobs[0].result.test_acc_ci, percent)
    return f"95 % CI: {ends}, one seed" if ends else "one seed"


def _group_view(sweep: Sweep, one: Group, color: str) -> dict[str, Any]:
    """A row of the table of configurations."""
    figures = []
    for column in COLUMNS:
        values = [column.scale * value for value in one.figures(column.key)]
        ends = f"{min(values):.{column.digits}f} to {max(values):.{column.digits}f}" if len(values) > 1 else ""
        figures.append({"text": column.of(one), "sort": one.mean(column.key), "range": ends})
    is_unique = sweep.is_named and [other.title for other in sweep.groups].count(one.title) == 1
    return {
        "color": color,
        "label": sweep.label(one),
        "legend": one.title if is_unique else " · ".join(sweep.label(one)) or "all runs",
        "n": len(one.jobs),
        "figures": figures,
    }


def _job_view(sweep: Sweep, job: Job, number: int | None, colors: Sequence[str], longest: float) -> dict[str, Any]:
    """A row of the table of jobs."""
    result = job.result
    seconds = result.train_seconds
    return {
        "name": job.name,
        "title": job.title,
        "href": quote(f"{job.name}/report.html") if (job.folder / "report.html").exists() else "",
        "status": job.status,
        "group": number,
        "color": None if number is None else colors[number],
        "values": sweep.setting_cells([show(job.settings.get(key)) for key in sweep.settings])
        if sweep.is_wide
        else [show(job.settings.get(key)) if key in job.settings else "" for key in sweep.settings],
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


def _heat_maps(sweep: Sweep) -> dict[str, Any] | None:
    """One table per figure for the largest grid of two settings; better is darker."""
    grid = largest_grid(sweep.groups, sweep.settings)
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
    jobs, groups = sweep.jobs, sweep.groups
    notes = [
        "Configurations are sorted by mean validation accuracy over their seeds, then by validation loss; the first is "
        "the chosen one. The test pairs are not used for any choice."
        if sweep.can_choose
        else NO_CHOICE
    ]
    again = sum(job.status == "done" for job in jobs) - sum(len(one.jobs) for one in groups)
    if again:
        notes.append(f"Not counted: {count(again, 'job')} with the same configuration and seed as another job.")
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
    precisions = sorted({job.result.precision for job in jobs if job.result.precision is not None})
    devices = {job.result.device for job in jobs if job.result.device is not None}
    if len(precisions) > 1 or len(devices) > 1:
        notes.append(
            f"The runs used {count(len(devices), 'device')} and precision {', '.join(precisions)}, so their times "
            "cannot be compared."
        )
    return notes
