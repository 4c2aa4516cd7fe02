"""Decoded images on disk: files of up to `LARGEST` bytes, added and removed whole, and read image by image.

A shard is a file ``ID.pixels`` (the images one after the other, then their thumbnails) and a file ``ID.json`` (what
they were decoded from, and a checksum of each). The second is written last, so a ``.pixels`` without it was left by a
process that was killed. Images are read with ``pread``, not through a memory map: a file that was cut short, or a disk
that fails, is then an error instead of the end of the process, and what is read is not counted as the process's memory.

Shapes: N images, C channels, H = W pixels.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese.data.images import SIDE
from siamese.files import write_text_atomically

LARGEST = 1 << 30
"""Most bytes of images in a shard: many small files would be as slow as the photos themselves."""

LONGEST_SECONDS = 60
"""Seconds after which a shard is closed, so that a process that is killed loses no more than this."""

Stat = tuple[int, int]
"""Size in bytes and modification time in nanoseconds of an image file."""


class DamagedError(Exception):
    """A shard cannot be read; the message says why."""


class Shard:
    """Some decoded images on disk; raises `DamagedError` if the shard cannot be opened.

    Attributes:
        index: path of ``ID.json``.
        shape: C, H, W.
        names: file names of the images.
        stats: int64 [N, 2], `Stat` of each file when it was decoded.
        digests: `siamese.files.file_digest` of each.
        crcs: CRC-32 of each image's pixels.
        failed: file name -> its `Stat`, and why it cannot be used.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            found: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
            self.shape: tuple[int, int, int] = tuple(found["shape"])
            self.names: list[str] = found["names"]
            self.stats: NDArray[np.int64] = np.array(found["stats"], np.int64).reshape(-1, 2)
            self.digests: list[str] = found["digests"]
            self.crcs: list[int] = found["crcs"]
            self.failed: dict[str, tuple[Stat, str]] = {n: (tuple(s), why) for n, (s, why) in found["failed"].items()}
            self._thumbnails_crc: int = found["thumbnails_crc"]
            self.bytes_each = int(np.prod(self.shape))
            if not len(self.names) == len(self.stats) == len(self.digests) == len(self.crcs):
                raise ValueError("its columns differ in length")
            self._file = self.pixels.open("rb", buffering=0)
            size = os.fstat(self._file.fileno()).st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(str(error)) from None
        if size != self.size:
            raise DamagedError(f"{self.pixels.name} has {size:,} bytes")

    @property
    def pixels(self) -> Path:
        """The path of ``ID.pixels``."""
        return self.index.with_suffix(".pixels")

    @property
    def size(self) -> int:
        """The bytes of ``ID.pixels``."""
        return len(self) * (self.bytes_each + SIDE**2)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int, image: NDArray[np.uint8], check: bool) -> None:
        """Read an image into a contiguous array.

        Raises:
            DamagedError: it could not be read, or ``check`` is true and its checksum is wrong.
        """
        try:
            got = os.preadv(self._file.fileno(), [image.data.cast("B")], row * self.bytes_each)
        except OSError as error:
            raise DamagedError(str(error)) from None
        if got != self.bytes_each or (check and zlib.crc32(image.data) != self.crcs[row]):
            raise DamagedError(f"wrong checksum of {self.names[row]}")

    def thumbnails(self) -> NDArray[np.uint8]:
        """Return the thumbnails of the images, uint8 [N, SIDE, SIDE]; raises `DamagedError`."""
        size = len(self) * SIDE**2
        data = os.pread(self._file.fileno(), size, len(self) * self.bytes_each)
        if len(data) != size or zlib.crc32(data) != self._thumbnails_crc:
            raise DamagedError("wrong checksum of the thumbnails")
        return np.frombuffer(data, np.uint8).reshape(-1, SIDE, SIDE)

    def images(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield row, image uint8 [C, H, W] and thumbnail of each image; damaged ones are left out."""
        with suppress(DamagedError):
            for row, thumbnail in enumerate(self.thumbnails()):
                image = np.empty(self.shape, np.uint8)
                with suppress(DamagedError):
                    self.read(row, image, check=True)
                    yield row, image, thumbnail

    def remove(self) -> None:
        """Delete the files; processes that have opened the shard can still read it."""
        self.index.unlink(missing_ok=True)
        self.pixels.unlink(missing_ok=True)


class ShardWriter:
    """Writes images to new shards in ``folder``; the caller holds its lock.

    As a context it completes the last shard, also if an exception ends it, so that what was decoded is kept.

    Args:
        folder: where shards lie.
        shape: C, H, W.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        self.folder = folder
        self.shape = shape
        self.written: list[Shard] = []
        self._number = max((int(path.stem) for path in shard_files(folder)), default=0)
        self._open()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, OSError):  # such as a full disk
            self._file.close()
            self._path.unlink(missing_ok=True)
        else:
            self.close()

    def add(
        self, names: Sequence[str], stats: Sequence[Stat], digests: Sequence[str], pixels: NDArray[np.uint8],
        thumbnails: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        """Write images; arguments as the attributes of `Shard` and `siamese.data.decoding.Decoded`."""
        pixels = np.ascontiguousarray(pixels)
        for image in pixels:
            self._crcs.append(zlib.crc32(image))
        self._file.write(pixels.data)
        self._names += names
        self._stats += stats
        self._digests += digests
        self._thumbnails.append(thumbnails)
        if self._file.tell() >= LARGEST or time.monotonic() - self._started > LONGEST_SECONDS:
            self.close()
            self._open()

    def fail(self, name: str, stat: Stat, reason: str) -> None:
        """Note a file that cannot be used, and why."""
        self._failed[name] = stat, reason

    def close(self) -> None:
        """Complete the shard; an empty one is removed."""
        if not self._names and not self._failed:
            self._file.close()
            self._path.unlink()
            return
        thumbnails = b"".join(part.tobytes() for part in self._thumbnails)
        try:
            with self._file:
                self._file.write(thumbnails)
        except OSError:
            self._path.unlink()
            raise
        index = {
            "shape": self.shape, "names": self._names, "stats": self._stats, "digests": self._digests,
            "crcs": self._crcs, "failed": self._failed, "thumbnails_crc": zlib.crc32(thumbnails),
        }  # fmt: skip
        write_text_atomically(self._path.with_suffix(".json"), json.dumps(index))
        self.written.append(Shard(self._path.with_suffix(".json")))

    def _open(self) -> None:
        self._number += 1
        self._path = self.folder / f"{self._number:06d}.pixels"
        self._file = self._path.open("wb")
        self._started = time.monotonic()
        self._names: list[str] = []
        self._stats: list[Stat] = []
        self._digests: list[str] = []
        self._crcs: list[int] = []
        self._thumbnails: list[NDArray[np.uint8]] = []
        self._failed: dict[str, tuple[Stat, str]] = {}


def shard_files(folder: Path) -> Iterator[Path]:
    """Yield the indices ``ID.json`` of the shards in a folder, in the order in which they were written."""
    return iter(sorted(path for path in folder.glob("*.json") if path.stem.isdecimal()))
