"""The files of a gallery's folder, and what says whether they are up to date.

Shapes: N photos, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese.errors import DataError, reason_of
from siamese.files import file_digest
from siamese.runs.locks import claim, release

if TYPE_CHECKING:
    from siamese.inference.verifier import Described, Verifier

FORMAT = 1
"""Version of the files. Raise it if they change: older galleries are then refused."""

FACTS, EMBEDDINGS, PHOTOS, INDEX = "gallery.json", "embeddings.npy", "photos.npz", "index.faiss"
"""Files of a gallery's folder."""


class Embedded(NamedTuple):
    """Photos that were embedded, without their pixels.

    Attributes:
        names: file names.
        photos: what is known of each.
        embeddings: float32 [N, D].
    """

    names: list[str]
    photos: list[Described]
    embeddings: NDArray[np.float32]


def append_rows(file: IO[bytes], blocks: Iterable[Embedded]) -> Iterator[Embedded]:
    """Write the embeddings of each block to a ``.npy`` file, float32 [N, D], and pass the block on."""
    number, size = 0, 0
    for block in blocks:
        if not number:
            size = block.embeddings.shape[1]
            _write_header(file, (0, size))
        file.write(np.ascontiguousarray(block.embeddings).data)
        number += len(block.embeddings)
        yield block
    file.seek(0)
    _write_header(file, (number, size))


def _write_header(file: IO[bytes], shape: tuple[int, int]) -> None:
    """Write the start of a ``.npy`` file, which has the same length for any number of rows."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Context that gives an empty folder; at the end, if it holds a complete gallery, it replaces ``folder``.

    If a killed process left ``folder`` half replaced, the gallery is restored first.

    Raises:
        ConfigError: another process is replacing it, or no folder can be made beside it.
    """
    work = folder.with_name(f".{folder.name}.tmp")
    claim(work)
    try:
        _settle(folder, work)
        (work / "new").mkdir()
        yield work / "new"
        if folder.exists():
            folder.rename(work / "old")
    finally:
        _settle(folder, work)
        shutil.rmtree(work, ignore_errors=True)
        release(work)


def _settle(folder: Path, work: Path) -> None:
    """If the gallery is not in its place, put the newest complete one there; remove the others."""
    for left in (work / "new", work / "old"):
        if is_gallery(left) and not folder.exists():
            left.rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def is_gallery(folder: Path) -> bool:
    """Whether ``siamese index`` wrote this folder, completely: it writes `FACTS` last."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """Read ``gallery.json``.

    Raises:
        DataError: it is missing or damaged, or another version wrote it.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["format"] == FORMAT:
            return facts
        reason = f"format {facts['format']}, expected {FORMAT}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = reason_of(error)
    raise DataError(f"{folder / FACTS}: {reason}; write the gallery again with siamese index")


def identity(verifier: Verifier) -> str:
    """A digest of all that decides the embeddings and scores: weights, back end, views and preprocessing."""
    from siamese.data.image_cache import FORMAT as DECODING  # the verifier has imported these; a command starts without
    from siamese.runs.finished import PREPROCESSING
    from siamese.runs.folder import RunFolder

    run, network = RunFolder(verifier.run), verifier.network
    options = [getattr(verifier.options, key) for key in PREPROCESSING]
    views = [network.flip_average, network.crop_average, verifier.bf16]
    key = json.dumps([DECODING, file_digest(run.best), file_digest(run.backend), *options, *views])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def folder_times(photos: Path, names: Iterable[str]) -> dict[str, int]:
    """The modification times of the folders of photos, and of those above, in nanoseconds; -1 for one that is gone.

    A folder's time changes if a file in it is added, removed or renamed. To compare them is far cheaper than to look at
    every photo.
    """
    folders = {""}
    for folder in {name.rpartition("/")[0] for name in names}:
        while folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return {folder: _time_of(photos / folder) for folder in sorted(folders)}


def changed_folders(facts: Mapping[str, Any]) -> list[str]:
    """The folders of photos in which files were added, removed or renamed since the gallery was written."""
    photos = Path(facts["photos"])
    return [str(photos / folder) for folder, time in facts["folders"].items() if _time_of(photos / folder) != time]


def _time_of(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - may be a hundred thousand folders
    except OSError:
        return -1


def stamp_of(photo: Path) -> tuple[int, int]:
    """Size and modification time of a photo, in bytes and nanoseconds; -1 if it is gone."""
    try:
        found = os.stat(photo)  # noqa: PTH116 - may be a million photos
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return -1, -1
    return found.st_size, found.st_mtime_ns
