"""Find the faces on a photo, and turn and scale a photo so that the eyes lie where they lie in LFW's images.

The detector is YuNet (Wu, Peng and Yu 2023, "YuNet: A tiny millisecond-level face detector"), through OpenCV, which is
imported only if a face is asked for. YuNet was trained on images from outside LFW.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from siamese.data.fetch import fetch
from siamese.data.images import NoFaceError
from siamese.errors import ConfigError, MissingPackageError
from siamese.text import count

log = logging.getLogger(__name__)

MODEL = "face_detection_yunet_2026may.onnx"
MODEL_URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{MODEL}"
MODEL_SHA256 = "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"

MODEL_VARIABLE = "SIAMESE_YUNET"
"""Environment variable with the path of the detector's file, for machines without a network."""

FRAME = 250
"""Side of an aligned photo, pixels: that of LFW's images."""

Eyes = tuple[tuple[float, float], tuple[float, float]]
"""x, y of the eye at the left and of the eye at the right of a photo, pixels."""

EYES: Eyes = ((103.5, 112.4), (146.5, 112.4))
"""Where the eyes of an aligned photo lie: the medians of `locate_eyes` over 286 original and over 600 deep-funneled
images of LFW's training people, which agree within a pixel, made level and symmetric."""

LEAST_SCORE = 0.7
"""Least confidence of a face, in [0, 1]."""

OVERLAP, CANDIDATES = 0.3, 5000
"""Largest overlap of two faces, as intersection over union, and most candidates before overlapping ones are removed."""

SIZES = (250, 400)
"""Sides of the aligned photo, pixels, at which its eyes are located."""

PASSES = 3
"""How often a photo is aligned and its eyes are located again: the better it is aligned, the more exactly they are."""

NEAR = FRAME / 10
"""How far from the mean of `EYES` the mean of a face's eyes may lie to be the aligned face, pixels."""

SIDES = (640, 1280)
"""The longer side, pixels, at which a photo is searched: first for large faces, which the detector misses in more
detail, then, if there are none, for small ones."""


class Face(NamedTuple):
    """A face on a photo, in pixels of the photo.

    Attributes:
        box: left, upper, width, height.
        eyes: where its eyes lie.
        score: confidence of the detector, in [0, 1].
    """

    box: tuple[float, float, float, float]
    eyes: Eyes
    score: float


_detectors = threading.local()  # OpenCV's detector is not safe for several threads


def prepare_detector() -> Path:
    """Check that OpenCV is installed, get the detector's file if it is missing, and return its path.

    Raises:
        MissingPackageError: OpenCV is not installed.
        ConfigError: the file that the environment variable names does not exist.
        DataError: the download failed.
    """
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise MissingPackageError("data.align=eyes", "opencv-python-headless", "faces") from None
    if given := os.environ.get(MODEL_VARIABLE):
        if not Path(given).is_file():
            raise ConfigError(f"{MODEL_VARIABLE}={given}: no such file; give the path of {MODEL}")
        return Path(given)
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese" / MODEL
    if not file.is_file():
        log.info("downloading the face detector (0.2 MB) to %s", file)
        fetch(MODEL_URL, file, sha256=MODEL_SHA256)
    return file


def find_faces(image: Image.Image) -> list[Face]:
    """Find the faces on an upright photo, the largest first."""
    rgb = image.convert("RGB")
    for side in SIDES:
        faces = _detect(rgb, min(1.0, side / max(rgb.size)))
        if faces or max(rgb.size) <= side:
            return faces
    return []


def align_eyes(image: Image.Image, number: int = 1) -> tuple[Image.Image, int]:
    """Turn and scale an upright photo so that the eyes of a face lie at `EYES`; what lies outside the photo is black.

    Args:
        image: the photo.
        number: which face, from 1; 1 is the largest.

    Returns:
        an image of `FRAME` x `FRAME` pixels, grey or RGB; and the number of faces on the photo.

    Raises:
        NoFaceError: there is no face, or fewer than ``number``.
    """
    if image.mode not in ("L", "RGB"):  # `transform` and `reduce` would take a palette's indices for shades
        image = image.convert("RGB")
    faces = find_faces(image)
    if not faces:
        raise NoFaceError("no face found")
    if len(faces) < number:
        raise NoFaceError(f"face {number} was asked for, but only {count(len(faces), 'face was', 'faces were')} found")
    return _place(image, _refined(image, faces[number - 1].eyes)), len(faces)


