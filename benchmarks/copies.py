"""Error rates of the search for copies of one photo, on copies that are made of LFW's photos and on LFW itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.common import table
from siamese.data.copies import find_copies
from siamese.data.images import thumbnail
from siamese.evaluation.intervals import wilson

KNOWN = {"Carlos_Beltran_0001 = Raul_Ibanez_0001", "Bart_Hendricks_0001 = Ricky_Ray_0001"}
"""Photos that LFW's errata list under two names."""


def measure_copies(folder: Path, number: int = 1000) -> tuple[str, dict[str, Any]]:
    """Search all images below a folder for copies; count how many copies of images of every second person are found.

    Args:
        folder: LFW's image folder.
        number: images to make copies of.
    """
    names = sorted(f"{file.parent.name}/{file.name}" for file in folder.glob("*/*.jpg"))
    people = sorted({name.partition("/")[0] for name in names})
    second = set(people[1::2])  # the threshold was chosen on the other half
    rows_of_half = [row for row, name in enumerate(names) if name.partition("/")[0] in second]
    chosen = np.random.default_rng(0).choice(rows_of_half, number, replace=False)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        small = list(pool.map(lambda name: thumbnail(Image.open(folder / name)), names))
        made = list(pool.map(lambda row: _copies_of(Image.open(folder / names[row])), chosen.tolist()))
    rows = []
    for k, what in enumerate(WAYS):
        groups = find_copies([*(small[row] for row in chosen), *(copies[k] for copies in made)])
        group_of = {image: set(group) for group in groups for image in group}
        found = sum(k + number in group_of.get(k, ()) for k in range(number))
        rows.append([what, f"{found} of {number}", *(f"{100 * end:.1f} %" for end in wilson(found, number))])
    text = table(["copies", "found", "95 % confidence interval from", "to"], rows)
    started = time.perf_counter()
    reported = [[Path(names[row]) for row in group] for group in find_copies(small)]
    seconds = time.perf_counter() - started
    across = [group for group in reported if len({name.parent for name in group}) > 1]
    lines = [" = ".join(name.stem for name in group) for group in reported]
    text += (
        f"\n\n{len(names)} images: {len(reported)} photos reported, {len(across)} of them under the names of several "
        f"people; {len(KNOWN & set(lines))} of the {len(KNOWN)} known are found. {seconds:.0f} s.\n" + "\n".join(lines)
    )
    return text, {"found": rows, "reported": lines}


def _copies_of(photo: Image.Image) -> list[Any]:
    return [thumbnail(change(photo)) for change in WAYS.values()]


def _jpeg(photo: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return Image.open(file)


def _resized(photo: Image.Image, scale: float) -> Image.Image:
    return photo.resize((round(scale * photo.width), round(scale * photo.height)))


def _cropped(photo: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = photo.size
    return photo.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def _all(photo: Image.Image) -> Image.Image:
    return _jpeg(_resized(_cropped(photo, 0.03, 0.03, 0.03, 0.03), 0.7), 50)


WAYS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 75": lambda photo: _jpeg(photo, 75),
    "JPEG, quality 50": lambda photo: _jpeg(photo, 50),
    "JPEG, quality 30": lambda photo: _jpeg(photo, 30),
    "half the size": lambda photo: _resized(photo, 0.5),
    "twice the size": lambda photo: _resized(photo, 2),
    "2 % cut off at each side": lambda photo: _cropped(photo, 0.02, 0.02, 0.02, 0.02),
    "5 % cut off at each side": lambda photo: _cropped(photo, 0.05, 0.05, 0.05, 0.05),
    "5 % cut off at the left and the top": lambda photo: _cropped(photo, 0.05, 0.05, 0, 0),
    "10 % cut off at the bottom": lambda photo: _cropped(photo, 0, 0, 0, 0.1),
    "grey": lambda photo: photo.convert("L"),
    "mirrored": ImageOps.mirror,
    "white border of 5 % at each side": lambda photo: ImageOps.expand(photo, photo.width // 20, "white"),
    "3 % cut off at each side, 70 % of the size, quality 50": _all,
    "the same, mirrored": lambda photo: ImageOps.mirror(_all(photo)),
}
"""What was done to make a copy -> the function."""
