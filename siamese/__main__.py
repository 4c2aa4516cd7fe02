"""``python -m siamese COMMAND``: ask finished runs about photos, describe data sets, write pages and tables."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import yaml
from PIL import Image

from siamese.commands import embed, identify, verify
from siamese.data.sources import recognise
from siamese.errors import ConfigError, UserError
from siamese.files import replacing
from siamese.report.dataset import as_text, contact_sheet, describe
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
    described = commands.add_parser("data", help="tell what a data set holds and what is wrong with it")
    described.add_argument(
        "path", type=Path, help="a folder with a folder for each person, LFW's root, or a CSV file of pairs"
    )
    described.add_argument("option", nargs="*", help="of the configuration's data group, as split_seed=1")
    described.add_argument("--json", action="store_true", help="print all of it as one JSON object")
    described.add_argument("--contact-sheet", type=Path, metavar="FILE", help="write photos of some people into FILE")
    verified = commands.add_parser("verify", help="tell whether two photos show the same person, as JSON")
    verified.add_argument("run", type=Path, help="the folder of a finished run")
    verified.add_argument("photo", type=Path, nargs="*", help="two files")
    verified.add_argument("--pairs", type=Path, metavar="FILE", help="CSV file of image1,image2, perhaps label")
    verified.add_argument("--explain", type=Path, metavar="FILE", help="draw what the answer rests on into FILE")
    embedded = commands.add_parser("embed", help="write the embeddings of all photos in a folder")
    embedded.add_argument("run", type=Path, help="the folder of a finished run")
    embedded.add_argument("folder", type=Path, help="photos, anywhere below it")
    embedded.add_argument("out", type=Path, help="a file that ends in .npy or .csv")
    identified = commands.add_parser("identify", help="tell who of a gallery is on a photo, as JSON")
    identified.add_argument("run", type=Path, help="the folder of a finished run")
    identified.add_argument("gallery", type=Path, help="a folder of photos, or a photo, for each person")
    identified.add_argument("photo", type=Path, help="of whom is asked for")
    identified.add_argument("--top", type=int, default=5, help="how many people to tell (default 5)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        match options.command:
            case "verify":
                for answer in verify(options.run, options.photo, options.pairs, options.explain):
                    print(json.dumps(answer))
            case "embed":
                embed(options.run, options.folder, options.out)
            case "identify":
                print(json.dumps(identify(options.run, options.gallery, options.photo, options.top), indent=2))
            case "report":
                print(build_report(options.folder))
            case "reproduction":
                print(reproduction(options.folder), end="")
            case "data":
                describe_data(options.path, options.option, options.json, options.contact_sheet)
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


def describe_data(path: Path, options: list[str], as_json: bool, sheet: Path | None) -> None:
    """Print what the data set at ``path`` holds, and write its contact sheet.

    Raises:
        UserError: it cannot be used, or an option is no ``key=value``, unknown or impossible.
    """
    given = {}
    for option in options:
        key, equals, value = option.removeprefix("data.").partition("=")
        if not equals:
            raise ConfigError(f"{option}: is no option; give key=value, as split_seed=1")
        given[key] = yaml.safe_load(value)
    data = recognise(path, given)
    description = describe(data, progress=sys.stderr.isatty())
    print(json.dumps(dataclasses.asdict(description), indent=2) if as_json else as_text(description))
    if sheet is not None:
        with replacing(sheet) as temporary:
            contact_sheet(data).save(temporary, Image.registered_extensions().get(sheet.suffix.lower(), "PNG"))
        print(f"contact sheet: {sheet}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
