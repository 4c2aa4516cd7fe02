"""The decoded images of a data set as one uint8 array, cached on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from siamese.config.data import ImageOptions
from siamese.data.copies import Grey, find_copies, thumbnail
from siamese.data.images import open_image, prepare_upright, upright, why_unusable
from siamese.errors import DataError

log = logging.getLogger(__name__)

PERMANENT = {None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Error numbers that are the file's fault (Pillow's errors have none). After any other, the file is tried again."""

MOST_SEARCHED = 30_000
"""Most images that are searched for copies: half a minute on two cores, and the time grows with the square."""

CHUNK = 64
"""Images that a thread decodes at a time."""

FORMAT = 4
"""Version of the cache. Raise it if decoding changes: old entries are then rebuilt."""


Decoded = tuple[NDArray[np.uint8], Grey]
"""The network's input of an image, uint8 [C, H, W], and its thumbnail for `siamese.data.copies`."""


@dataclass(frozen=True)
class ImageArray:
    """Decoded images.

    Attributes:
        names: file names relative to the image folder, sorted; only files that could be decoded.
        pixels: uint8 [N, C, H, W] in the order of ``names``; C is 1 (grey) or 3 (RGB).
        excluded: file name -> why it could not be used.
        copies: groups of file names, each of copies of one photo; None if not searched (`MOST_SEARCHED`).
    """

    names: list[str]
    pixels: NDArray[np.uint8]
    excluded: dict[str, str]
    copies: list[list[str]] | None


def load_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> ImageArray:
    """Decode the named images below ``root``, or read them from the cache if nothing has changed.

    The cache holds one entry for each combination of folder, names and options. If the size or modification time of any
    file differs, the entry is stale and is replaced. A file that fails for a reason that may pass (an I/O error, a
    missing permission) is excluded this time, and nothing is cached. An entry is built in a temporary folder that is
    renamed when complete, so an interrupted build leaves no readable entry. If several processes need the same entry,
    one builds it and the others wait.

    Args:
        root: the image folder.
        names: file names relative to ``root``; duplicates are ignored.
        options: size, colour, crop, interpolation and the cache folder.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        DataError: the cache folder cannot be written.
    """
    names = sorted(set(names))
    slot = Path(options.cache) / _slot(root, names, options)
    signature = _signature(root, names)
    try:
        slot.mkdir(parents=True, exist_ok=True)
        with FileLock(slot / "lock"):
            found = _read(slot / signature)
            if found is None:
                log.info("decoding images: %s; later runs read them from %s", f"{len(names):,}", options.cache)
                found, lasting = _build(root, names, options, progress)
                if lasting:
                    _write(slot, signature, found)
    except OSError as error:
        raise DataError(
            f"data.cache={options.cache}: {error}; set data.cache to a folder that can be written"
        ) from None
    return found


def _slot(root: Path, names: Sequence[str], options: ImageOptions) -> str:
    """The folder name for all that determines the entry but the files' content."""
    pixels = [options.image_size, options.color, options.align, options.crop, options.interpolation]
    key = [FORMAT, str(root.resolve()), *pixels]
    return _digest(json.dumps([key, list(names)]))


def _signature(root: Path, names: Sequence[str]) -> str:
    """A digest of the files' sizes and modification times."""
    stats: list[tuple[int, int] | None] = []
    for name in names:
        try:
            stat = os.stat(root / name)  # noqa: PTH116 - thousands of files: Path.stat takes 1.5 times as long
            stats.append((stat.st_size, stat.st_mtime_ns))
        except (OSError, ValueError):
            stats.append(None)
    return _digest(json.dumps(stats))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(root: Path, names: Sequence[str], options: ImageOptions, progress: bool) -> tuple[ImageArray, bool]:
    """Decode all images; also return whether the result may be cached (no failure that may pass)."""
    may_pass: list[str] = []

    def attempt(name: str) -> Decoded | str:
        try:
            return decode_with_thumbnail(root / name, options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
            if isinstance(error, OSError) and error.errno not in PERMANENT:
                may_pass.append(name)
            return why_unusable(error)

    # Pillow releases the interpreter lock while decoding and resizing. Handing over single images would cost as much as
    # the threads gain.
    chunks = [names[first : first + CHUNK] for first in range(0, len(names), CHUNK)]
    decoded: list[Decoded | str] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc="decoding", total=len(names), unit="image", leave=False, disable=None if progress else True) as bar,
    ):
        for part in pool.map(lambda chunk: [attempt(name) for name in chunk], chunks):
            decoded += part
            bar.update(len(part))
    good = [(name, image) for name, image in zip(names, decoded, strict=True) if not isinstance(image, str)]
    bad = {name: reason for name, reason in zip(names, decoded, strict=True) if isinstance(reason, str)}
    side = options.image_size
    empty = np.zeros((0, options.channels, side, side), np.uint8)
    pixels = np.stack([image for _, (image, _) in good]) if good else empty
    used = [name for name, _ in good]
    copies = None
    if len(used) <= MOST_SEARCHED:
        groups = find_copies([small for _, (_, small) in good], progress)
        copies = [[used[row] for row in group] for group in groups]
    return ImageArray(used, pixels, bad, copies), not may_pass


def decode_with_thumbnail(file: Path, options: ImageOptions) -> Decoded:
    """Read an image file as the network's input and as a thumbnail; raises as `siamese.data.images.decode`."""
    with open_image(file) as image:
        longer = max(image.size)
        whole = upright(image)
        return prepare_upright(whole, longer / max(whole.size), options).pixels, thumbnail(whole)


def _write(slot: Path, signature: str, images: ImageArray) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="building-", dir=slot))
    try:
        with (temporary / "pixels.npy").open("xb") as file:
            # np.save would report a full disk as a mismatch of two numbers.
            pixels = np.ascontiguousarray(images.pixels)
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
            file.write(pixels.data)
        crc = _checksum(images.pixels)
        index = {"names": images.names, "excluded": images.excluded, "copies": images.copies, "crc32": crc}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        for old in slot.iterdir():
            # This process holds the lock, so every other entry is stale or left by a build that was killed.
            if old.is_dir() and old.name != temporary.name:  # by name: mkdtemp returns absolute paths from Python 3.12
                shutil.rmtree(old)
        temporary.rename(slot / signature)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(entry: Path) -> ImageArray | None:
    """Read an entry; None if it is absent or damaged."""
    try:
        index: dict[str, Any] = json.loads((entry / "index.json").read_text(encoding="utf-8"))
        # Memory-mapped, so that concurrent runs share the pages. Copy on write, because torch requires writable arrays.
        pixels: NDArray[np.uint8] = np.load(entry / "pixels.npy", mmap_mode="c")
        if len(pixels) == len(index["names"]) and _checksum(pixels) == index["crc32"]:
            return ImageArray(index["names"], pixels, index["excluded"], index["copies"])
        reason = "wrong checksum"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = str(error)
    log.warning("%s is damaged (%s); rebuilding it", entry, reason)
    return None


def _checksum(pixels: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)
