"""Photos of LFW placed in larger scenes, to measure how well faces are found and aligned."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.common import median, table
from siamese import Verifier
from siamese.data import faces
from siamese.data.lists import read_pairs
from siamese.data.protocol import TEST_LIST, TRAIN_LIST
from siamese.errors import DataError
from siamese.evaluation.intervals import wilson

SIZE = (900, 700)
"""Width and height of a scene, pixels."""

Point = tuple[float, float]


class Scene(NamedTuple):
    """A scene, and where a pixel of the photo lies in it."""

    image: Image.Image
    place: Callable[[Point], Point]


def scene_of(photo: Image.Image, other: Image.Image, rng: np.random.Generator) -> Scene:
    """Place a photo at a random position, scale (0.5 to 2) and rotation (up to 30 degrees).

    Args:
        photo: with the face.
        other: stretched over the scene, upside down and blurred, as its background.
        rng: random generator.
    """
    scale, angle = rng.uniform(0.5, 2), math.radians(rng.uniform(-30, 30))
    centre = np.array(photo.size) / 2
    middle = [
        rng.uniform(scale * half, side - scale * half) if 2 * scale * half < side else side / 2
        for half, side in zip(centre, SIZE, strict=True)
    ]
    a, b = math.cos(angle) / scale, math.sin(angle) / scale
    u, v = centre - (a * middle[0] + b * middle[1], a * middle[1] - b * middle[0])
    affine = (a, b, u, -b, a, v)
    background = other.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize(SIZE, Image.Resampling.BICUBIC)
    background = background.filter(ImageFilter.GaussianBlur(40))
    sharp = photo if scale >= 1 else photo.filter(ImageFilter.GaussianBlur(0.5 / scale - 0.5))
    placed = sharp.transform(SIZE, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    background.paste(placed, mask=Image.new("L", photo.size, 255).transform(SIZE, Image.Transform.AFFINE, affine))

    def place(point: Point) -> Point:
        x, y = scale * (np.array(point) - centre)
        return (
            middle[0] + math.cos(angle) * x - math.sin(angle) * y,
            middle[1] + math.sin(angle) * x + math.cos(angle) * y,
        )

    return Scene(background, place)


class Measured(NamedTuple):
    """What one test photo gives.

    Attributes:
        inputs: the network's input for each of `WAYS`, uint8 [C, H, W]; None if no face was found.
        seconds: how long aligning the scene took.
        errors: distance of both eyes of the aligned scene from their target, as a fraction of the face's width.
    """

    inputs: list[NDArray[np.uint8] | None]
    seconds: float
    errors: list[float]


WAYS = ("photos", "photos, aligned", "scenes", "scenes, aligned")
"""What is scored: the photos of the test pairs, and scenes with them."""


def measure_alignment(run: Path, root: Path, images: str) -> tuple[str, dict[str, Any]]:
    """Score View 1's test pairs in each of `WAYS`; a pair without a face counts as wrong."""
    pairs, folder = read_pairs(root / TEST_LIST), root / images
    names = sorted({name for pair in pairs for name in (pair.image1, pair.image2)})
    others = sorted({pair.image1 for pair in read_pairs(root / TRAIN_LIST)})
    plain, aligning = Verifier.load(run), Verifier.load(run, align=True)

    def measure(number: int) -> Measured:
        rng = np.random.default_rng(number)
        photo = Image.open(folder / names[number]).convert("RGB")
        background = Image.open(folder / others[rng.integers(len(others))]).convert("RGB")
        scene = scene_of(photo, background, rng).image
        inputs = [_read(*way) for way in ((plain, photo), (aligning, photo), (plain, scene))]
        started = time.perf_counter()
        inputs.append(_read(aligning, scene))
        return Measured(inputs, time.perf_counter() - started, _errors(scene) if number < 300 else [])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(measure, range(len(names))))
    rows = []
    for column, what in enumerate(WAYS):
        found = {name: one.inputs[column] for name, one in zip(names, measured, strict=True)}
        usable = {name: pixels for name, pixels in found.items() if pixels is not None}
        row_of = {name: row for row, name in enumerate(usable)}
        kept = [pair for pair in pairs if pair.image1 in row_of and pair.image2 in row_of]
        embeddings = plain.embed_pixels(torch.from_numpy(np.stack(list(usable.values()))))
        answers = plain.compare(embeddings, [(row_of[pair.image1], row_of[pair.image2]) for pair in kept])
        right = sum(answer.same == bool(pair.label) for answer, pair in zip(answers, kept, strict=True))
        shares = (right / len(pairs), *wilson(right, len(pairs)))
        rows.append([what, len(found) - len(usable), *(f"{100 * share:.1f} %" for share in shares)])
    text = table(["", "without a face", "accuracy", "95 % confidence interval from", "to"], rows)
    errors = [one.errors for one in measured if one.errors]
    near = sum(max(both) < 0.03 for both in errors)
    distance = 100 * median([error for both in errors for error in both])
    seconds = median([one.seconds for one in measured])
    text += (
        f"\n\n{len(pairs)} pairs, {len(names)} photos. Both eyes are within 3 % of the face's width of their target on "
        f"{near} of {len(errors)} aligned scenes (median distance {distance:.2f} %). Aligning takes "
        f"{1e3 * seconds:.0f} ms, {os.cpu_count()} photos at a time."
    )
    return text, {"rows": rows, "errors": errors}


def _read(verifier: Verifier, image: Image.Image) -> NDArray[np.uint8] | None:
    try:
        return verifier.read(image)
    except DataError:  # no face
        return None


def _errors(scene: Image.Image) -> list[float]:
    """See `Measured`; empty if no face was found."""
    if not faces.find_faces(scene):
        return []
    aligned, _ = faces.align_eyes(scene)
    width = faces.find_faces(aligned)[0].box[2]
    return [math.dist(*both) / width for both in zip(faces.locate_eyes(aligned), faces.EYES, strict=True)]
