"""``python -m siamese report|reproduction FOLDER``: pages and tables from the files of finished runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siamese.errors import ConfigError, UserError
from siamese.report.jobs import read_jobs
from siamese.report.reproduction import reproduction
from siamese.report.run import write_run_report
from siamese.report.sweep import write_sweep_report


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code (2: the folder or file cannot be used)."""
    parser = argparse.ArgumentParser(prog="python -m siamese")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="build the page of a run or a sweep from the files on disk")
    report.add_argument("folder", type=Path, help="a run folder, or one with runs below it: of a sweep, or of several")
    reproduced = commands.add_parser(
        "reproduction", help="print the figures of the report that is reproduced beside those of runs, as Markdown"
    )
    reproduced.add_argument("folder", type=Path, nargs="+", help="a folder with runs of experiment=report/... below it")
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "report":
                print(build_report(options.folder))
            case "reproduction":
                print(reproduction(options.folder), end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_report(folder: Path) -> Path:
    """Write the page of a run; or of each run below a folder and, with the tables, of all of them together.

    Returns:
        the page: that of the run, or that of all.

    Raises:
        ConfigError: there is no run.
    """
    if (folder / "result.json").is_file():
        for fold in folder.glob("fold_*/result.json"):
            write_run_report(fold.parent)
        return write_run_report(folder)
    jobs = read_jobs(folder) if folder.is_dir() else []
    for job in jobs:
        write_run_report(job.folder)
    page = write_sweep_report(folder) if jobs else None
    if page is None:
        raise ConfigError(f"{folder}: no run there (no result.json in it or below it)")
    return page


if __name__ == "__main__":
    sys.exit(main())
