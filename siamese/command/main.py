"""TODO."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from siamese.command.memory import keep_freed_memory
from siamese.config.load import configuration_folder
from siamese.errors import TrainingError, UserError
from siamese.runs.signals import Interrupted

HYDRA = ("train", "eval")
"""Commands that are ``train.py`` and ``eval.py`` of the clone, and take Hydra's overrides."""


def run() -> NoReturn:
    """The command line of the process; ends with the exit code of `siamese.cli` or `main`."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in HYDRA:
        keep_freed_memory()
        run_with_hydra(command)
    raise SystemExit(main())


def run_with_hydra(command: str) -> NoReturn:
    """``train`` or ``eval``, as ``train.py`` and ``eval.py`` do, with the configuration that is installed."""
    import hydra

    from siamese.command.hydra_app import eval_job, run_app, train_job

    sys.argv[:2] = [f"{Path(sys.argv[0]).name} {command}"]
    job = {"train": train_job, "eval": eval_job}[command]
    run_app(hydra.main(version_base="1.3", config_path=str(configuration_folder()), config_name=command)(job))


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand other than Hydra's; returns the exit code (2: what is named cannot be used; 1: it fails)."""
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("siamese").setLevel(logging.INFO)
    from siamese.command import subcommands as commands

    try:
        match options.command:
            case "verify":
                for answer in commands.verify(options.run, options.photo, options.pairs, options.explain):
                    print(json.dumps(answer))
            case "embed":
                commands.embed(options.run, options.folder, options.out)
            case "identify":
                found = commands.identify(options.run, options.gallery, options.photo, options.top)
                print(json.dumps(found, indent=2))
            case "search":
                commands.search(options.space, options.folder, options.override, options.trials)
            case "page":
                commands.page(options.run, options.port)
            case "export":
                commands.export(options.run, options.folder, options.format)
            case "report":
                print(commands.build_report(options.folder, options.explain))
            case "reproduction":
                print(commands.reproduction(options.folder), end="")
            case "data":
                commands.describe_data(options.path, options.option, options.json, options.contact_sheet)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"error: interrupted by {error.signal.name}; the same command goes on", file=sys.stderr)
        return 128 + error.signal
    except BrokenPipeError:
        # Whoever read our output (head, less) has gone; nor may the interpreter flush to it when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All subcommands and their arguments."""
    parser = argparse.ArgumentParser(prog="siamese", description="Siamese networks for face verification.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in HYDRA:
        commands.add_parser(command, add_help=False, help=f"as {command}.py: key=value ..., --help tells all keys")
    report = commands.add_parser("report", help="build the page of a run or a sweep from the files on disk")
    report.add_argument("folder", type=Path, help="a run folder, or one with runs below it: of a sweep, or of several")
    report.add_argument("--explain", action="store_true", help="of a run: show in its gallery what answers rest on")
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
    page = commands.add_parser("page", help="show a page on this machine where two photos can be dropped")
    page.add_argument("run", type=Path, help="the folder of a finished run")
    page.add_argument("--port", type=int, default=7860, help="of 127.0.0.1 (default 7860); 0 for any that is free")
    searched = commands.add_parser("search", help="look for the best values by validation, with Optuna")
    searched.add_argument("space", help="a YAML file with a search space, or the name of one in conf/search: quick")
    searched.add_argument("folder", type=Path, help="of the search; goes on with what is there")
    searched.add_argument("override", nargs="*", help="key=value of every trial besides, as for train")
    searched.add_argument("--trials", type=int, metavar="N", help="in all, instead of what the file says")
    exported = commands.add_parser("export", help="write a run's network as ONNX, or as torch.export saves it")
    exported.add_argument("run", type=Path, help="the folder of a finished run")
    exported.add_argument("folder", type=Path, help="where to; made when missing")
    exported.add_argument("--format", default="onnx", help="onnx (default) or pt2")
    return parser
