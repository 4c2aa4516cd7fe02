"""What the subcommands of ``siamese`` do; those of Hydra, train and eval, are in `siamese.cli`."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from siamese.data.folder import find_people, find_photos
from siamese.data.lists import read_table
from siamese.data.sources import recognise
from siamese.errors import ConfigError, DataError
from siamese.evaluation.intervals import wilson
from siamese.files import replacing, write_csv_atomically
from siamese.report.dataset import as_text, contact_sheet, describe
from siamese.report.jobs import read_jobs
from siamese.report.reproduction import reproduction as reproduction
from siamese.report.run_page import write_run_page
from siamese.report.sweep import write_sweep_page

if TYPE_CHECKING:
    from siamese.inference.verifier import Verification, Verifier

log = logging.getLogger(__name__)

CHUNK = 1024
"""Photos embedded between two steps of the bar."""


class Asked(NamedTuple):
    """A line of a list: two photos as they stand there, and their label where it has one."""

    image1: str
    image2: str
    label: int | None


def verify(run: Path, photos: list[Path], pairs: Path | None, explain: Path | None) -> Iterator[dict[str, Any]]:
    """The answers about two photos or about each line of a list, as JSON has them; what cannot be read has an error.

    Args:
        run: the folder of a finished run.
        photos: two files; none where there is a list.
        pairs: a CSV file with the columns image1, image2 and perhaps label; files are named relative to its folder.
        explain: write a picture of what the answer about two photos rests on into this file.

    Raises:
        UserError: the run or the list cannot be used, or one of the two photos.
    """
    if (pairs is None) == (not photos) or len(photos) not in (0, 2):
        raise ConfigError("give two photos, or --pairs FILE with a list of pairs")
    if pairs is not None and explain is not None:
        raise ConfigError("--explain is for two photos; leave --pairs out")
    if explain is not None:
        _check_picture("--explain", explain, ("png", "jpg", "pdf", "svg"))
    asked = read_asked(pairs) if pairs is not None else []
    verifier = _load(run)
    if pairs is None:
        answer = verifier.verify(*photos)
        yield {"image1": str(photos[0]), "image2": str(photos[1]), **answer._asdict(), "run": str(run)}
        if explain is not None:
            from siamese.inference.occlusion import explain_pair, explanation_figure

            figure = explanation_figure(explain_pair(verifier, photos[0], photos[1]), answer)
            with replacing(explain) as temporary:
                figure.savefig(temporary, format=explain.suffix.lstrip(".").lower(), dpi=150)
            log.info("explanation: %s", explain)
        return
    yield from _verify_list(verifier, asked, pairs.parent)


def _verify_list(verifier: Verifier, asked: list[Asked], root: Path) -> Iterator[dict[str, Any]]:
    names = sorted({name for line in asked for name in line[:2]})
    read, unusable = _read_all(verifier, root, names)
    rows = {name: row for row, name in enumerate(read)}
    embeddings = _embed(verifier, list(read.values()))
    usable = [line for line in asked if line.image1 in rows and line.image2 in rows]
    answers = iter(verifier.compare(embeddings, [(rows[line.image1], rows[line.image2]) for line in usable]))
    right: list[bool] = []
    for line in asked:
        told: dict[str, Any] = {"image1": line.image1, "image2": line.image2}
        if line.label is not None:
            told["label"] = line.label
        if problem := unusable.get(line.image1) or unusable.get(line.image2):
            yield {**told, "error": problem}
            continue
        answer: Verification = next(answers)
        if line.label is not None:
            right.append(answer.same == bool(line.label))
        yield told | answer._asdict()
    if right:
        low, high = wilson(sum(right), len(right))
        share = 100 * sum(right) / len(right)
        log.info("right: %.1f %% of %d pairs (95 %%: %.1f - %.1f)", share, len(right), 100 * low, 100 * high)
    if unusable:
        log.warning("%d photos cannot be used", len(unusable))


def embed(run: Path, folder: Path, out: Path) -> None:
    """Embed all photos below a folder into ``out``.

    A ``.csv`` file has a row for each photo: its name, its person (the first folder, if any) and the numbers. A
    ``.npy`` file has the numbers alone, float32 [N, D], and a ``.csv`` file of the same name beside it the names.

    Raises:
        UserError: the run, the folder or the file cannot be used.
    """
    if out.suffix.lower() not in (".npy", ".csv"):
        raise ConfigError(f"{out}: name a file that ends in .npy or .csv")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: no such folder; make {out.parent} first")
    names = find_photos(folder)
    verifier = _load(run)
    read, unusable = _read_all(verifier, folder, names)
    if not read:
        raise DataError(f"{folder}: none of its {len(names)} photos can be used; the first: {min(unusable.values())}")
    embeddings = _embed(verifier, list(read.values()))
    people = [name.partition("/")[0] if "/" in name else "" for name in read]
    rows: list[tuple[object, ...]] = list(zip(read, people, strict=True))
    if out.suffix.lower() == ".csv":
        numbers = [f"z{k}" for k in range(embeddings.shape[1])]
        table = [(*row, *z.tolist()) for row, z in zip(rows, embeddings, strict=True)]
        write_csv_atomically(out, ["image", "person", *numbers], table)
    else:
        write_csv_atomically(out.with_suffix(".csv"), ["image", "person"], rows)
        with replacing(out) as temporary, temporary.open("xb") as file:
            np.save(file, embeddings)
    for problem in unusable.values():
        log.warning("left out: %s", problem)
    log.info("%d photos, %d numbers each: %s", *embeddings.shape, out)


def identify(run: Path, gallery: Path, photo: Path, top: int) -> dict[str, Any]:
    """Who of a gallery is on a photo, the likeliest first, as JSON has it.

    Args:
        run: the folder of a finished run.
        gallery: a folder with a folder of photos for each person, or with a photo of each, named as the person.
        photo: of whom is asked for.
        top: how many people to tell.

    Raises:
        UserError: the run, the gallery or the photo cannot be used.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: give 1 or more")
    if not gallery.is_dir():
        raise DataError(f"{gallery}: no such folder; name one with a folder of photos, or a photo, for each person")
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in gallery.iterdir()):
        people = find_people(gallery, str(gallery))
    else:
        people = {}
        for name in find_photos(gallery):
            people.setdefault(Path(name).stem, []).append(name)
    verifier = _load(run)
    read, unusable = _read_all(verifier, gallery, [name for names in people.values() for name in names])
    for problem in unusable.values():
        log.warning("left out: %s", problem)
    asked = verifier.read(photo)
    if not read:
        raise DataError(f"{gallery}: no photo in it can be used; give one of each person")
    person = {name: who for who, names in people.items() for name in names}
    matches = verifier.rank(_embed(verifier, [asked, *read.values()]), [(person[name], name) for name in read])
    told = [
        {
            "person": match.person, "image": match.photo, "same": match.verification.same,
            "probability": match.verification.probability, "score": match.verification.score,
        }
        for match in matches[:top]
    ]  # fmt: skip
    return {
        "image": str(photo), "threshold": verifier.decision.threshold, "people": len(matches), "matches": told,
        "run": str(run),
    }  # fmt: skip


