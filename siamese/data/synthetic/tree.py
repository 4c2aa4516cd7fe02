"""Write the synthetic faces to disk in LFW's layout, so that all other code treats them like LFW.

    python -m siamese.data.synthetic --contact-sheet docs/faces.png

draws the picture of the README: a row for each person, a column for each photo.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from siamese.data.repository import LISTS
from siamese.data.synthetic.faces import render
from siamese.data.synthetic.plan import FOLDS, Plan, SyntheticSpec, make_plan
from siamese.data.synthetic.traits import groups_of, sample_person
from siamese.errors import DataError
from siamese.files import write_csv_atomically

log = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""Raise it if the same parameters give other images or lists."""

IMAGE_FOLDER = "lfw"
MANIFEST = "synthetic.json"
GROUPS = "groups.csv"
"""The groups of each person, for the key ``groups``."""

_TRAITS = 0
"""Random streams have the keys (seed, person, photo): photos from 1 on, 0 for the person's traits."""


def _lines(rows: Iterable[tuple[str | int, ...]]) -> Iterator[str]:
    """Join the fields of each row with tabs."""
    return ("\t".join(map(str, row)) + "\n" for row in rows)


def _write_lists(folder: Path, plan: Plan) -> None:
    """Write the six list files in LFW's format."""

    def write(name: str, rows: Iterable[tuple[str | int, ...]]) -> None:
        (folder / name).write_text("".join(_lines(rows)), encoding="ascii", newline="\n")

    for name, people, (same, different) in (
        ("DevTrain", plan.train, plan.train_pairs),
        ("DevTest", plan.test, plan.test_pairs),
    ):
        write(f"pairs{name}.txt", [(len(same),), *same, *different])
        write(f"people{name}.txt", [(len(people),), *people.items()])
    in_folds = [row for same, different in plan.fold_pairs for row in (*same, *different)]
    write("pairs.txt", [(FOLDS, len(plan.fold_pairs[0][0])), *in_folds])
    by_fold = [row for fold in plan.folds for row in ((len(fold),), *fold.items())]
    write("people.txt", [(FOLDS,), *by_fold])


def _write_groups(folder: Path, spec: SyntheticSpec) -> None:
    """Write `GROUPS`, unless it is there: trees of older versions lack it."""
    if not (folder / GROUPS).is_file():
        names = list(make_plan(spec).people)
        people = [groups_of(sample_person(np.random.default_rng([spec.seed, k, _TRAITS]))) for k in range(len(names))]
        rows = sorted((name, *groups.values()) for name, groups in zip(names, people, strict=True))
        write_csv_atomically(folder / GROUPS, ("person", *people[0]), rows)


def render_share(folder: Path, spec: SyntheticSpec, share: int, shares: int) -> Iterator[Path]:
    """Draw the photos of every `shares`-th person, from the `share`-th on; yields each file that is written."""
    for index, (name, count) in enumerate(make_plan(spec).people.items()):
        if index % shares != share:
            continue
        person = sample_person(np.random.default_rng([spec.seed, index, _TRAITS]))
        (folder / name).mkdir()
        for k in range(1, count + 1):
            rng = np.random.default_rng([spec.seed, index, k])
            path = folder / name / f"{name}_{k:04d}.jpg"
            render(person, rng).save(path, quality=int(rng.integers(60, 96)))
            yield path


def _render_all(folder: Path, spec: SyntheticSpec, photos: int, workers: int, progress: bool) -> None:
    """Draw all photos, in this process or in `workers` others."""
    log.info("drawing synthetic faces: %s photos; later runs reuse them", f"{photos:,}")
    with tqdm(total=photos, desc="drawing faces", unit="photo", disable=not progress) as bar:
        if workers == 1:
            for _ in render_share(folder, spec, 0, 1):
                bar.update()
        else:
            with closing(_render_in_processes(folder, spec, workers)) as drawing:  # stops them if interrupted
                for drawn in drawing:
                    bar.update(drawn)


