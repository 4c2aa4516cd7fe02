"""Choose the example pairs of a run page's gallery, and load their photos."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from siamese.data.images import open_upright
from siamese.runs.tables import OUTCOMES, Prediction

PHOTO_HEIGHT = 125
"""Height of an embedded photo, pixels: half of LFW's 250, enough to see the face, and about 4 kB as JPEG."""


@dataclass(frozen=True)
class Examples:
    """Example pairs of one outcome. If there are few pairs, ``confident`` has all of them and ``uncertain`` is empty.

    Attributes:
        outcome: tp, fp, tn or fn.
        count: number of all pairs with this outcome.
        confident: the pairs furthest from the threshold, furthest first.
        uncertain: the pairs nearest to the threshold, nearest first.
    """

    outcome: str
    count: int
    confident: tuple[Prediction, ...]
    uncertain: tuple[Prediction, ...]


def pick_examples(predictions: Iterable[Prediction], each: int = 3) -> list[Examples]:
    """Pick the ``each`` most confident and ``each`` most uncertain pairs of every outcome, no pair twice."""
    groups: dict[str, list[Prediction]] = {outcome: [] for outcome in OUTCOMES}
    for prediction in predictions:
        groups[prediction.outcome].append(prediction)
    return [_pick(outcome, group, each) for outcome, group in groups.items()]


def _pick(outcome: str, group: list[Prediction], each: int) -> Examples:
    # Sorted by the score, since probabilities near 0 and 1 are equal after rounding. All pairs of an outcome lie on the
    # same side of the threshold. The names break ties, so that the choice is the same on every machine.
    sign = -1 if outcome.endswith("p") else 1
    ranked = sorted(group, key=lambda pair: (sign * pair.score, pair.image1, pair.image2))
    if len(ranked) <= 2 * each:
        return Examples(outcome, len(ranked), tuple(ranked), ())
    return Examples(outcome, len(ranked), tuple(ranked[:each]), tuple(ranked[: -each - 1 : -1]))


def occlusion_map_file(folder: Path, pair: Prediction) -> Path:
    """The file in a run folder that holds the occlusion maps of a pair, if they have been computed."""
    names = f"{pair.image1}\n{pair.image2}".encode()
    return folder / "explanations" / f"{hashlib.sha256(names).hexdigest()[:16]}.jpg"


def load_photo(path: Path, height: int = PHOTO_HEIGHT) -> Image.Image | None:
    """Load a photo upright and on white, as the network sees it; None if it is unreadable.

    Returns:
        an RGB image with the aspect ratio of the photo, at most ``height`` pixels high and twice as wide.
    """
    try:
        photo = open_upright(path, at_least=2 * height).convert("RGB")
    except Exception:  # Pillow's decoders raise nearly anything on a damaged file
        return None
    return ImageOps.contain(photo, (2 * height, height), Image.Resampling.LANCZOS)


def as_data_uri(photo: Image.Image) -> str:
    """Encode a photo as ``data:image/jpeg;base64,...``, so that a page needs no other file."""
    content = io.BytesIO()
    photo.save(content, "JPEG", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