def read_asked(path: Path) -> list[Asked]:
    """The lines of a list of pairs to ask about.

    Raises:
        DataError: it is missing or malformed; the message names the file and the line.
    """
    asked = []
    for where, row in read_table(path, ("image1", "image2"), "image1,image2 and perhaps label"):
        image1, image2, label = row["image1"], row["image2"], row.get("label") or None
        if not image1 or not image2 or label not in (None, "0", "1"):
            raise DataError(f"{where}: expected two files and a label of 1 (same), 0 (different) or none")
        asked.append(Asked(image1, image2, None if label is None else int(label)))
    return asked


def _check_picture(option: str, file: Path, kinds: tuple[str, ...]) -> None:
    if file.suffix.lower().removeprefix(".") not in kinds:
        raise ConfigError(f"{option} {file}: name a file that ends in .{', .'.join(kinds)}")
    if not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: no such folder; make {file.parent} first")


def _load(run: Path) -> Verifier:
    from siamese.inference.verifier import Verifier

    return Verifier.load(run)


def _read_all(verifier: Verifier, root: Path, names: list[str]) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """The photos as the network takes them, and why others cannot be used."""
    read: dict[str, NDArray[np.uint8]] = {}
    unusable: dict[str, str] = {}
    for name in tqdm(names, desc="reading", unit="image", leave=False, disable=_no_bar()):
        try:
            read[name] = verifier.read(root / name)
        except DataError as error:
            unusable[name] = str(error).removesuffix("; give another photo")
    return read, unusable


def _embed(verifier: Verifier, photos: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The embeddings of what `_read_all` gave, float32 [N, D], with a bar in a terminal."""
    if not photos:
        return verifier.embed([])
    import torch

    parts = []
    with tqdm(desc="embedding", total=len(photos), unit="image", leave=False, disable=_no_bar()) as bar:
        for first in range(0, len(photos), CHUNK):
            part = photos[first : first + CHUNK]
            parts.append(verifier.embed_pixels(torch.from_numpy(np.stack(part))))
            bar.update(len(part))
    return np.concatenate(parts)


def _no_bar() -> bool | None:
    """What tqdm takes to draw a bar in a terminal alone."""
    return None if sys.stderr.isatty() else True


def export(run: Path, folder: Path, kind: str) -> None:
    """Write a run's network for other programs: `siamese.export.export`, errors as there."""
    from siamese.inference.export import export as write

    write(run, folder, kind)


def page(run: Path, port: int) -> None:
    """Show the page of a run on this machine until it is interrupted: `siamese.page.serve`, errors as there."""
    from siamese.inference.web_page import serve

    serve(run, port)


def search(space: str, folder: Path, overrides: list[str], trials: int | None) -> None:
    """Look for the best values of a search space: `siamese.search.search`, errors as there."""
    from siamese.command.search import search as run
    from siamese.runs.signals import catch_signals

    catch_signals()
    run(space, folder, overrides, trials)


def build_report(folder: Path, explain: bool = False) -> Path:
    """Write the page of a run; or of each run below a folder and, with the tables, of all of them together.

    Args:
        folder: of the run or the runs.
        explain: show in the gallery of a run what the answers rest on, which takes its network.

    Returns:
        the page: that of the run, or that of all.

    Raises:
        ConfigError: there is no run.
    """
    if explain:
        from siamese.inference.occlusion import explain_examples

        log.info("%d pairs explained", explain_examples(folder))
    if (folder / "result.json").is_file():
        for fold in folder.glob("fold_*/result.json"):
            write_run_page(fold.parent)
        return write_run_page(folder)
    jobs = read_jobs(folder) if folder.is_dir() else []
    for job in jobs:
        write_run_page(job.folder)
    page = write_sweep_page(folder) if jobs else None
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
        try:
            given[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{option}: the value cannot be read") from None
    if sheet is not None:
        _check_picture("--contact-sheet", sheet, ("png", "jpg", "webp"))
    data = recognise(path, given)
    description = describe(data, progress=sys.stderr.isatty())
    print(json.dumps(dataclasses.asdict(description), indent=2) if as_json else as_text(description))
    if sheet is not None:
        with replacing(sheet) as temporary:
            contact_sheet(data).save(temporary, Image.registered_extensions()[sheet.suffix.lower()])
        print(f"contact sheet: {sheet}", file=sys.stderr)
