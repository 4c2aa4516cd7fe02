"""A data set of rendered faces, written to disk exactly as LFW unpacks, so that all later code is the same.

    python -m siamese.data.synthetic --contact-sheet docs/faces.png

draws the picture of the README: a row for each person, a column for each photo.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from siamese.data.synthetic.faces import render, sample_person
from siamese.errors import ConfigError, DataError

GENERATOR_VERSION = 1  # raise it whenever the same parameters give other pictures or other lists
FOLDS = 10
IMAGE_FOLDER = "lfw"
MANIFEST = "synthetic.json"
LISTS = (
    "pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt",
    "people.txt", "peopleDevTrain.txt", "peopleDevTest.txt",
)  # fmt: skip

# Keys of the random streams: (seed, person, photo) with photos from 1 on, 0 for the person's traits, and
# (seed, _LISTS) for names, numbers of photos and pairs.
_TRAITS, _LISTS = 0, 2**31
_PHOTO_COUNTS, _PHOTO_SHARES = (2, 3, 4, 5, 6), (0.35, 0.3, 0.2, 0.1, 0.05)

_FIRST_NAMES = (
    "Ada Alma Anton Arno Aylin Bela Bruno Carla Cem Chloe Dario Demi Edda Eino Elif Emil Enzo Esra Fabio Femi "
    "Finn Flora Gita Goran Greta Hana Hugo Ida Igor Ines Ivo Jana Joao Jonas Jun Kaia Kenji Kofi Lara Leon Lina "
    "Luca Maja Malik Mara Mateo Mila Nadia Nils Noor Olga Omar Otto Paula Pia Quinn Rafa Rhea Rosa Samir Selma "
    "Sven Tara Teo Thea Umar Vera Viktor Wanda Xenia Yara Yusuf Zeno Zoe"
)
_LAST_NAMES = (
    "Abel Adler Akin Alder Baran Becker Bello Berg Bianco Blum Braga Castell Cedar Corvin Dahl Demir Dorn "
    "Duarte Eklund Ender Falk Farrow Ferro Fonte Garnet Glade Haas Hale Halden Ibsen Ilves Jansa Juno Kaplan "
    "Keller Kimura Kline Lago Lenz Lindgren Lopes Maro Meridian Mori Nagel Nakata Norden Okoro Olsen Orel "
    "Palmer Pavic Quist Rask Reyes Rowan Sabo Santoro Sato Stark Tamm Tanaka Teller Toivo Ueda Ulrich Varga "
    "Vidal Wahl Weber Yilmaz Young Zeman Zhou"
)
_FIRST, _LAST = _FIRST_NAMES.split(), _LAST_NAMES.split()

SamePair: TypeAlias = tuple[str, int, int]
DifferentPair: TypeAlias = tuple[str, int, str, int]
People: TypeAlias = dict[str, int]  # name -> number of photos, which are numbered from 1


@dataclass(frozen=True)
class SyntheticSpec:
    """All that decides the data set's content.

    Pairs are counted with both kinds together, half of each; `view2_pairs` over all ten folds.
    Raises ConfigError, naming the key, when the numbers cannot be met.
    """

    train_people: int = 240
    test_people: int = 160
    train_pairs: int = 800
    test_pairs: int = 400
    view2_pairs: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for key, step in (("train_pairs", 2), ("test_pairs", 2), ("view2_pairs", 2 * FOLDS)):
            value = getattr(self, key)
            if value < step or value % step:
                raise ConfigError(f"{key}={value}: must be a positive multiple of {step}")
        for key in ("train_people", "test_people"):
            if getattr(self, key) < 2:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 2")
        people, most = self.train_people + self.test_people, len(_FIRST) * len(_LAST)
        if not 2 * FOLDS <= people <= most:
            raise ConfigError(
                f"train_people + test_people = {people}: must be from {2 * FOLDS} (two in each fold) to {most}"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must not be negative")


@dataclass(frozen=True)
class _Plan:
    """Who is in the data set and which pairs are asked: everything but the pixels."""

    people: People  # in the order of their random streams
    train: People
    test: People
    folds: list[People]
    train_pairs: tuple[list[SamePair], list[DifferentPair]]
    test_pairs: tuple[list[SamePair], list[DifferentPair]]
    fold_pairs: list[tuple[list[SamePair], list[DifferentPair]]]


def _has_room(counts: Iterable[int], pairs: int) -> bool:
    """Whether people with so many photos each give `pairs` same pairs, and different ones without long search."""
    n = np.array(list(counts))
    return bool((n * (n - 1) // 2).sum() >= pairs and (n.sum() ** 2 - (n**2).sum()) // 2 >= 2 * pairs)


def _same_pairs(people: People, number: int, rng: np.random.Generator) -> list[SamePair]:
    """Same pairs spread over the people, and for each person over the photos least used so far."""
    pools = {name: list(combinations(range(1, count + 1), 2)) for name, count in people.items()}
    used: Counter[tuple[str, int]] = Counter()
    pairs: list[SamePair] = []
    while len(pairs) < number:
        for k in rng.permutation(len(people)):
            name = list(people)[k]
            if pools[name] and len(pairs) < number:
                i, j = min(pools[name], key=lambda pair: used[name, pair[0]] + used[name, pair[1]])
                pools[name].remove((i, j))
                used.update([(name, i), (name, j)])
                pairs.append((name, i, j))
    return sorted(pairs)


def _different_pairs(people: People, number: int, rng: np.random.Generator) -> list[DifferentPair]:
    """Different pairs dealt from shuffled decks of all photos, so that each photo is used about as often."""
    photos = [(name, k) for name, count in people.items() for k in range(1, count + 1)]
    found: set[DifferentPair] = set()
    while len(found) < number:
        deck = [photos[k] for k in rng.permutation(len(photos))]
        for first, second in zip(deck[::2], deck[1::2], strict=False):
            a, b = sorted([first, second])
            if a[0] != b[0] and len(found) < number:
                found.add((*a, *b))
    return sorted(found)


def _plan(spec: SyntheticSpec) -> _Plan:
    """Names, numbers of photos, subsets and pairs for a specification."""
    rng = np.random.default_rng([spec.seed, _LISTS])
    total = spec.train_people + spec.test_people
    picks = rng.choice(len(_FIRST) * len(_LAST), size=total, replace=False)
    names = [f"{_FIRST[k % len(_FIRST)]}_{_LAST[k // len(_FIRST)]}" for k in picks]
    counts = rng.choice(_PHOTO_COUNTS, size=total, p=_PHOTO_SHARES)
    fold_of = rng.permutation(np.arange(total) % FOLDS)
    is_train = np.arange(total) < spec.train_people
    groups = [(is_train, spec.train_pairs // 2), (~is_train, spec.test_pairs // 2)]
    groups += [(fold_of == fold, spec.view2_pairs // 2 // FOLDS) for fold in range(FOLDS)]
    for members, pairs in groups:
        while not _has_room(counts[members], pairs):
            counts[np.flatnonzero(members)[counts[members].argmin()]] += 1
    subsets: list[People] = []
    asked = []
    for members, pairs in groups:
        subset = {names[k]: int(counts[k]) for k in np.flatnonzero(members)}
        subsets.append(dict(sorted(subset.items())))
        asked.append((_same_pairs(subsets[-1], pairs, rng), _different_pairs(subsets[-1], pairs, rng)))
    people = dict(zip(names, counts.tolist(), strict=True))
    return _Plan(people, subsets[0], subsets[1], subsets[2:], asked[0], asked[1], asked[2:])


def _lines(rows: Iterable[tuple[str | int, ...]]) -> Iterator[str]:
    """Rows of fields as lines with tabs between the fields."""
    return ("\t".join(map(str, row)) + "\n" for row in rows)


def _write_lists(folder: Path, plan: _Plan) -> None:
    """The six list files in LFW's format."""

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


