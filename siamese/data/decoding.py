"""Decode the images of a data set on all cores. Imports no torch, because each process that decodes imports this."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from siamese.config.data import ImageOptions
from siamese.data.images import SIDE, decode_with_thumbnail, why_unusable
from siamese.files import file_digest
from siamese.parallel import cores, in_order
from siamese.text import duration

log = logging.getLogger(__name__)

PERMANENT = {None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Error numbers that are the file's fault (Pillow's errors have none). After any other, the file is tried again."""

CHUNK = 64
"""Images that a worker decodes at a time. Handing over single images would cost as much as several workers gain."""

PROCESSES_FROM = 10_000
"""Images from which they are decoded in processes. These take a second to start; but Pillow holds the interpreter lock
for a third of the time, so threads keep three cores busy at most."""

REPORT_SECONDS = 60
"""Seconds between two lines in the log while images are decoded."""


class Decoded(NamedTuple):
    """Some decoded images, and those of their files that could not be used.

    Attributes:
        names: names of the files that could be decoded.
        pixels: uint8 [N, C, H, W] in the order of ``names``.
        thumbnails: uint8 [N, SIDE, SIDE], for `siamese.data.copies`.
        digests: `siamese.files.file_digest` of each of ``names``.
        failed: file name -> why it could not be used.
        may_pass: those of ``failed`` that may succeed another time (an I/O error, a missing permission).
    """

    names: list[str]
    pixels: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    digests: list[str]
    failed: dict[str, str]
    may_pass: set[str]


def decode_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> Iterator[Decoded]:
    """Decode the named images below ``root``, a few at a time and in order, and log the progress every minute.

    Args:
        root: the image folder.
        names: file names relative to ``root``.
        options: size, colour, alignment, crop and interpolation.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        MemoryError: an image needs more memory than there is.
        TrainingError: as `siamese.parallel.in_order`.
    """
    chunks = (names[first : first + CHUNK] for first in range(0, len(names), CHUNK))
    processes = len(names) >= PROCESSES_FROM and cores() > 1
    started = reported = time.monotonic()
    done = 0
    with tqdm(desc="decoding", total=len(names), unit="image", leave=False, disable=None if progress else True) as bar:
        for part in in_order(partial(decode_some, root, options), chunks, processes):
            yield part
            done += len(part.names) + len(part.failed)
            bar.update(len(part.names) + len(part.failed))
            if (now := time.monotonic()) - reported >= REPORT_SECONDS:
                reported, rate = now, done / (now - started)
                log.info(
                    "decoded %s of %s images, %s a second; %s left", f"{done:,}", f"{len(names):,}", f"{rate:,.0f}",
                    duration((len(names) - done) / rate),
                )  # fmt: skip


def decode_some(root: Path, options: ImageOptions, names: Sequence[str]) -> Decoded:
    """Decode images one after the other; arguments and errors as for `decode_images`."""
    good: list[str] = []
    images: list[NDArray[np.uint8]] = []
    thumbnails: list[NDArray[np.uint8]] = []
    failed: dict[str, str] = {}
    may_pass: set[str] = set()
    for name in names:
        try:
            image, thumbnail = decode_with_thumbnail(root / name, options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
            if isinstance(error, OSError) and error.errno not in PERMANENT:
                may_pass.add(name)
            failed[name] = why_unusable(error)
        else:
            good.append(name)
            images.append(image)
            thumbnails.append(thumbnail)
    side = options.image_size
    pixels, small = (
        np.empty((len(good), options.channels, side, side), np.uint8),
        np.empty((len(good), SIDE, SIDE), np.uint8),
    )
    for row, (image, thumbnail) in enumerate(zip(images, thumbnails, strict=True)):
        pixels[row], small[row] = image, thumbnail
    return Decoded(good, pixels, small, [file_digest(root / name) for name in good], failed, may_pass)
