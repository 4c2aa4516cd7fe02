"""The command ``siamese``: parse the command line, call the subcommand, turn errors into exit codes.

Each subcommand's module is imported only when it is called, so that a wrong command line or ``--help`` is answered
without importing torch.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from siamese.command.memory import keep_freed_memory
from siamese.errors import TrainingError, UserError
from siamese.runs.latest import run_folder
from siamese.runs.signals import Interrupted, catch_signals, end_on_signals
from siamese.text import to_json

HYDRA = ("train", "eval")
"""Subcommands that work like ``train.py`` and ``eval.py`` of the clone, and take Hydra's overrides."""

EMBEDDING = ("verify", "embed", "identify", "index")
"""Subcommands that embed photos. With freed memory kept, ``embed`` takes a fifth less time for 1,200 photos."""

AFTER_A_SIGNAL = {
    "search": "; run the same command again to resume",
    "report": "; to draw the remaining pages, run the command again without --all",
}
"""What to do after a subcommand was interrupted, if not to begin again."""

AddParser = Callable[..., argparse.ArgumentParser]
"""Adds the parser of one subcommand: ``add_parser`` of what ``ArgumentParser.add_subparsers`` returns."""


def run() -> NoReturn:
    """Run the command line of this process and end it with the exit code."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in HYDRA + EMBEDDING:
        keep_freed_memory()
    if command in HYDRA:
        end_on_signals()
        run_with_hydra(command)
    catch_signals()
    raise SystemExit(main())


def run_with_hydra(command: str) -> NoReturn:
    """Run ``train`` or ``eval`` as ``train.py`` or ``eval.py`` would, with the installed configuration files."""
    import hydra

    from siamese.command.hydra_app import run_app
    from siamese.command.jobs import eval_job, train_job
    from siamese.config.defaults import configuration_folder

    sys.argv[:2] = [f"{Path(sys.argv[0]).name} {command}"]
    job = {"train": train_job, "eval": eval_job}[command]
    run_app(hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=command)(job), command)


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand other than ``train`` and ``eval``.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        the exit code: 0 done, 2 invalid arguments or data, 130 / 143 interrupted, 1 any other failure.
    """
    options = parse(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("siamese").setLevel(logging.INFO)
    try:
        _call(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"error: {error}{AFTER_A_SIGNAL.get(options.command, '')}", file=sys.stderr)
        return 128 + error.signal
    except BrokenPipeError:  # for example `siamese verify ... | head`
        from siamese.command.exit_codes import discard_output

        discard_output()
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _call(options: argparse.Namespace) -> None:
    match options.command:
        case "verify":
            from siamese.command.verify import verify

            for line in verify(options.run, options.photo, options.pairs, options.explain, options.align, options.face):
                print(to_json(line))
        case "embed":
            from siamese.command.embed import embed

            embed(options.run, options.folder, options.out, options.align)
        case "identify":
            from siamese.command.identify import identify

            found = identify(
                options.run, options.gallery, options.photo, options.top, options.keep_identical, options.align,
                options.face, options.exact,
            )  # fmt: skip
            for answer in found:
                print(to_json(answer, indent=2 if len(options.photo) == 1 else None))
        case "index":
            from siamese.command.index import index

            index(options.run, options.gallery, options.out, options.approximate, options.align)
        case "search":
            from siamese.command.search import search

            search(options.space, options.folder, options.override, options.trials)
        case "page":
            from siamese.inference.web_page import serve

            serve(options.run, options.port, options.align)
        case "export":
            from siamese.inference.export import export

            export(options.run, options.folder, options.format)
        case "report":
            from siamese.command.report import build_pages

            print(build_pages(options.folder, options.explain, options.all))
        case "reproduction":
            from siamese.report.reproduction import reproduction

            print(reproduction(options.folder), end="")
        case "download":
            from siamese.command.download import download

            print(download(options.name, options.root))
        case "cache":
            from siamese.command.cache import cache

            print(cache(options.folder, options.prune))
        case "data":
            from siamese.command.describe_data import describe_data

            describe_data(options.path, options.option, options.json, options.contact_sheet)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; `command` is the subcommand, and options may stand between its other arguments."""
    parser, commands = build_parsers()
    if arguments and arguments[0] in commands:
        command, *rest = arguments
        return commands[command].parse_intermixed_args(rest, argparse.Namespace(command=command))
    return parser.parse_args(arguments)  # prints the help or an error


def build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Build the parser of the command line, and those of the subcommands by name."""
    parser = argparse.ArgumentParser(prog="siamese", description="Siamese networks for face verification.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in HYDRA:
        purpose = {"train": "train, test and report a network", "eval": "score a finished run"}[command]
        commands.add_parser(
            command, add_help=False, help=f"{purpose}; takes the same arguments as {command}.py: key=value ..."
        )
    _add_data(commands.add_parser)
    _add_reports(commands.add_parser)
    _add_questions(commands.add_parser)

    searched = commands.add_parser(
        "search", help="find the hyperparameters with the best validation figure, using Optuna"
    )
    searched.add_argument("space", help="YAML file with a search space, or a name in conf/search such as quick")
    searched.add_argument("folder", type=Path, help="output folder of the search; an existing search there is resumed")
    searched.add_argument("override", nargs="*", default=[], help="key=value as for train; applies to all trials")
    searched.add_argument("--trials", type=int, metavar="N", help="total number of trials (overrides the file)")

    exported = commands.add_parser("export", help="write a run's network in ONNX or torch.export format")
    exported.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    exported.add_argument("folder", type=Path, help="output folder; created if missing")
    exported.add_argument("--format", default="onnx", help="onnx (default), or pt2 for torch.export")
    return parser, commands.choices


def _add_reports(add: AddParser) -> None:
    """Add the subcommands that describe runs."""
    report = add("report", help="rebuild run pages and sweep pages from the files of the runs")
    report.add_argument("folder", type=run_folder, help="a run folder, or a folder with runs below it, such as a sweep")
    report.add_argument(
        "--explain",
        action="store_true",
        help="also add occlusion maps to the gallery of a single run's page (loads the weights)",
    )

    report.add_argument(
        "--all",
        action="store_true",
        help="redraw the pages of all runs below the folder, also those whose files have not changed",
    )

    reproduction = add("reproduction", help="print Markdown tables that compare runs with the course report")
    reproduction.add_argument(
        "folder", type=Path, nargs="+", help="a folder with runs of experiment=report/... below it"
    )


def _add_data(add: AddParser) -> None:
    """Add the subcommands about data sets."""
    download = add("download", help="download a version of LFW with all its lists ahead of a run")
    download.add_argument("name", choices=("lfw", "lfw_funneled", "lfw_deepfunneled"), help="version of the images")
    download.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="where to store it (default LFW_ROOT, or data/lfw if that is not set)",
    )

    cache = add("cache", help="list what the cache of decoded images holds")
    cache.add_argument(
        "folder", type=Path, nargs="?", default=Path("data/cache"), help="the folder data.cache (default data/cache)"
    )
    cache.add_argument(
        "--prune",
        action="store_true",
        help="remove images whose files changed or are gone; first connect drives that hold photos",
    )

    data = add("data", help="summarise a data set and list its problems")
    data.add_argument(
        "path", type=Path, help="a folder with one subfolder per person, the root folder of LFW, or a CSV file of pairs"
    )
    data.add_argument(
        "option",
        nargs="*",
        default=[],
        help="key=value for a key of the configuration group data, such as split_seed=1",
    )
    data.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    data.add_argument("--contact-sheet", type=Path, metavar="FILE", help="write images of some people to FILE")


def _add_questions(add: AddParser) -> None:
    """Add the subcommands that apply a finished run to photos."""
    verify = add(
        "verify",
        help="decide whether two photos show the same person; print JSON",
        description="Decide whether two photos show the same person, and print a line of JSON for each pair: same (the "
        "decision), probability, threshold, score, identical, unusual (for each photo, whether it is unlike the "
        "training images).",
    )
    verify.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    verify.add_argument("photo", type=Path, nargs="*", default=[], help="two image files (or use --pairs)")
    verify.add_argument(
        "--pairs", type=Path, metavar="FILE", help="CSV file with the columns image1, image2 and optionally label"
    )
    verify.add_argument("--explain", type=Path, metavar="FILE", help="save occlusion maps of both photos to FILE")

    embed = add("embed", help="write the embeddings of all photos in a folder")
    embed.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    embed.add_argument("folder", type=Path, help="folder of photos; subfolders are included")
    embed.add_argument("out", type=Path, help="output file, .npy or .csv")

    identify = add("identify", help="rank the people of a gallery by their similarity to a photo; print JSON")
    identify.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    identify.add_argument(
        "gallery", type=Path,
        help="folder that contains, for each person, a subfolder of photos or one photo; or a folder written by index",
    )  # fmt: skip
    identify.add_argument("photo", type=Path, nargs="+", help="the photo to identify; several: a line of JSON for each")
    identify.add_argument("--top", type=int, default=5, help="number of people to print (default 5)")
    identify.add_argument(
        "--keep-identical", action="store_true", help="do not leave out copies of the photo that are in the gallery"
    )

    identify.add_argument(
        "--exact", action="store_true", help="do not use the approximate index of index --approximate"
    )

    index = add("index", help="embed a gallery once and for all, for identify")
    index.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    index.add_argument("gallery", type=Path, help="folder of photos as for identify")
    index.add_argument(
        "out", type=Path, help="output folder; if index wrote it, only new and changed photos are embedded again"
    )
    index.add_argument(
        "--approximate", action="store_true",
        help="also build an index for galleries of a million photos: identify then looks only at the most similar ones",
    )  # fmt: skip

    page = add("page", help="serve a local web page that compares two photos")
    page.add_argument("run", type=run_folder, help="folder of a finished run, or latest")
    page.add_argument(
        "--port", type=int, default=7860, help="local port to listen on (default 7860; 0 picks a free one)"
    )

    for command in (verify, embed, identify, index, page):
        command.add_argument(
            "--align", action="store_true",
            help="align the faces first, for photos of whole scenes and a run trained on LFW (extra faces)",
        )  # fmt: skip
    verify.add_argument(
        "--face", metavar="N[,N]",
        help="which face to compare if photos are aligned and show several: 1 is the largest (default); with two "
        "numbers, one for each photo",
    )  # fmt: skip
    identify.add_argument(
        "--face", metavar="N",
        help="which face to identify if photos are aligned and the photo shows several: 1 is the largest (default)",
    )  # fmt: skip
