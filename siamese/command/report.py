"""``siamese report``: rebuild run pages and sweep pages from the files of the runs."""

from __future__ import annotations

import logging
from pathlib import Path

from siamese.errors import ConfigError
from siamese.report.jobs import read_evaluations, read_jobs
from siamese.report.run_page import write_run_page
from siamese.report.sweep_page import write_sweep_page
from siamese.text import count

log = logging.getLogger(__name__)


def build_pages(folder: Path, explain: bool = False) -> Path:
    """Rebuild the page of a run; or the page of each run below a folder, and the sweep page with its tables.

    Args:
        folder: a run folder, or a folder with runs below it.
        explain: only for a run folder: first compute occlusion maps of the pairs in the page's gallery. This needs
            the network of the run.

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
    jobs = [*read_jobs(folder), *read_evaluations(folder)] if folder.is_dir() else []
    for job in jobs:
        write_run_page(job.folder)
    page = write_sweep_page(folder) if jobs else None
    if page is None:
        raise ConfigError(f"{folder}: no run found; give a run folder, or a folder with runs below it")
    return page
