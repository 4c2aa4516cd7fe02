"""``siamese embed``: write the embeddings of all photos in a folder."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from siamese.command.photos import (
    check_output,
    embed_in_blocks,
    load_verifier,
    warn_of_several_faces,
    warn_of_unusual,
    with_several_faces,
)
from siamese.data.folder import find_photos
from siamese.errors import ConfigError, DataError
from siamese.files import replacing, write_csv_atomically
from siamese.inference.gallery_files import Embedded, append_rows
from siamese.text import count

log = logging.getLogger(__name__)


def embed(run: Path, folder: Path, out: Path, align: bool = False) -> None:
    """Embed all photos below a folder and write the embeddings to ``out``.

    A ``.csv`` file has one row for each photo: its name, its person (the first folder, if any) and the D numbers of the
    embedding. A ``.npy`` file has only the embeddings, float32 [N, D], and a ``.csv`` file of the same name is written
    beside it with the names and people in the same order. If photos are aligned, the ``.csv`` file also has the number
    of faces on each.

    Raises:
        UserError: the run, the folder or the output file cannot be used.
    """
    check_output("", out, ("npy", "csv"))
    files = dict.fromkeys((out, _table_of(out)))
    _check_earlier(files)
    names = find_photos(folder)
    verifier = load_verifier(run, align)
    unusable: dict[str, str] = {}
    seen = _Seen()
    blocks = seen.through(embed_in_blocks(verifier, folder, names, unusable))
    first = next(blocks, None)
    if first is None:
        raise DataError(f"{folder}: {count(len(names), 'photo')}, none of them usable; {min(unusable.values())}")
    size = first.embeddings.shape[1]
    _write(out, itertools.chain([first], blocks), size, verifier.options.align is not None)
    warn_of_several_faces(seen.several)
    for problem in unusable.values():
        log.warning("excluded: %s", problem)
    subject = f"{seen.unlike} of {count(seen.number, 'photo')} {'is' if seen.unlike == 1 else 'are'}"
    warn_of_unusual(verifier, subject if seen.unlike else "", "their embeddings")
    log.info("%s of %s: %s", count(seen.number, "embedding"), count(size, "dimension"), " and ".join(map(str, files)))


def _table_of(out: Path) -> Path:
    """The ``.csv`` file that is written for ``out``, which may be that file."""
    return out if out.suffix.lower() == ".csv" else out.with_suffix(".csv")


def _check_earlier(files: Iterable[Path]) -> None:
    """Refuse to replace files unless the last one, the table, has the columns that an earlier call wrote."""
    header = ""
    *_, table = files
    with suppress(OSError), table.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(100)
    for existing in filter(Path.exists, files):
        if re.match(r"image,person(,faces)?(,z0,|$)", header) is None:
            raise ConfigError(f"{existing}: exists, and siamese embed did not write it; give another file name")


class _Seen:
    """What to say about all photos after their blocks are gone."""

    def __init__(self) -> None:
        self.number, self.unlike = 0, 0
        self.several: list[str] = []

    def through(self, blocks: Iterator[Embedded]) -> Iterator[Embedded]:
        for block in blocks:
            self.number += len(block.names)
            self.unlike += sum(bool(photo.unusual) for photo in block.photos)
            self.several += with_several_faces(block)
            yield block


def _write(out: Path, blocks: Iterator[Embedded], size: int, aligned: bool) -> None:
    columns = ["image", "person", *(["faces"] if aligned else [])]
    if out == _table_of(out):
        rows = (
            (*row, *z.tolist())
            for block in blocks
            for row, z in zip(_rows(block, aligned), block.embeddings, strict=True)
        )
        write_csv_atomically(out, [*columns, *(f"z{k}" for k in range(size))], rows)
        return
    with replacing(out) as temporary, temporary.open("x+b") as file:
        written = (row for block in append_rows(file, blocks) for row in _rows(block, aligned))
        write_csv_atomically(_table_of(out), columns, written)


def _rows(block: Embedded, aligned: bool) -> Iterator[tuple[Any, ...]]:
    for name, photo in zip(block.names, block.photos, strict=True):
        person = name.partition("/")[0] if "/" in name else ""
        yield (name, person, photo.faces) if aligned else (name, person)
