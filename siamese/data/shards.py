"""Decoded images on disk: files of up to `LARGEST` bytes, added and removed whole, and read image by image.

A shard is a file ``ID.pixels`` (the images one after the other, each followed by its thumbnail) and an index
``ID.json`` (what they were decoded from, and their checksums). While a shard is written, its index is replaced every
minute; what the index does not list does not count. Images are read with ``pread``, not through a memory map: a file
that was cut short, or a disk that fails, is then an error instead of the end of the process, and what is read is not
counted as the process's memory.

Shapes: N images, C channels, H = W pixels.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese.data.images import SIDE
from siamese.errors import DataError
from siamese.files import write_text_atomically

LARGEST = 1 << 30
"""Most bytes of a shard: many small files would be as slow as the photos themselves."""

SAVE_SECONDS = 60
"""Seconds after which the index is written again, so that a process that is killed loses no more than this."""

Stat = tuple[int, int, int]
"""Size in bytes, modification time in nanoseconds and inode of an image file."""


def stat_of(file: str | Path) -> Stat:
    """Return the `Stat` of a file; raises OSError, or ValueError for a NUL character in its name."""
    found = os.stat(file)  # noqa: PTH116 - Path.stat takes 1.5 times as long
    return found.st_size, found.st_mtime_ns, found.st_ino & (1 << 63) - 1  # to fit int64


class DamagedError(DataError):
    """A shard, or an image in it, is not what was written; the message says why."""


class Shard:
    """Some decoded images on disk.

    Attributes:
        index: path of ``ID.json``.
        shape: C, H, W.
        names: file names of the images.
        stats: int64 [N, 3], `Stat` of each file when it was decoded.
        digests: `siamese.files.file_digest` of each.
        crcs: uint32 [N], CRC-32 of the pixels and the thumbnail of each image.
        failed: file name -> its `Stat`, and why it cannot be used.

    Raises:
        DamagedError: a file is missing, cut short, or no index.
        OSError: any other reason why it cannot be opened.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            found: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
            channels, height, width = map(int, found["shape"])
            self.shape: tuple[int, int, int] = (channels, height, width)
            self.names: list[str] = found["names"]
            self.stats: NDArray[np.int64] = np.array(found["stats"], np.int64).reshape(-1, 3)
            self.digests: list[str] = found["digests"]
            self.crcs: NDArray[np.uint32] = np.array(found["crcs"], np.uint32)
            self.failed: dict[str, tuple[Stat, str]] = {n: (tuple(s), why) for n, (s, why) in found["failed"].items()}
            if not len(self.names) == len(self.stats) == len(self.digests) == len(self.crcs):
                raise ValueError("its columns differ in length")
            self._file = self.pixels.open("rb", buffering=0)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{index}: {error}") from None
        self.pixel_bytes: int = channels * height * width
        if os.fstat(self._file.fileno()).st_size < self.size:
            raise DamagedError(f"{self.pixels}: cut short")

    @property
    def pixels(self) -> Path:
        """The path of ``ID.pixels``."""
        return self.index.with_suffix(".pixels")

    @property
    def size(self) -> int:
        """The bytes of all images and thumbnails."""
        return len(self) * (self.pixel_bytes + SIDE**2)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int, check: bool = False) -> NDArray[np.uint8]:
        """Read the pixels and the thumbnail of an image, uint8 [C * H * W + SIDE * SIDE].

        Raises:
            DamagedError: they could not be read, or ``check`` is true and their checksum is wrong.
        """
        size = self.pixel_bytes + SIDE**2
        try:
            data = os.pread(self._file.fileno(), size, row * size)
        except OSError as error:
            raise DamagedError(f"{self.pixels}: {error}") from None
        if len(data) != size or (check and zlib.crc32(data) != self.crcs[row]):
            raise DamagedError(f"{self.pixels}: wrong checksum of {self.names[row]}")
        return np.frombuffer(data, np.uint8)

    def is_sound(self, row: int) -> bool:
        """Whether an image can be read and has its checksum."""
        with suppress(DamagedError):
            self.read(row, check=True)
            return True
        return False

    def remove(self) -> None:
        """Delete the files; on a local disk, processes that have opened the shard can still read it."""
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
        self._number = max((int(path.name[:6]) for path in shard_files(folder)), default=0)
        self._file: BufferedWriter
        self._open()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError:  # such as a full disk; the index that was written last is still valid
            if self._listed:
                os.truncate(self._path, self._listed * (math.prod(self.shape) + SIDE**2))
            else:
                self._path.unlink()
            if kind is None:
                raise

    def add(
        self, names: Sequence[str], stats: Sequence[Stat], digests: Sequence[str], records: NDArray[np.uint8]
    ) -> None:
        """Write images.

        Args:
            names, stats, digests: as the attributes of `Shard`.
            records: uint8 [N, C * H * W + SIDE * SIDE], as `Shard.read` returns them.
        """
        records = np.ascontiguousarray(records)
        crcs = [zlib.crc32(record) for record in records]
        self._file.write(records.data)
        self._rows += zip(names, stats, digests, crcs, strict=True)  # at once: a signal may end the process here
        if len(self._rows) * records.shape[1] >= LARGEST:
            self.close()
            self._open()
        elif time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def fail(self, name: str, stat: Stat, reason: str) -> None:
        """Note a file that cannot be used, and why."""
        self._failed[name] = stat, reason

    def close(self) -> None:
        """Complete the shard; an empty one is removed."""
        with self._file:
            self.save()
        if not self._rows and not self._failed:
            self._path.unlink()

    def save(self) -> None:
        """Write the index, so that what was added so far is kept whatever happens."""
        if not self._rows and not self._failed:
            return
        self._file.flush()
        names, stats, digests, crcs = map(list, zip(*self._rows, strict=True)) if self._rows else ([], [], [], [])
        index = {
            "shape": self.shape, "names": names, "stats": stats, "digests": digests, "crcs": crcs,
            "failed": self._failed,
        }  # fmt: skip
        write_text_atomically(self._path.with_suffix(".json"), json.dumps(index))
        self._listed = len(names)
        self._saved = time.monotonic()

    def _open(self) -> None:
        self._number += 1
        # The second part, so that no process takes this shard for another one that was removed.
        self._path = self.folder / f"{self._number:06d}-{secrets.token_hex(4)}.pixels"
        self._rows: list[tuple[str, Stat, str, int]] = []
        self._failed: dict[str, tuple[Stat, str]] = {}
        self._listed = 0
        self._saved = time.monotonic()
        self._file = self._path.open("wb")


def shard_files(folder: Path) -> Iterator[Path]:
    """Yield the indices ``ID.json`` of the shards in a folder, in the order in which they were written."""
    return iter(sorted(path for path in folder.glob("*.json") if re.fullmatch(r"\d{6}-[0-9a-f]{8}", path.stem)))