def _refined(image: Image.Image, eyes: Eyes) -> Eyes:
    """Locate the eyes of a face more exactly, by aligning the photo and locating them again."""
    for _ in range(PASSES):
        (a, b), (x, y) = _similarity(eyes)
        # From the aligned photo back to the photo itself.
        first, second = ((a * u - b * v + x, b * u + a * v + y) for u, v in locate_eyes(_place(image, eyes)))
        eyes = first, second
    return eyes


def locate_eyes(aligned: Image.Image) -> Eyes:
    """Where the eyes of a roughly aligned photo lie: the mean over several sizes and over the mirrored photo.

    The detector places an eye at random up to a tenth of the distance between the eyes away; the mean has a third of
    this error. If no face is near `EYES`, these are returned.
    """
    rgb = aligned.convert("RGB")
    found = []
    for size, mirrored in itertools.product(SIZES, (False, True)):
        image = rgb.resize((size, size), Image.Resampling.BICUBIC)
        for face in _detect(ImageOps.mirror(image) if mirrored else image, 1.0):
            eyes = [((size - 1 - u if mirrored else u) * FRAME / size, v * FRAME / size) for u, v in face.eyes]
            if math.dist(np.mean(eyes, axis=0), np.mean(EYES, axis=0)) < NEAR:
                found.append(sorted(eyes))
                break
    if not found:
        return EYES
    (a, b), (x, y) = np.mean(found, axis=0).tolist()
    return (a, b), (x, y)


def _detect(rgb: Image.Image, scale: float) -> list[Face]:
    import cv2

    if scale < 1:
        rgb = rgb.resize(
            (max(1, round(scale * rgb.width)), max(1, round(scale * rgb.height))), Image.Resampling.BILINEAR,
            reducing_gap=2.0,
        )  # fmt: skip
    detector = getattr(_detectors, "detector", None)
    if detector is None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of a setting that it does not have
        detector = cv2.FaceDetectorYN.create(str(prepare_detector()), "", rgb.size, LEAST_SCORE, OVERLAP, CANDIDATES)
        _detectors.detector = detector
    detector.setInputSize(rgb.size)
    _, rows = detector.detect(np.ascontiguousarray(np.asarray(rgb)[..., ::-1]))
    faces = [_face(row / scale, float(row[14])) for row in (() if rows is None else rows)]
    return sorted(faces, key=lambda face: -face.box[2] * face.box[3])


def _face(row: Any, score: float) -> Face:
    left, top, width, height = map(float, row[:4])
    one, other = sorted([(float(row[4]), float(row[5])), (float(row[6]), float(row[7]))])
    return Face((left, top, width, height), (one, other), score)


def _similarity(eyes: Eyes) -> tuple[tuple[float, float], tuple[float, float]]:
    """(a, b), (x, y): pixel (u, v) of the aligned photo lies at (a u - b v + x, b u + a v + y) of the photo."""
    source = complex(*eyes[1]) - complex(*eyes[0])
    target = complex(*EYES[1]) - complex(*EYES[0])
    turn = source / target
    shift = complex(*eyes[0]) - turn * complex(*EYES[0])
    return (turn.real, turn.imag), (shift.real, shift.imag)


def _place(image: Image.Image, eyes: Eyes) -> Image.Image:
    """Turn and scale a photo so that ``eyes`` come to lie at `EYES`."""
    (a, b), (x, y) = _similarity(eyes)
    factor = max(1, math.floor(math.hypot(a, b)))
    if factor > 1:  # `transform` takes single pixels, and would skip those between
        image = image.reduce(factor)
        a, b, x, y = a / factor, b / factor, x / factor, y / factor
    # Pillow maps the centres of pixels, at 0.5; the detector counts pixels from 0.
    x, y = x + 0.5 - 0.5 * (a - b), y + 0.5 - 0.5 * (a + b)
    return image.transform((FRAME, FRAME), Image.Transform.AFFINE, (a, -b, x, b, a, y), Image.Resampling.BICUBIC)
