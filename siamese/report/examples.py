"""Which pairs stand for the four outcomes, and their photos."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from siamese.runs.records import OUTCOMES, Prediction

PHOTO_HEIGHT = 125
"""Pixels of an embedded photo: half of LFW's 250, enough to see the face, and some 4 kB as JPEG."""


@dataclass(frozen=True)
class Examples:
    """Pairs of one outcome; together all of them when there are few, then in ``confident`` alone.

    Attributes:
        outcome: tp, fp, tn or fn.
        count: pairs of that outcome in all.
        confident: the furthest from the threshold, furthest first.
        doubtful: the nearest to it, nearest first.
    """

    outcome: str
    count: int
    confident: tuple[Prediction, ...]
    doubtful: tuple[Prediction, ...]


def pick_examples(predictions: Iterable[Prediction], each: int = 3) -> list[Examples]:
    """``each`` of the most confident and of the most doubtful pairs of every outcome, none of them twice."""
    groups: dict[str, list[Prediction]] = {outcome: [] for outcome in OUTCOMES}
    for prediction in predictions:
        groups[prediction.outcome].append(prediction)
    return [_pick(outcome, group, each) for outcome, group in groups.items()]


def _pick(outcome: str, group: list[Prediction], each: int) -> Examples:
    # By the logit: probabilities near 0 and 1 are all alike after rounding. The answer says on which side of
    # the threshold all of the group lie. The names make the choice among equals the same everywhere.
    sign = -1 if outcome.endswith("p") else 1
    ranked = sorted(group, key=lambda pair: (sign * pair.score, pair.image1, pair.image2))
    if len(ranked) <= 2 * each:
        return Examples(outcome, len(ranked), tuple(ranked), ())
    return Examples(outcome, len(ranked), tuple(ranked[:each]), tuple(ranked[: -each - 1 : -1]))


def explanation_file(folder: Path, pair: Prediction) -> Path:
    """Where a run folder has the picture of what the answer about a pair rests on, if it was asked for."""
    names = f"{pair.image1}\n{pair.image2}".encode()
    return folder / "explanations" / f"{hashlib.sha256(names).hexdigest()[:16]}.jpg"


def load_photo(path: Path, height: int = PHOTO_HEIGHT) -> Image.Image | None:
    """A photo as RGB, scaled to ``height`` (an overlong one to twice that width); None if unreadable."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * height, 2 * height))  # lets a large JPEG be decoded at a fraction
            photo = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return ImageOps.contain(photo, (2 * height, height), Image.Resampling.LANCZOS)


def as_data_uri(photo: Image.Image) -> str:
    """The photo inside an address, ``data:image/jpeg;base64,...``, so that a page needs no other file."""
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