def render_share(folder: Path, spec: SyntheticSpec, share: int, shares: int) -> Iterator[Path]:
    """Writes the photos of every `shares`-th person from the `share`-th on; yields each file when it is there."""
    for index, (name, count) in enumerate(_plan(spec).people.items()):
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
    """Renders in this process, or in `workers` others.

    The others are started by command, not forked or spawned: the caller may have threads or a GPU open, and its
    main module may be slow to import again. Each writes one byte per photo into a pipe they share.
    """
    with tqdm(total=photos, desc="drawing faces", unit="photo", disable=not progress) as bar:
        if workers == 1:
            for _ in render_share(folder, spec, 0, 1):
                bar.update()
            return
        package = str(Path(__file__).resolve().parents[2])
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
                    os.close(writing)  # else the pipe would never end
                while drawn := pipe.read(4096):
                    bar.update(len(drawn))
            if any(child.wait() for child in children):
                raise RuntimeError("a process that draws faces has failed; its message stands above")
        finally:
            for child in children:
                child.kill()
                child.wait()


def _manifest(spec: SyntheticSpec) -> dict[str, int]:
    return {"generator_version": GENERATOR_VERSION, **asdict(spec)}


def is_written(root: Path, spec: SyntheticSpec) -> bool:
    """Whether `root` holds the complete data set of `spec`, written by this version of the generator.

    The manifest says so, since it only comes into being with the whole tree; the lists and the folder of photos
    are looked for as well, in case somebody moved them.
    """
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    whole = (root / IMAGE_FOLDER).is_dir() and all((root / name).is_file() for name in LISTS)
    return bool(found == _manifest(spec)) and whole


