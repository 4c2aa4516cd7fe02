"""``siamese report``: rebuild run pages and sweep pages from the files of the runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from siamese.errors import ConfigError
from siamese.parallel import cores, in_order
from siamese.report.drawn import is_up_to_date
from siamese.report.jobs import read_runs
from siamese.report.run_page import write_run_page
from siamese.report.sweep_page import write_sweep_page
from siamese.text import count

log = logging.getLogger(__name__)

PAGES_PER_PROCESS = 4
"""Fewest pages for which a process is started, because that takes as long as drawing a page or two."""


def build_pages(folder: Path, explain: bool = False, everything: bool = False) -> Path:
    """Rebuild the page of a run; or the page of each run below a folder, and the sweep page with its tables.

    Of the runs below a folder, only pages that are out of date are redrawn (`siamese.report.drawn.is_up_to_date`), by
    several processes if there are many. If the command is interrupted, the pages drawn so far are kept.

    Args:
        folder: a run folder, or a folder with runs below it.
        explain: only for a run folder: first compute occlusion maps of the pairs in the page's gallery. This needs
            the network of the run.
        everything: redraw all pages.

    Returns:
        the run page, or the sweep page.

    Raises:
        ConfigError: there is no run.
    """
    if explain:
        from siamese.inference.occlusion import save_gallery_maps

        log.info("occlusion maps of %s saved", count(save_gallery_maps(folder), "pair"))
    if (folder / "result.json").is_file():
        for fold in folder.glob("fold_*/result.json"):
            write_run_page(fold.parent)
        return write_run_page(folder)
    runs = [job.folder for jobs in read_runs(folder) for job in jobs] if folder.is_dir() else []
    stale = [run for run in runs if everything or not is_up_to_date(run)]
    draw_pages(stale)
    page = write_sweep_page(folder) if runs else None
    if page is None:
        raise ConfigError(f"{folder}: no run found; give a run folder, or a folder with runs below it")
    rest = len(runs) - len(stale)
    log.info("%s redrawn%s", count(len(stale), "run page"), f", {rest} up to date (--all redraws all)" if rest else "")
    return page


def draw_pages(runs: Sequence[Path]) -> None:
    """Draw the pages of runs, by several processes if there are many, with a progress bar in a terminal.

    Raises:
        OSError: a page could not be written; pages drawn before are kept.
        TrainingError: a process that draws pages was killed.
    """
    workers = min(cores(), len(runs) // PAGES_PER_PROCESS)
    drawn = (
        in_order(write_run_page, runs, processes=True, workers=workers) if workers > 1 else map(write_run_page, runs)
    )
    for _ in tqdm(drawn, total=len(runs), desc="drawing", unit="page", leave=False, disable=None):
        pass