def _render_in_processes(folder: Path, spec: SyntheticSpec, workers: int) -> Generator[int, None, None]:
    """Draw all photos in other processes; yields how many more are drawn.

    The processes are started by command, not forked or spawned: the caller may have threads or a GPU open, and its main
    module may be slow to import. Each writes one byte per photo to a common pipe.
    """
    package = str(Path(__file__).resolve().parents[3])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "siamese.data.synthetic", "--render", str(folder.resolve())]
    command += ["--spec", json.dumps(asdict(spec)), "--share"]
    reading, writing = os.pipe()
    children: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            try:
                for k in range(workers):
                    share = [*command, f"{k}/{workers}"]
                    children.append(subprocess.Popen(share, stdout=writing, env=environment))
            finally:
                os.close(writing)  # otherwise the pipe never ends
            while drawn := pipe.read(4096):
                yield len(drawn)
        if any(child.wait() for child in children):
            raise RuntimeError("a process that draws faces failed; see its message above")
    finally:
        for child in children:
            child.kill()
            child.wait()


def _manifest(spec: SyntheticSpec) -> dict[str, int]:
    return {"generator_version": GENERATOR_VERSION, **asdict(spec)}


def is_written(root: Path, spec: SyntheticSpec) -> bool:
    """Whether `root` contains the complete data set of `spec`, written by this version of the generator.

    The manifest is proof, because it is written last. The lists and the image folder are checked in case they were
    moved away later.
    """
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    whole = (root / IMAGE_FOLDER).is_dir() and all((root / name).is_file() for name in LISTS)
    return bool(found == _manifest(spec)) and whole


def check_tree(root: Path, spec: SyntheticSpec) -> None:
    """Raise DataError if `root` contains anything but the data set of `spec`, or cannot be read; changes nothing."""
    try:
        taken = root.exists() and not is_written(root, spec) and (not root.is_dir() or any(root.iterdir()))
    except OSError as error:
        raise DataError(f"{root}: cannot be read ({error}); set data.root to another folder") from error
    if taken:
        raise DataError(
            f"{root}: contains something other than these synthetic faces (other settings or other files); "
            "delete it, or set data.root to another folder"
        )


def write_lfw_tree(root: Path, spec: SyntheticSpec, *, workers: int | None = None, progress: bool = False) -> None:
    """Write the data set of `spec` to `root` in LFW's layout; returns at once if it is already there.

    The tree is written next to `root` and renamed, so `root` is complete or absent. If several processes call this
    function, one writes and the others wait.

    Args:
        root: folder of the data set.
        spec: content of the data set.
        workers: number of processes that draw; None: one per core, at most eight. The files do not depend on it.
        progress: show a progress bar.

    Raises:
        DataError: `root` contains anything else, or cannot be written.
    """
    if is_written(root, spec):
        with suppress(OSError):  # an older tree that cannot be written to is complete without its groups
            _write_groups(root, spec)
        return
    target = root.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            check_tree(root, spec)
            if not is_written(target, spec):
                _write_tree(target, spec, workers, progress)
    except OSError as error:
        raise DataError(
            f"{root}: cannot write the synthetic faces ({error}); set data.root to another folder"
        ) from error


def _write_tree(target: Path, spec: SyntheticSpec, workers: int | None, progress: bool) -> None:
    """Write the tree beside `target` and rename it; the caller holds the lock."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
        plan = make_plan(spec)
        (unfinished / IMAGE_FOLDER).mkdir(parents=True)
        photos = sum(plan.people.values())
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        # Starting a process takes about as long as drawing twenty photos.
        most = min(8, cores, max(1, photos // 60)) if workers is None else workers
        _render_all(unfinished / IMAGE_FOLDER, spec, photos, max(1, most), progress)
        _write_lists(unfinished, plan)
        _write_groups(unfinished, spec)
        text = json.dumps(_manifest(spec), indent=2) + "\n"
        (unfinished / MANIFEST).write_text(text, encoding="utf-8")
        unfinished.replace(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def contact_sheet(seed: int = 3, people: int = 6, photos: int = 8, side: int = 110) -> Image.Image:
    """Draw an RGB image with a row for each person and a column for each photo, `side` pixels each."""
    gap = 4
    sheet = Image.new("RGB", (photos * (side + gap) + gap, people * (side + gap) + gap), (255, 255, 255))
    for row in range(people):
        person = sample_person(np.random.default_rng([seed, row, _TRAITS]))
        for column in range(photos):
            photo = render(person, np.random.default_rng([seed, row, column + 1]))
            photo = photo.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(photo, (gap + column * (side + gap), gap + row * (side + gap)))
    return sheet