def write_lfw_tree(root: Path, spec: SyntheticSpec, *, workers: int | None = None, progress: bool = False) -> None:
    """Writes the data set of `spec` to `root` as LFW unpacks; returns at once when it is already there.

    `workers` processes draw (default: one per core, eight at most); the files' bytes do not depend on it. The tree
    is written next to `root` and renamed, so `root` is complete or absent; processes that come at the same time
    wait for one another. Raises DataError when `root` holds anything else, or cannot be written.
    """
    if is_written(root, spec):
        return
    target = root.absolute()
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if is_written(target, spec):
                return
            if target.exists() and (not target.is_dir() or any(target.iterdir())):
                raise DataError(
                    f"{root}: holds something else than these synthetic faces (other settings, or other files); "
                    "delete it or set data.root to another folder"
                )
            try:
                shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
                plan = _plan(spec)
                (unfinished / IMAGE_FOLDER).mkdir(parents=True)
                photos = sum(plan.people.values())
                cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
                # A process takes about as long to start as twenty photos to draw.
                most = min(8, cores, max(1, photos // 60)) if workers is None else workers
                _render_all(unfinished / IMAGE_FOLDER, spec, photos, max(1, most), progress)
                _write_lists(unfinished, plan)
                text = json.dumps(_manifest(spec), indent=2) + "\n"
                (unfinished / MANIFEST).write_text(text, encoding="utf-8")
                unfinished.replace(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{root}: cannot write the synthetic faces here ({error}); set data.root elsewhere") from error


def contact_sheet(seed: int = 3, people: int = 6, photos: int = 8, side: int = 110) -> Image.Image:
    """A picture with a row for each person and a column for each photo, `side` pixels each, RGB."""
    gap = 4
    sheet = Image.new("RGB", (photos * (side + gap) + gap, people * (side + gap) + gap), (255, 255, 255))
    for row in range(people):
        person = sample_person(np.random.default_rng([seed, row, _TRAITS]))
        for column in range(photos):
            photo = render(person, np.random.default_rng([seed, row, column + 1]))
            photo = photo.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(photo, (gap + column * (side + gap), gap + row * (side + gap)))
    return sheet
