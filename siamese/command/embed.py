"""``siamese embed``: write the embeddings of all photos in a folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese.command.photos import (
    check_output,
    embed_photos,
    load_verifier,
    read_photos,
    warn_of_several_faces,
    warn_of_unusual,
)
from siamese.data.folder import find_photos
from siamese.errors import DataError
from siamese.files import replacing, write_csv_atomically
from siamese.text import count

if TYPE_CHECKING:
    from siamese.data.images import Prepared

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
    names = find_photos(folder)
    verifier = load_verifier(run, align)
    read, unusable = read_photos(verifier, folder, names)
    if not read:
        raise DataError(f"{folder}: {count(len(names), 'photo')}, none of them usable; {min(unusable.values())}")
    embeddings = embed_photos(verifier, list(read.values()))
    _write(out, read, embeddings)
    warn_of_several_faces(read)
    for problem in unusable.values():
        log.warning("excluded: %s", problem)
    unlike = sum(map(bool, verifier.unusual(photo.pixels for photo in read.values())))
    subject = f"{unlike} of {count(len(read), 'photo')} {'is' if unlike == 1 else 'are'}"
    warn_of_unusual(verifier, subject if unlike else "", "their embeddings")
    number, size = embeddings.shape
    log.info("%s of %s: %s", count(number, "embedding"), count(size, "dimension"), out)


def _write(out: Path, photos: dict[str, Prepared], embeddings: NDArray[np.float32]) -> None:
    columns = ["image", "person"]
    rows: list[tuple[Any, ...]] = [(name, name.partition("/")[0] if "/" in name else "") for name in photos]
    if all(photo.faces is not None for photo in photos.values()):
        columns.append("faces")
        rows = [(*row, photo.faces) for row, photo in zip(rows, photos.values(), strict=True)]
    if out.suffix.lower() == ".csv":
        columns += [f"z{k}" for k in range(embeddings.shape[1])]
        write_csv_atomically(out, columns, ((*row, *z.tolist()) for row, z in zip(rows, embeddings, strict=True)))
    else:
        write_csv_atomically(out.with_suffix(".csv"), columns, rows)
        with replacing(out) as temporary, temporary.open("xb") as file:
            np.save(file, embeddings)
