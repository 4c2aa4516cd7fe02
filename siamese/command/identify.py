"""``siamese identify``: rank the people of a gallery by how likely they are the person on a photo."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from siamese.command.photos import (
    embed_in_blocks,
    face_numbers,
    load_verifier,
    warn_of_faces,
    warn_of_several_faces,
    warn_of_unusual,
)
from siamese.data.folder import find_people, find_photos
from siamese.errors import ConfigError, DataError
from siamese.inference.gallery import TOGETHER, Found, Gallery
from siamese.inference.gallery_files import changed_folders, is_gallery
from siamese.text import count, shell_words

if TYPE_CHECKING:
    from siamese.data.images import Prepared
    from siamese.inference.verifier import Verifier

log = logging.getLogger(__name__)


def identify(
    run: Path, gallery: Path, photos: list[Path], top: int, keep_identical: bool = False, align: bool = False,
    face: str | None = None, exact: bool = False,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield, for each photo, the people of a gallery who are most likely the person on it, as a dict for JSON.

    If there are several photos, one that cannot be used has the key ``error`` instead.

    Args:
        run: folder of a finished run.
        gallery: a folder with a folder of photos for each person, or with one photo for each, named after the person;
            or a folder that ``siamese index`` wrote.
        photos: the photos to identify.
        top: how many people to return, most likely first.
        keep_identical: compare a photo also with copies of itself in the gallery.
        align: as for `Verifier.load`.
        face: which face of the photos to identify, by size; None is the largest.
        exact: compare with the whole gallery even if it has an approximate index.

    Raises:
        UserError: the run, the gallery or the only photo cannot be used.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: give 1 or more")
    if face is not None and "," in face:
        raise ConfigError(f"--face {face}: give one number, for the photo to identify (1 is the largest face)")
    number, _ = face_numbers(face)
    people = None if is_gallery(gallery) else people_of_gallery(gallery)
    verifier = load_verifier(run, align)
    opened = Gallery.load(gallery, verifier, exact) if people is None else _embed(verifier, gallery, people)
    if opened.facts:
        _warn_of_changes(gallery, opened.facts)
    _warn_of_unusual_photos(verifier, opened)
    answered = 0
    for first in range(0, len(photos), TOGETHER):  # in one pass over the gallery
        some = [(photo, _prepare(verifier, photo, number)) for photo in photos[first : first + TOGETHER]]
        usable = [asked for _, asked in some if not isinstance(asked, DataError)]
        following = iter(opened.search(verifier, usable, top, keep_identical))
        for photo, asked in some:
            try:
                if isinstance(asked, DataError):
                    raise asked
                answer = _answer(verifier, opened, gallery, photo, asked, next(following), keep_identical)
            except DataError as error:
                if len(photos) == 1:
                    raise
                yield {"image": str(photo), "error": str(error)}
                continue
            answered += 1
            yield answer | {"run": str(run)}
    if not answered:
        raise DataError("none of the photos can be used; the answers above give the reasons")


def _prepare(verifier: Verifier, photo: Path, face: int | None) -> Prepared | DataError:
    try:
        return verifier.prepare(photo, face)
    except DataError as error:
        return error


def _embed(verifier: Verifier, gallery: Path, people: dict[str, list[str]]) -> Gallery:
    """Embed the photos of a gallery."""
    person_of = {name: person for person, names in people.items() for name in names}
    unusable: dict[str, str] = {}
    found = Gallery.of(verifier, embed_in_blocks(verifier, gallery, list(person_of), unusable), person_of)
    for problem in unusable.values():
        log.warning("excluded: %s", problem)
    if not len(found):
        raise DataError(f"{gallery}: no photo in it can be used; give at least one of each person")
    warn_of_several_faces([found.name(row) for row in np.flatnonzero(found.columns["faces"] > 1)])
    return found


def _answer(
    verifier: Verifier, gallery: Gallery, folder: Path, photo: Path, asked: Prepared, found: Found, keep_identical: bool
) -> dict[str, Any]:
    warn_of_faces(str(photo), asked.faces, asked.face)
    _warn_of_copies(photo, found, keep_identical)
    for name in found.changed:
        log.warning("%s was changed or removed since it was embedded: %s", name, _again(folder, gallery.facts))
    if not found.matches:
        raise DataError(f"{folder}: holds only copies of {photo}; give other photos of each person")
    if found.reached > 1:
        log.warning(
            "%s: %s%d people reach the threshold, which is meant for a single pair of photos: with %s, some are "
            "expected to reach it by chance; only the first can be the person, if any",
            photo, "at least " if gallery.index else "", found.reached, count(found.people, "person", "people"),
        )  # fmt: skip
    unusual = verifier.describe(asked).unusual
    warn_of_unusual(verifier, f"{photo} is" if unusual else "", "this ranking")
    left_out = [] if keep_identical else found.copies
    unlike = [name for name in map(gallery.name, _unusual(gallery)) if name not in left_out]
    return {
        "image": str(photo),
        **({"faces": asked.faces, "face": asked.face} if asked.faces else {}),
        "unusual": unusual,
        "unusual_in_gallery": len(unlike) if verifier.domain else None,
        "threshold": verifier.decision.threshold,
        "left_out": left_out,
        "people": found.people,
        **({"recall": gallery.facts["recall"]} if gallery.index else {}),
        "matches": [
            {
                "person": match.person, "image": match.photo, "same": match.verification.same,
                "probability": match.verification.probability, "score": match.verification.score,
                "identical": match.verification.identical, "unusual": match.verification.unusual[1],
                **({"faces": match.verification.faces[1]} if asked.faces else {}),
            }
            for match in found.matches
        ],
        "trained_on": verifier.trained_on,
    }  # fmt: skip


def _unusual(gallery: Gallery) -> NDArray[np.int64]:
    return np.flatnonzero(gallery.columns["unusual"] == 1)


def _warn_of_unusual_photos(verifier: Verifier, gallery: Gallery) -> None:
    rows = _unusual(gallery)
    if len(rows):
        number, example = count(len(gallery), "gallery photo"), gallery.name(rows[0])
        subject = f"{len(rows)} of {number} (for example {example}) {'is' if len(rows) == 1 else 'are'}"
        warn_of_unusual(verifier, subject, "their ranks")


def _warn_of_changes(gallery: Path, facts: dict[str, Any]) -> None:
    if not Path(facts["photos"]).is_dir():
        log.info("%s: its photos are no longer in %s, so that their changes go unnoticed", gallery, facts["photos"])
    elif changed := changed_folders(facts):
        others = f" and in {count(len(changed) - 1, 'other folder')}" if len(changed) > 1 else ""
        log.warning(
            "%s: files were added or removed in %s%s since it was written; %s", gallery, changed[0], others,
            _again(gallery, facts),
        )  # fmt: skip


def _again(gallery: Path, facts: dict[str, Any]) -> str:
    align = ["--align"] if facts["align"] else []
    words = ["python", "-m", "siamese", "index", facts["named"], facts["photos"], str(gallery), *align]
    return f"to update it: {shell_words(words)}"


def _warn_of_copies(photo: Path, found: Found, keep_identical: bool) -> None:
    for name in found.copies:
        result = "its rank says nothing about faces" if keep_identical else "left out (--keep-identical keeps it)"
        log.warning("%s in the gallery is the same image as %s: %s", name, photo, result)


def people_of_gallery(gallery: Path) -> dict[str, list[str]]:
    """Return the photos of each person, relative to the gallery."""
    if not gallery.is_dir():
        raise DataError(
            f"{gallery}: no such folder; give a folder with a subfolder of photos, or one photo, for each person"
        )
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in gallery.iterdir()):
        return find_people(gallery, str(gallery))
    people: dict[str, list[str]] = {}
    for name in find_photos(gallery):
        people.setdefault(Path(name).stem, []).append(name)
    return people
