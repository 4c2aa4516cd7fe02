"""What ``verify``, ``embed`` and ``identify`` share: photos as arrays and embeddings, and checks of output files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese.errors import ConfigError, DataError
from siamese.text import count

if TYPE_CHECKING:
    from siamese.data.images import Prepared
    from siamese.inference.verifier import Verification, Verifier

log = logging.getLogger(__name__)

CHUNK = 1024
"""Photos embedded between two steps of the progress bar."""


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


def read_photos(verifier: Verifier, root: Path, names: list[str]) -> tuple[dict[str, Prepared], dict[str, str]]:
    """Read photos, with a progress bar in a terminal.

    Returns:
        the photos that can be used, by name; and for the other names the reason.
    """
    read: dict[str, Prepared] = {}
    unusable: dict[str, str] = {}
    for name in tqdm(names, desc="reading", unit="image", leave=False, disable=_no_bar()):
        try:
            read[name] = verifier.prepare(root / name)
        except DataError as error:
            unusable[name] = str(error).removesuffix("; give another photo")
    return read, unusable


def embed_photos(verifier: Verifier, photos: list[Prepared]) -> NDArray[np.float32]:
    """Embed photos, with a progress bar in a terminal; returns float32 [N, D]."""
    if not photos:
        return verifier.embed([])
    import torch

    parts = []
    with tqdm(desc="embedding", total=len(photos), unit="image", leave=False, disable=_no_bar()) as bar:
        for first in range(0, len(photos), CHUNK):
            part = photos[first : first + CHUNK]
            parts.append(verifier.embed_pixels(torch.from_numpy(np.stack([photo.pixels for photo in part]))))
            bar.update(len(part))
    return np.concatenate(parts)


def warn_of_unusual(verifier: Verifier, photos: str, result: str) -> None:
    """Log `Verifier.caution`, if there is one."""
    if caution := verifier.caution(photos, result):
        log.warning(caution)


def warn_of_faces(name: str, faces: int | None, face: int | None) -> None:
    """Log which face of a photo was used, if it shows several."""
    from siamese.inference.verifier import several_faces

    if note := several_faces(name, faces, face):
        log.warning(f"{note}; --face chooses another")


def warn_of_several_faces(photos: Mapping[str, Prepared]) -> None:
    """Log how many of the photos show several faces, if any, and name one."""
    if several := [name for name, photo in photos.items() if (photo.faces or 0) > 1]:
        shown = count(len(several), "photo shows", "photos show")
        log.warning("%s several faces (for example %s); the largest was used", shown, several[0])


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


def _no_bar() -> bool | None:
    """Return tqdm's argument ``disable``, so that the bar appears only in a terminal."""
    return None if sys.stderr.isatty() else True
