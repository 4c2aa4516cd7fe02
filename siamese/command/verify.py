"""``siamese verify``: decide for two photos, or for each pair of a list, whether they show the same person."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from siamese.command.photos import (
    as_json,
    check_output,
    embed_photos,
    face_numbers,
    load_verifier,
    warn_of_faces,
    warn_of_several_faces,
    warn_of_unusual,
    with_several_faces,
)
from siamese.data.lists import Pair, people_of_each, read_table
from siamese.errors import ConfigError, DataError
from siamese.evaluation.intervals import LEAST_PEOPLE, share_interval
from siamese.evaluation.people import NumberedPeople, are_few
from siamese.files import replacing
from siamese.text import count

if TYPE_CHECKING:
    from siamese.inference.verifier import Verifier

log = logging.getLogger(__name__)


class ListedPair(NamedTuple):
    """A line of the list: two files as named there, and the label (1 same, 0 different) if it has one."""

    image1: str
    image2: str
    label: int | None


def verify(
    run: Path, photos: list[Path], pairs: Path | None, explain: Path | None, align: bool = False,
    face: str | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield the decision about two photos, or about each pair of a list, as a dict for JSON.

    A pair of a list with an unusable photo has the key ``error`` instead of a decision.

    Args:
        run: folder of a finished run.
        photos: two files; empty if there is a list.
        pairs: CSV file with the columns image1, image2 and optionally label; files are relative to its folder.
        explain: file to save the occlusion maps of the two photos to.
        align: as for `Verifier.load`.
        face: which faces of the two photos to compare, as for `siamese.command.photos.face_numbers`.

    Raises:
        UserError: the run, the list or one of the two photos cannot be used.
    """
    if (pairs is None) == (not photos) or len(photos) not in (0, 2):
        raise ConfigError("give two photos, or --pairs FILE with a list of pairs")
    for option, value in (("--explain", explain), ("--face", face)):
        if pairs is not None and value is not None:
            raise ConfigError(f"{option} is for two photos; leave out --pairs")
    faces = face_numbers(face)
    if explain is not None:
        check_output("--explain", explain, ("png", "jpg", "pdf", "svg"))
    if pairs is None:
        yield from _verify_two(load_verifier(run, align), photos, faces, explain)
    else:
        listed = read_pairs_to_verify(pairs)
        yield from _verify_list(load_verifier(run, align), listed, pairs.parent)


def _verify_two(
    verifier: Verifier, photos: list[Path], faces: tuple[int | None, int | None], explain: Path | None
) -> Iterator[dict[str, Any]]:
    verification = verifier.verify(photos[0], photos[1], faces)
    names = {"image1": str(photos[0]), "image2": str(photos[1])}
    yield {**names, **as_json(verification), "trained_on": verifier.trained_on, "run": str(verifier.run)}
    for name, faces_of, face in zip(names.values(), verification.faces, verification.face, strict=True):
        warn_of_faces(name, faces_of, face)
    for caution in verifier.cautions(verification, *names.values()):
        log.warning(caution)
    if explain is not None:
        from siamese.inference.occlusion import occlusion_figure, occlusion_maps

        figure = occlusion_figure(occlusion_maps(verifier, photos[0], photos[1], faces), verification)
        with replacing(explain) as temporary:
            figure.savefig(temporary, format=explain.suffix.lstrip(".").lower(), dpi=150)
        log.info("occlusion maps: %s", explain)


def _verify_list(verifier: Verifier, listed: list[ListedPair], root: Path) -> Iterator[dict[str, Any]]:
    names = sorted({name for pair in listed for name in (pair.image1, pair.image2)})
    embedded, unusable = embed_photos(verifier, root, names)
    rows = {name: row for row, name in enumerate(embedded.names)}
    pairs = ((rows[a], rows[b]) for a, b, _ in listed if a in rows and b in rows)
    usable = np.fromiter(itertools.chain.from_iterable(pairs), np.int64).reshape(-1, 2)
    following = verifier.compare_each(embedded.embeddings, usable, embedded.photos)
    labelled: list[Pair] = []
    correct: list[bool] = []
    identical = unlike = 0
    for pair in listed:
        line = {key: value for key, value in pair._asdict().items() if value is not None}
        if problem := unusable.get(pair.image1) or unusable.get(pair.image2):
            yield {**line, "error": problem}
            continue
        verification = next(following)
        if pair.label is not None and not verification.identical:
            labelled.append(Pair(*pair[:2], pair.label))
            correct.append(verification.same == bool(pair.label))
        identical += bool(verification.identical)
        unlike += any(verification.unusual)
        yield {**line, **as_json(verification)}
    outside = ""
    if correct:
        _log_accuracy(labelled, correct)
        outside = ", not counted in the accuracy"
    if unusable:
        without = count(len(listed) - len(usable), "pair has", "pairs have")
        log.warning("%s cannot be used: %s no decision%s", count(len(unusable), "photo"), without, outside)
    warn_of_several_faces(with_several_faces(embedded))
    if identical:
        said = "such a decision says nothing about faces"
        log.warning("%s of identical images%s: %s", count(identical, "pair"), outside, said)
    subject = f"{unlike} of {count(len(usable), 'pair')} {'has' if unlike == 1 else 'have'} a photo"
    warn_of_unusual(verifier, subject if unlike else "", "these decisions")


def _log_accuracy(pairs: list[Pair], correct: list[bool]) -> None:
    people = NumberedPeople(people_of_each(pairs))
    low, high = share_interval(correct, people)
    number = count(people.number, "person", "people")
    if math.isnan(low):
        interval = f"no confidence interval: these pairs show {number}; give pairs of at least {LEAST_PEOPLE} people"
    else:
        over = f" for other people; these pairs show {number}" if are_few(people) else ""
        interval = f"95 % confidence interval {100 * low:.1f} - {100 * high:.1f}{over}"
    log.info("accuracy: %.1f %% of %s (%s)", 100 * sum(correct) / len(correct), count(len(correct), "pair"), interval)


def read_pairs_to_verify(path: Path) -> list[ListedPair]:
    """Read the list of ``--pairs``.

    Raises:
        DataError: the file is missing or malformed; the message names the file and the line.
    """
    listed = []
    names: dict[str, str] = {}  # keeps the name of a photo once, not once for each of its pairs
    for where, row in read_table(path, ("image1", "image2"), "image1,image2 and optionally label"):
        image1, image2, label = row["image1"], row["image2"], row.get("label") or None
        if not image1 or not image2 or label not in (None, "0", "1"):
            raise DataError(f"{where}: expected two file names, and a label that is 1 (same), 0 (different) or empty")
        image1, image2 = (names.setdefault(name, name) for name in (image1, image2))
        listed.append(ListedPair(image1, image2, None if label is None else int(label)))
    return listed
