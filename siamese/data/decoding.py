"""Decode the images of a data set on all cores. Imports no torch, because each process that decodes imports this."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese.config.data import ImageOptions
from siamese.data.images import SIDE, NeedsPackageError, decode_with_thumbnail, why_unusable
from siamese.data.shards import Stat, stat_of
from siamese.files import file_digest
from siamese.parallel import cores, in_order, showing_progress

PERMANENT = {None, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Error numbers that are the file's fault (Pillow's errors have none). After any other, the file is tried again."""

CHUNK, CHUNK_BYTES = 64, 4 << 20
"""Most images, and about the most bytes, that a worker decodes at a time. Handing over single images would cost as much
as several workers gain; large chunks of large images would fill the memory."""

PROCESSES_FROM = 10_000
"""Images from which they are decoded in processes. These take a second to start; but Pillow holds the interpreter lock
for a third of the time, so threads keep three cores busy at most."""


class Decoded(NamedTuple):
    """Some decoded images, and those of their files that could not be used.

    Attributes:
        names: names of the files that could be decoded.
        stats: `siamese.data.shards.Stat` of each of ``names``.
        digests: `siamese.files.file_digest` of each of ``names``.
        records: uint8 [N, C * H * W + SIDE * SIDE], the pixels of each of ``names`` and its thumbnail for
            `siamese.data.copies`.
        failed: file name -> why it could not be used.
        may_pass: those of ``failed`` that may succeed another time (an I/O error, a missing permission or package).
    """

    names: list[str]
    stats: list[Stat]
    digests: list[str]
    records: NDArray[np.uint8]
    failed: dict[str, str]
    may_pass: set[str]


def decode_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> Iterator[Decoded]:
    """Decode the named images below ``root``, a few at a time and in order, and log the progress every minute.

    Args:
        root: the image folder.
        names: file names relative to ``root``.
        options: size, colour, alignment, crop and interpolation.
        progress: show a bar instead if standard error is a terminal.

    Raises:
        MemoryError: an image needs more memory than there is.
        WorkerKilledError: as `siamese.parallel.in_order`.
    """
    size = max(1, min(CHUNK, CHUNK_BYTES // (options.channels * options.image_size**2)))
    chunks = (names[first : first + size] for first in range(0, len(names), size))
    processes = len(names) >= PROCESSES_FROM and cores() > 1
    with showing_progress("decoding", len(names), progress) as advance:
        for part in in_order(partial(decode_some, root, options), chunks, processes):
            yield part
            advance(len(part.names) + len(part.failed))


def decode_some(root: Path, options: ImageOptions, names: Sequence[str]) -> Decoded:
    """Decode images one after the other; arguments and errors as for `decode_images`."""
    size = options.channels * options.image_size**2
    records = np.empty((len(names), size + SIDE**2), np.uint8)
    found = Decoded([], [], [], records, {}, set())
    for name in names:
        row = len(found.names)
        try:
            before = stat_of(root / name)
            image, thumbnail = decode_with_thumbnail(root / name, options)
            digest = file_digest(root / name)
            if not digest or stat_of(root / name) != before:
                raise OSError(errno.EAGAIN, "changed while it was read")
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
            if (isinstance(error, OSError) and error.errno not in PERMANENT) or isinstance(error, NeedsPackageError):
                found.may_pass.add(name)
            found.failed[name] = why_unusable(error)
        else:
            records[row, :size], records[row, size:] = image.reshape(-1), thumbnail.reshape(-1)
            found.names.append(name)
            found.stats.append(before)
            found.digests.append(digest)
    return found._replace(records=records[: len(found.names)])
