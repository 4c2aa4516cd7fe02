"""``python -m siamese report FOLDER``: build the page of a run, or the tables of a sweep, again from its files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from siamese.errors import ConfigError, UserError
from siamese.report.run import write_run_report
from siamese.report.sweep import read_jobs, write_sweep_tables


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code (2: the folder or file cannot be used)."""
    parser = argparse.ArgumentParser(prog="python -m siamese")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="build a run's page, or a sweep's tables, from the files on disk")
    report.add_argument("folder", type=Path, help="a run folder, or the folder of a sweep")
    options = parser.parse_args(arguments)
    try:
        print(build_report(options.folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_report(folder: Path) -> Path:
    """Write the page of a run, or the tables of a sweep and the page of each job; returns the main file.

    Raises:
        ConfigError: the folder holds neither.
    """
    if (folder / "result.json").is_file():
        return write_run_report(folder)
    jobs = read_jobs(folder) if folder.is_dir() else []
    if not jobs:
        raise ConfigError(f"{folder}: neither a run (no result.json) nor a sweep (no */result.json)")
    for job in jobs:
        write_run_report(folder / job.number)
    write_sweep_tables(folder)
    return folder / "results.md"


if __name__ == "__main__":
    sys.exit(main())
