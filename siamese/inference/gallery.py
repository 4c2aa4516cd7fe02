"""A gallery: embedded photos of known people, in memory or in a folder that ``siamese index`` wrote.

    from siamese import Verifier
    from siamese.inference.gallery import Gallery
    verifier = Verifier.load("outputs/DATE/TIME")
    gallery = Gallery.load("gallery.index", verifier)
    gallery.identify(verifier, ["photo.jpg"])

Shapes: N photos of the gallery, P people, Q photos to identify, D embedding dimensions.
"""

from __future__ import annotations

import json
import logging
import zipfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from siamese.errors import ConfigError, DataError, MissingPackageError, reason_of
from siamese.inference.gallery_files import (
    EMBEDDINGS,
    FACTS,
    FORMAT,
    INDEX,
    PHOTOS,
    Embedded,
    append_rows,
    folder_times,
    identity,
    read_facts,
    stamp_of,
)
from siamese.text import count, shell_words

if TYPE_CHECKING:
    from siamese.data.images import Prepared
    from siamese.inference.verifier import Described, Match, Photo, Verifier

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 25
"""Size of the embeddings that are read at once."""

TOGETHER = 16
"""Photos to identify in one pass over the gallery."""

SPARE = 20
"""People beyond the number asked for whose scores are computed exactly: products in float32 may swap neighbours."""

CANDIDATES = 1000
"""Least photos that an index proposes. The head of the run scores them all."""

COPIED = 4096
"""Photos that are copied at once from an earlier gallery, or whose vectors for the index are computed at once."""

LEAST_INDEXED = 10_000
"""Photos from which an index is built."""

PROBED = 4
"""An index searches one cell in this many."""

MEASURED = 200
"""Photos of the gallery with which the recall of an index is measured."""

LEAST_RECALL = 0.95
"""Recall@1 below which an index is not used: its vectors then do not order photos as the scores of the run do."""


class Found(NamedTuple):
    """The answer for a photo to identify.

    Attributes:
        matches: the most likely people, the most likely first.
        people: number of people in the gallery, not counting people whose only photos are copies of the photo.
        reached: number of people who reach the threshold; with an index, of those that it found.
        copies: names of the photos in the gallery that are the same image as the photo.
        changed: names of the photos in ``matches`` that were changed or removed since they were embedded.
    """

    matches: list[Match]
    people: int
    reached: int
    copies: list[str]
    changed: list[str]


