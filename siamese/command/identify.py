"""``siamese identify``: rank the people of a gallery by how likely they are the person on a photo."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from siamese.command.photos import (
    embed_photos,
    face_numbers,
    load_verifier,
    warn_of_faces,
    warn_of_several_faces,
    warn_of_unusual,
    with_several_faces,
)
from siamese.data.folder import find_people, find_photos
from siamese.errors import ConfigError, DataError
from siamese.text import count

log = logging.getLogger(__name__)


def identify(
    run: Path, gallery: Path, photo: Path, top: int, keep_identical: bool = False, align: bool = False,
    face: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the people of a gallery who are most likely the person on a photo, as a dict for JSON.

    Args:
        run: folder of a finished run.
        gallery: a folder with a folder of photos for each person, or with one photo for each, named after the person.
        photo: the photo to identify.
        top: how many people to return, most likely first.
        keep_identical: compare the photo also with copies of itself in the gallery.
        align: as for `Verifier.load`.
        face: which face of the photo to identify, by size; None is the largest.

    Raises:
        UserError: the run, the gallery or the photo cannot be used.
    """
    if top < 1:
        raise ConfigError(f"--top {top}: give 1 or more")
    if face is not None and "," in face:
        raise ConfigError(f"--face {face}: give one number, for the photo to identify (1 is the largest face)")
    number, _ = face_numbers(face)
    people = _people_of_gallery(gallery)
    verifier = load_verifier(run, align)
    person_of = {name: person for person, names in people.items() for name in names}
    embedded, unusable = embed_photos(verifier, gallery, list(person_of))
    for problem in unusable.values():
        log.warning("excluded: %s", problem)
    warn_of_several_faces(with_several_faces(embedded))
    asked = verifier.prepare(photo, number)
    warn_of_faces(str(photo), asked.faces, asked.face)
    if not embedded.names:
        raise DataError(f"{gallery}: no photo in it can be used; give at least one of each person")
    described = verifier.describe(asked)
    copies = [row for row, one in enumerate(embedded.photos) if one.digest == described.digest]
    identical = [embedded.names[row] for row in copies]
    for name in identical:
        result = "its rank says nothing about faces" if keep_identical else "left out (--keep-identical keeps it)"
        log.warning("%s in the gallery is the same image as %s: %s", name, photo, result)
    left_out = set() if keep_identical else set(copies)
    kept = [row for row in range(len(embedded.names)) if row not in left_out]
    if not kept:
        raise DataError(f"{gallery}: holds only copies of {photo}; give other photos of each person")
    names = [embedded.names[row] for row in kept]
    photos = [described, *(embedded.photos[row] for row in kept)]
    embeddings = np.concatenate([verifier.embed_prepared([asked]), embedded.embeddings[kept]])
    matches = verifier.rank(embeddings, [(person_of[name], name) for name in names], photos)
    if (reached := sum(match.verification.same for match in matches)) > 1:
        log.warning(
            "%d people reach the threshold, which is meant for a single pair of photos: with %s, some are expected to "
            "reach it by chance; only the first can be the person, if any",
            reached, count(len(matches), "person", "people"),
        )  # fmt: skip
    unusual, *others = (one.unusual for one in photos)
    unlike = sum(map(bool, others))
    warn_of_unusual(verifier, f"{photo} is" if unusual else "", "this ranking")
    if unlike:
        example = next(name for name, one in zip(names, others, strict=True) if one)
        subject = (
            f"{unlike} of {count(len(names), 'gallery photo')} (for example {example}) {'is' if unlike == 1 else 'are'}"
        )
        warn_of_unusual(verifier, subject, "their ranks")
    return {
        "image": str(photo),
        **({"faces": asked.faces, "face": asked.face} if asked.faces else {}),
        "unusual": unusual,
        "unusual_in_gallery": unlike if verifier.domain else None,
        "threshold": verifier.decision.threshold,
        "left_out": [] if keep_identical else identical,
        "people": len(matches),
        "matches": [
            {
                "person": match.person, "image": match.photo, "same": match.verification.same,
                "probability": match.verification.probability, "score": match.verification.score,
                "identical": match.verification.identical, "unusual": match.verification.unusual[1],
                **({"faces": match.verification.faces[1]} if asked.faces else {}),
            }
            for match in matches[:top]
        ],
        "trained_on": verifier.trained_on,
        "run": str(run),
    }  # fmt: skip


def _people_of_gallery(gallery: Path) -> dict[str, list[str]]:
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
