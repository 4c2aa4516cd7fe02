"""What ``verify``, ``embed`` and ``identify`` share: photos as arrays and embeddings, and checks of output files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese.errors import ConfigError, DataError
from siamese.inference.gallery_files import Embedded
from siamese.parallel import in_order, showing_progress
from siamese.text import count

if TYPE_CHECKING:
    from siamese.data.images import Prepared
    from siamese.inference.verifier import Described, Verification, Verifier

log = logging.getLogger(__name__)

CHUNK = 128
"""Photos in a block: as many as the network embeds at once."""

HANDED_OVER = 16
"""Photos that a thread decodes at a time."""


def load_verifier(run: Path, align: bool = False) -> Verifier:
    """Load the network of a finished run; torch is imported only now, after the arguments were checked."""
    from siamese.inference.verifier import Verifier

    return Verifier.load(run, align=align)


def face_numbers(text: str | None) -> tuple[int | None, int | None]:
    """Read ``--face``: one number for both photos, or two with a comma; None if it is not given.

    Raises:
        ConfigError: it is something else.
    """
    if text is None:
        return None, None
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split(",")]
    if len(numbers) > 2 or min(numbers) < 1:
        raise ConfigError(f"--face {text}: give a number (1 is the largest face), or one for each photo, such as 2,1")
    return numbers[0], numbers[-1]


def as_json(answer: Verification) -> dict[str, Any]:
    """The decision for JSON; what is said of faces only if photos were aligned."""
    return {key: value for key, value in answer._asdict().items() if value != (None, None) or key == "unusual"}


def embed_in_blocks(
    verifier: Verifier, root: Path, names: Sequence[str], unusable: dict[str, str]
) -> Iterator[Embedded]:
    """Yield the usable photos in blocks of up to `CHUNK`, in order, and show the progress.

    Threads decode the next photos while the network embeds a block. The memory does not depend on their number.

    Args:
        verifier: the network.
        root: folder of the photos.
        names: files relative to it.
        unusable: filled with the reason for each photo that cannot be used, by name.
    """

    def read(part: Sequence[str]) -> list[tuple[str, tuple[Prepared, Described] | str]]:
        return [(name, _read(verifier, root / name)) for name in part]

    parts = (names[first : first + HANDED_OVER] for first in range(0, len(names), HANDED_OVER))
    block: list[tuple[str, Prepared, Described]] = []
    with showing_progress("embedding", len(names)) as advance:
        for part in in_order(read, parts):
            for name, photo in part:
                if isinstance(photo, str):
                    unusable[name] = photo
                else:
                    block.append((name, *photo))
                if len(block) == CHUNK:
                    yield _embedded(verifier, block)
                    block = []
            advance(len(part))
        if block:
            yield _embedded(verifier, block)


def embed_photos(verifier: Verifier, root: Path, names: Sequence[str]) -> tuple[Embedded, dict[str, str]]:
    """Embed photos as `embed_in_blocks`; also return the reason for each photo that cannot be used, by name."""
    unusable: dict[str, str] = {}
    blocks = list(embed_in_blocks(verifier, root, names, unusable))
    embeddings = np.concatenate([verifier.embed([]), *(block.embeddings for block in blocks)])
    used = [name for block in blocks for name in block.names]
    return Embedded(used, [photo for block in blocks for photo in block.photos], embeddings), unusable


def _read(verifier: Verifier, file: Path) -> tuple[Prepared, Described] | str:
    """Read a photo; return the reason if it cannot be used."""
    try:
        photo = verifier.prepare(file)
    except DataError as error:
        return str(error).removesuffix("; give another photo")
    return photo, verifier.describe(photo)


def _embedded(verifier: Verifier, block: list[tuple[str, Prepared, Described]]) -> Embedded:
    names, photos, described = (list(part) for part in zip(*block, strict=True))
    return Embedded(names, described, verifier.embed_prepared(photos))


def warn_of_unusual(verifier: Verifier, photos: str, result: str) -> None:
    """Log `Verifier.caution`, if there is one."""
    if caution := verifier.caution(photos, result):
        log.warning(caution)


def warn_of_faces(name: str, faces: int | None, face: int | None) -> None:
    """Log which face of a photo was used, if it shows several."""
    from siamese.inference.verifier import several_faces

    if note := several_faces(name, faces, face):
        log.warning(f"{note}; --face chooses another")


def warn_of_several_faces(several: Sequence[str]) -> None:
    """Log how many photos show several faces, if any, and name one."""
    if several:
        shown = count(len(several), "photo shows", "photos show")
        log.warning("%s several faces (for example %s); the largest was used", shown, several[0])


def with_several_faces(embedded: Embedded) -> list[str]:
    """The names of the photos that show several faces."""
    return [name for name, photo in zip(embedded.names, embedded.photos, strict=True) if (photo.faces or 0) > 1]


def check_output(option: str, file: Path, kinds: tuple[str, ...]) -> None:
    """Raise a `ConfigError` unless ``file`` has one of the suffixes ``kinds`` and its folder exists.

    Args:
        option: how the file was named on the command line, for the message; may be empty.
        file: to be written.
        kinds: suffixes without the dot.
    """
    shown = f"{option} {file}".strip()
    if file.suffix.lower().removeprefix(".") not in kinds:
        *first, last = (f".{kind}" for kind in kinds)
        raise ConfigError(f"{shown}: give a file name that ends in {', '.join(first)} or {last}")
    if not file.parent.is_dir():
        raise ConfigError(f"{shown}: folder {file.parent} does not exist; create it first")