class Gallery:
    """Embedded photos of known people.

    Attributes:
        embeddings: float32 [N, D], in memory or mapped from a file.
        columns: arrays of N entries: ``name`` (bytes), ``person`` (a row of ``people``), ``digest`` (uint64 [N, 2]),
            ``unusual`` (1 or 0; -1: unknown), ``faces`` (-1: not aligned) and ``terms`` (float32 [N, T]; see
            `siamese.scoring.search`); and ``people``, their names (bytes [P]).
        facts: what ``gallery.json`` says.
        index: an approximate index of the library faiss; None: photos are compared with the whole gallery.
    """

    def __init__(
        self, embeddings: NDArray[np.float32], columns: Mapping[str, NDArray[Any]], facts: dict[str, Any] | None = None,
        index: Any = None,
    ) -> None:  # fmt: skip
        self.embeddings = embeddings
        self.columns = columns
        self.facts = facts or {}
        self.index = index

    def __len__(self) -> int:
        return len(self.embeddings)

    def name(self, row: SupportsIndex) -> str:
        """The name of a photo, relative to the folder of the photos."""
        return str(self.columns["name"][row], "utf-8")

    def person(self, row: SupportsIndex) -> str:
        """The name of the person on a photo."""
        return str(self.columns["people"][self.columns["person"][row]], "utf-8")

    @classmethod
    def of(cls, verifier: Verifier, blocks: Iterable[Embedded], person_of: Mapping[str, str]) -> Gallery:
        """Return a gallery in memory.

        Args:
            verifier: the network that embedded the photos.
            blocks: the photos.
            person_of: person on each photo, by name.
        """
        parts: list[NDArray[np.float32]] = [verifier.embed_prepared([])]
        columns = Columns(verifier, person_of)
        for block in blocks:
            parts.append(block.embeddings)
            columns.add(block)
        return cls(np.concatenate(parts), columns.arrays())

    @classmethod
    def load(cls, folder: str | Path, verifier: Verifier, exact: bool = False) -> Gallery:
        """Open a gallery that ``siamese index`` wrote; the embeddings stay on disk.

        Args:
            folder: the gallery's folder.
            verifier: the network that embedded its photos.
            exact: compare with the whole gallery even if it has an approximate index.

        Raises:
            ConfigError: another run, or the same with other preprocessing, embedded the photos; or the gallery has an
                index and faiss is not installed.
            DataError: a file is missing or damaged.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        if facts["run"] != identity(verifier):
            words = ["python", "-m", "siamese", "index", str(verifier.run), facts["photos"], str(folder)]
            again = shell_words([*words, *(["--align"] if verifier.options.align else [])])
            if Path(facts["named"]).resolve() == verifier.run.resolve() and facts["align"] != verifier.options.align:
                remedy = "written with --align; give" if facts["align"] else "written without --align; leave out"
                raise ConfigError(f"{folder}: {remedy} --align here too, or write the gallery again: {again}")
            raise ConfigError(
                f"{folder}: {facts['named']} embedded these photos, not {verifier.run} with its present weights and "
                f"preprocessing; write the gallery again: {again}"
            )
        try:
            embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r")
            with np.load(folder / PHOTOS, allow_pickle=False) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
            index = None if exact or "recall" not in facts else _read_index(folder / INDEX, len(embeddings))
            if len({len(embeddings), *(len(columns[name]) for name in columns.keys() - {"people"})}) != 1:
                raise ValueError("its files have different lengths")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{folder}: is damaged ({reason_of(error)}); write it again with siamese index") from None
        return cls(embeddings, columns, facts, index)

    def identify(
        self, verifier: Verifier, photos: Sequence[Photo], top: int = 5, keep_identical: bool = False
    ) -> list[Found]:
        """Rank the people of the gallery for each photo, as `Verifier.identify`.

        Args:
            verifier: the network that embedded the gallery.
            photos: the photos to identify.
            top: number of people to return.
            keep_identical: compare the photos also with copies of themselves.
        """
        return self.search(verifier, [verifier.prepare(photo) for photo in photos], top, keep_identical)

    def search(self, verifier: Verifier, asked: Sequence[Prepared], top: int, keep_identical: bool) -> list[Found]:
        """Do what `identify` does with photos of `Verifier.prepare`."""
        found = []
        for first in range(0, len(asked), TOGETHER):
            some = asked[first : first + TOGETHER]
            # One by one: rounding must not depend on the photos beside it.
            z_QD = np.concatenate([verifier.embed_prepared([photo]) for photo in some])
            for photo, z_D, candidates in zip(some, z_QD, self._candidates(verifier, z_QD, top), strict=True):
                found.append(self._rank(verifier, verifier.describe(photo), z_D, *candidates, top, keep_identical))
        return found

    def scores(self, verifier: Verifier, z_QD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score photos [Q, D] against the whole gallery, up to rounding -> float32 [Q, N]."""
        import torch

        from siamese.scoring.search import prepare_queries, score_queries

        queries = prepare_queries(verifier.network.head, torch.from_numpy(z_QD).to(verifier.device))
        scores_QN = np.empty((len(z_QD), len(self)), np.float32)
        for rows, z_BD in self.blocks():
            z, terms = (torch.from_numpy(one).to(verifier.device) for one in (z_BD, self.columns["terms"][rows]))
            scores_QN[:, rows] = score_queries(verifier.network.head, queries, z, terms).T.cpu().numpy()
        return scores_QN

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the embeddings in blocks, with their rows; a file is read, not mapped, so that memory stays small."""
        size = self.embeddings.shape[1]
        step = max(1, BLOCK_BYTES // (4 * size))
        for first in range(0, len(self), step):
            rows = slice(first, min(len(self), first + step))
            if isinstance(self.embeddings, np.memmap):
                values, start = (rows.stop - first) * size, self.embeddings.offset + 4 * size * first
                yield (
                    rows,
                    np.fromfile(str(self.embeddings.filename), np.float32, values, offset=start).reshape(-1, size),
                )
            else:
                yield rows, self.embeddings[rows]

    def unchanged(self, stamps: Mapping[str, tuple[int, int]]) -> NDArray[np.int64]:
        """Rows of the photos that still have their size and modification time, given those of now by name."""
        now = (stamps.get(self.name(row), (-1, -1)) for row in range(len(self)))
        equal = [tuple(stamp) == one for stamp, one in zip(self.columns["stamp"].tolist(), now, strict=True)]
        return np.flatnonzero(np.array(equal, bool))

    def as_blocks(self, rows: NDArray[np.int64]) -> Iterator[Embedded]:
        """Yield photos of the gallery as blocks of another one."""
        for first in range(0, len(rows), COPIED):
            some = rows[first : first + COPIED]
            yield Embedded([self.name(row) for row in some], [*map(self._described, some)], self.rows(some))

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings of some photos, read from the file, if it is one, as by `blocks`."""
        if not isinstance(self.embeddings, np.memmap):
            return self.embeddings[rows]
        found = np.empty((len(rows), self.embeddings.shape[1]), np.float32)
        with open(str(self.embeddings.filename), "rb", buffering=0) as file:  # noqa: PTH123 - a name or a path
            for row, z_D in zip(rows.tolist(), found, strict=True):
                file.seek(self.embeddings.offset + row * z_D.nbytes)
                file.readinto(z_D.data)
        return found

    def _candidates(
        self, verifier: Verifier, z_QD: NDArray[np.float32], top: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield rows of the gallery to choose from, and their scores, for each photo."""
        if self.index is None:
            rows = np.arange(len(self))
            yield from ((rows, scores_N) for scores_N in self.scores(verifier, z_QD))
            return
        for z_D, rows in zip(z_QD, self.nearest(verifier, z_QD, max(CANDIDATES, 10 * top)), strict=True):
            rows = np.unique(rows[rows >= 0])
            yield rows, self._only(rows).scores(verifier, z_D[None])[0]

    def nearest(self, verifier: Verifier, z_QD: NDArray[np.float32], number: int) -> NDArray[np.int64]:
        """Rows that the index finds for photos [Q, D] -> int64 [Q, number]; -1 where there are fewer."""
        rows_QK: NDArray[np.int64] = self.index.search(self._vectors(verifier, z_QD, queries=True), number)[1]
        return rows_QK

    def build_index(self, verifier: Verifier, file: Path) -> None:
        """Build an approximate index and measure its recall; it is written only if the recall suffices.

        The index is an inverted file of product codes (Jegou, Douze and Schmid 2011) with 2 bits per dimension.
        ``recall`` of the facts has recall@1 and recall@10: the share of the 1 and 10 most similar photos of the gallery
        that are among the candidates, for photos of the gallery itself.
        """
        if len(self) < LEAST_INDEXED:
            log.info(
                "no approximate index: comparing with the whole gallery is as fast for %s", count(len(self), "photo")
            )
            return
        faiss = import_faiss()
        cells = round(2 * len(self) ** 0.5)
        sample = np.unique(np.linspace(0, len(self) - 1, min(len(self), 50 * cells)).astype(np.int64))
        vectors = self._vectors(verifier, self.rows(sample))
        index = faiss.index_factory(vectors.shape[1], f"IVF{cells},PQ{vectors.shape[1] // 2}x4fs")
        index.nprobe = max(1, cells // PROBED)
        index.train(vectors)
        for _, z_BD in self.blocks():
            index.add(self._vectors(verifier, z_BD))
        self.index = index
        recall = self.measure_recall(verifier)
        if recall["1"] < LEAST_RECALL:
            self.index = None
            log.warning(
                "no approximate index: it would miss %.1f %% of the most similar photos, since its order is not "
                "that of this run's scores; photos are compared with the whole gallery", 100 - 100 * recall["1"],
            )  # fmt: skip
            return
        self.facts["recall"] = recall
        faiss.write_index(index, str(file))

    def measure_recall(self, verifier: Verifier) -> dict[str, float]:
        """Recall@1 and recall@10 of the index, as `build_index` describes them."""
        asked = np.unique(np.linspace(0, len(self) - 1, min(len(self), MEASURED)).astype(np.int64))
        hits, possible = {1: 0, 10: 0}, {1: 0, 10: 0}
        for some in np.array_split(asked, -(-len(asked) // TOGETHER)):
            z_QD = self.rows(some)
            nearest = self.nearest(verifier, z_QD, min(CANDIDATES, len(self)))
            for row, scores_N, found in zip(some, self.scores(verifier, z_QD), nearest, strict=True):
                scores_N[row] = -np.inf
                for most in hits:
                    best = np.argpartition(-scores_N, most)[:most] if most < len(self) else np.arange(len(self))
                    hits[most] += int(np.isin(best, found).sum())
                    possible[most] += len(best)
        return {str(most): hits[most] / possible[most] for most in hits}

    def _vectors(self, verifier: Verifier, z_BD: NDArray[np.float32], queries: bool = False) -> NDArray[np.float32]:
        import torch

        from siamese.scoring.search import index_vectors

        blocks = (block.to(verifier.device) for block in torch.from_numpy(z_BD).split(COPIED))
        vectors = np.concatenate([index_vectors(verifier.network.head, z, queries).cpu().numpy() for z in blocks])
        return np.pad(vectors, ((0, 0), (0, vectors.shape[1] % 2)))  # a code is for two dimensions

    def _only(self, rows: NDArray[np.int64]) -> Gallery:
        return Gallery(self.rows(rows), {"terms": self.columns["terms"][rows]})

    def _rank(
        self, verifier: Verifier, asked: Described, z_D: NDArray[np.float32], rows: NDArray[np.int64],
        scores: NDArray[np.float32], top: int, keep_identical: bool,
    ) -> Found:  # fmt: skip
        from siamese.inference.verifier import Match

        copies = np.flatnonzero((self.columns["digest"] == np.frombuffer(asked.digest, np.uint64)).all(1))
        people = len(self.columns["people"])
        if not keep_identical and len(copies):
            kept = ~np.isin(rows, copies)
            rows, scores = rows[kept], scores[kept]
            gone = np.unique(self.columns["person"][copies])
            left = np.delete(self.columns["person"], copies)
            people -= len(gone) - np.isin(gone, left).sum()
        same = verifier.decision.predict(scores)
        best = rows[best_of_each(self.columns["person"][rows], scores, top + SPARE)]
        photos = [asked, *map(self._described, best)]
        embeddings = np.concatenate([z_D[None], self.rows(best)])
        answers = verifier.compare(embeddings, [(0, k + 1) for k in range(len(best))], photos)
        matches = [Match(self.person(row), self.name(row), answer) for row, answer in zip(best, answers, strict=True)]
        order = sorted(range(len(best)), key=lambda k: -matches[k].verification.score)[:top]
        return Found(
            [matches[k] for k in order], int(people), len(np.unique(self.columns["person"][rows[same]])),
            [self.name(row) for row in copies], self._changed(best[order]),
        )  # fmt: skip

    def _changed(self, rows: NDArray[np.int64]) -> list[str]:
        if "stamp" not in self.columns:
            return []
        photos = Path(self.facts["photos"])
        return [
            self.name(row) for row in rows
            if photos.is_dir() and stamp_of(photos / self.name(row)) != tuple(self.columns["stamp"][row])
        ]  # fmt: skip

    def _described(self, row: SupportsIndex) -> Described:
        from siamese.inference.verifier import Described

        digest, unusual, faces = (self.columns[name][row] for name in ("digest", "unusual", "faces"))
        known = None if unusual < 0 else bool(unusual)
        return Described(digest.tobytes(), known, *((int(faces), 1) if faces >= 0 else ()))


def _read_index(file: Path, photos: int) -> Any:
    try:
        faiss = import_faiss()
    except MissingPackageError as error:
        raise ConfigError(f"{error}; to compare with the whole gallery: --exact") from None
    try:
        index = faiss.read_index(str(file))
    except (RuntimeError, MemoryError):  # MemoryError: a damaged length
        raise ValueError(f"{file.name} cannot be read") from None
    if index.ntotal != photos:
        raise ValueError(f"{file.name} is of {count(index.ntotal, 'photo')}, not {photos:,}")
    return index


def best_of_each(person_N: NDArray[np.integer], scores_N: NDArray[np.floating], number: int) -> NDArray[np.int64]:
    """Rows of the highest score of each person, for the people with the highest ones, the highest first.

    Args:
        person_N: number of the person of each row.
        scores_N: their scores; of equal ones, the first row counts.
        number: most people returned.
    """
    wanted = 4 * number
    while True:
        if wanted < len(scores_N):
            least = np.partition(scores_N, -wanted)[-wanted]
            rows = np.flatnonzero(scores_N >= least)
        else:
            rows = np.arange(len(scores_N))
        rows = rows[np.argsort(-scores_N[rows], kind="stable")]
        first = np.sort(np.unique(person_N[rows], return_index=True)[1])
        if len(first) >= number or len(rows) == len(scores_N):
            best: NDArray[np.int64] = rows[first[:number]]
            return best
        wanted *= 8


class Columns:
    """Collects the columns of a `Gallery` from its blocks.

    Args:
        verifier: the network that embeds the photos.
        person_of: person on each photo, by name.
    """

    def __init__(self, verifier: Verifier, person_of: Mapping[str, str]) -> None:
        self.verifier = verifier
        self.person_of = person_of
        self.names: list[bytes] = []
        self.people: dict[str, int] = {}
        self.person, self.unusual, self.faces = array("i"), array("b"), array("i")
        self.digests = bytearray()
        self.terms: list[NDArray[np.float32]] = []

    def add(self, block: Embedded) -> None:
        """Add a block of photos."""
        import torch

        from siamese.scoring.search import image_terms

        for name, photo in zip(block.names, block.photos, strict=True):
            self.names.append(name.encode())
            self.person.append(self.people.setdefault(self.person_of[name], len(self.people)))
            self.digests += photo.digest
            self.unusual.append(-1 if photo.unusual is None else photo.unusual)
            self.faces.append(-1 if photo.faces is None else photo.faces)
        z_BD = torch.from_numpy(block.embeddings).to(self.verifier.device)
        self.terms.append(image_terms(self.verifier.network.head, z_BD).cpu().numpy())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the columns."""
        return {
            "name": np.array(self.names, bytes), "person": np.array(self.person, np.int32),
            "people": np.array([person.encode() for person in self.people], bytes),
            "digest": np.frombuffer(bytes(self.digests), np.uint64).reshape(-1, 2),
            "unusual": np.array(self.unusual, np.int8), "faces": np.array(self.faces, np.int32),
            "terms": np.concatenate(self.terms) if self.terms else np.empty((0, 0), np.float32),
        }  # fmt: skip


def write_gallery(
    folder: Path, verifier: Verifier, photos: Path, blocks: Iterable[Embedded], person_of: Mapping[str, str],
    stamps: Mapping[str, tuple[int, int]], approximate: bool,
) -> Gallery:  # fmt: skip
    """Write a gallery into an empty folder.

    Args:
        folder: the folder.
        verifier: the network that embedded the photos.
        photos: their folder.
        blocks: the photos.
        person_of: person on each photo, by name.
        stamps: size and modification time of each photo, by name.
        approximate: also build an index.

    Raises:
        ConfigError: faiss is not installed.
        DataError: no photo can be used.
    """
    columns = Columns(verifier, person_of)
    with (folder / EMBEDDINGS).open("xb") as file:
        for block in append_rows(file, blocks):
            columns.add(block)
    if not columns.names:
        raise DataError(f"{photos}: no photo in it can be used; give at least one of each person")
    arrays = columns.arrays()
    stamp = np.array([stamps[name.decode()] for name in columns.names], np.int64)
    with (folder / PHOTOS).open("xb") as file:
        np.savez(file, allow_pickle=False, **arrays, stamp=stamp)
    facts = {
        "format": FORMAT, "run": identity(verifier), "named": str(verifier.run), "align": verifier.options.align,
        "photos": str(photos.resolve()), "folders": folder_times(photos, person_of),
    }  # fmt: skip
    gallery = Gallery(np.load(folder / EMBEDDINGS, mmap_mode="r"), {**arrays, "stamp": stamp}, facts)
    if approximate:
        gallery.build_index(verifier, folder / INDEX)
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return gallery


def import_faiss() -> Any:
    """Import faiss, which takes a tenth of a second.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise MissingPackageError("an approximate index", "faiss-cpu", "index") from None
    return faiss
