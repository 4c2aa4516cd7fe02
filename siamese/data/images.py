"""Image files decoded once into a uint8 array, kept on disk under a key of all that determines it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
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
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from siamese.config.schema import ImageOptions
from siamese.errors import DataError

log = logging.getLogger(__name__)

OF_THE_FILE = {None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Error numbers of a file that is no image; Pillow's own errors have none. All others may be gone the next time."""

CHUNK = 64
"""Images that a thread decodes at a time."""

LARGEST = 100_000_000
"""Pixels of a photo that is still decoded: 0.3 GB in colour. More is a mistake, or meant to exhaust the memory."""

LONGEST = 100_000
"""Pixels of its longer side: Pillow keeps pointers to each row, 1.6 GB for a line of 50 million pixels."""

FORMAT = 2
"""Version of what the pixels mean; raise it when decoding changes, and old caches are built anew."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImageArray:
    """Decoded images.

    Attributes:
        names: file names relative to the image folder, sorted; only files that could be decoded.
        pixels: uint8 [N, C, H, W] in the order of ``names``; C is 1 (grey) or 3 (RGB).
        excluded: file name -> why it could not be used.
    """

    names: list[str]
    pixels: NDArray[np.uint8]
    excluded: dict[str, str]


def decode(path: Path, options: ImageOptions) -> NDArray[np.uint8]:
    """One image file as uint8 [C, H, W]: turned as its EXIF says, grey or RGB, cropped, resized.

    What is transparent is shown on white, of an animation the first picture, and of 16 bits the upper eight.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file is missing, no usable image, smaller
            than the crop, or has more than `LARGEST` pixels, or `LONGEST` on a side.
    """
    with opened(path) as file:
        return as_input(file, options)


def opened(path: Path) -> Image.Image:
    """An image file, not decoded yet; raises as `decode`."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device read without end
        raise ValueError("not a regular file")
    return Image.open(path)


def as_input(image: Image.Image, options: ImageOptions) -> NDArray[np.uint8]:
    """A picture as the network's input, uint8 [C, H, W]; as `decode`."""
    image = upright(image).convert("RGB" if options.color else "L")
    image = image.crop(crop_box(image.size, options))
    side = options.image_size
    image = image.resize((side, side), _RESAMPLING[options.interpolation])
    return np.asarray(image, dtype=np.uint8).reshape(side, side, -1).transpose(2, 0, 1)


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says, in bands of eight bits, without transparency; raises as `decode`."""
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, which is more than {LARGEST:,}")
    if max(image.size) > LONGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, which is more than {LONGEST:,} on a side")
    return _eight_bits(ImageOps.exif_transpose(image))


def crop_box(size: tuple[int, int], options: ImageOptions) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of what the network sees of a photo of ``size`` (width, height).

    Raises:
        ValueError: the photo is smaller than the crop.
    """
    if options.crop is None:
        return 0, 0, *size
    crop = options.crop if isinstance(options.crop, int) else max(1, round(options.crop * min(size)))
    if min(size) < crop:
        raise ValueError(f"{size[0]} x {size[1]} pixels, which is less than data.crop={crop}")
    left, top = ((side - crop) // 2 for side in size)
    return left, top, left + crop, top + crop


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image without transparency whose bands have eight bits."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which none says what is white")
    if image.mode.startswith("I"):  # Pillow would cut off what is above 255 when it converts these
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def why_unusable(error: Exception) -> str:
    """In words what `decode` raised."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a type that Pillow does not read"
    return f"does not decode: {' '.join(str(error).split()) or type(error).__name__}"


def load_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> ImageArray:
    """The named images below ``root``, from the cache when nothing changed since they were decoded.

    The cache holds one entry for each (folder, names, options); an entry is stale when any file's size or
    modification time differs, and is then replaced. What could not be read for another reason than the file itself (a
    disk or network that failed, a missing permission) is excluded this time and not remembered. An entry is built in a
    temporary folder that is renamed when complete, so a killed build leaves nothing that could be read; of several
    processes one builds it.

    Args:
        root: the image folder.
        names: relative file names; repeated ones count once.
        options: size, colour, crop, interpolation and the cache's folder.
        progress: show a bar when standard error is a terminal.

    Raises:
        DataError: the cache's folder cannot be written.
    """
    names = sorted(set(names))
    slot = Path(options.cache) / _slot(root, names, options)
    signature = _signature(root, names)
    try:
        slot.mkdir(parents=True, exist_ok=True)
        with FileLock(slot / "lock"):
            found = _read(slot / signature)
            if found is None:
                found, lasting = _build(root, names, options, progress)
                if lasting:
                    _write(slot, signature, found)
    except OSError as error:
        raise DataError(f"data.cache={options.cache}: {error}; name a folder that can be written") from None
    return found


def _slot(root: Path, names: Sequence[str], options: ImageOptions) -> str:
    key = [FORMAT, str(root.resolve()), options.image_size, options.color, options.crop, options.interpolation]
    return _digest(json.dumps([key, list(names)]))


def _signature(root: Path, names: Sequence[str]) -> str:
    stats: list[tuple[int, int] | None] = []
    for name in names:
        try:
            stat = os.stat(root / name)  # noqa: PTH116 - thousands of files: Path.stat costs half again as much
            stats.append((stat.st_size, stat.st_mtime_ns))
        except (OSError, ValueError):
            stats.append(None)
    return _digest(json.dumps(stats))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _build(root: Path, names: Sequence[str], options: ImageOptions, progress: bool) -> tuple[ImageArray, bool]:
    """Decode all, and whether another time would find the same: not where the machine failed instead of a file."""
    failures: list[str] = []

    def attempt(name: str) -> NDArray[np.uint8] | str:
        try:
            return decode(root / name, options)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
            reason = why_unusable(error)
            if isinstance(error, OSError) and error.errno not in OF_THE_FILE:
                failures.append(reason)
            return reason

    # Pillow gives up the interpreter lock while it decodes and resizes; image by image, handing it over would cost
    # as much as that gains.
    chunks = [names[first : first + CHUNK] for first in range(0, len(names), CHUNK)]
    decoded: list[NDArray[np.uint8] | str] = []
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
    pixels = np.stack([image for _, image in good]) if good else empty
    return ImageArray([name for name, _ in good], pixels, bad), not failures


def _write(slot: Path, signature: str, images: ImageArray) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="building-", dir=slot))
    try:
        with (temporary / "pixels.npy").open("xb") as file:
            # Not np.save, which tells of a full disk as of two numbers.
            pixels = np.ascontiguousarray(images.pixels)
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(pixels))
            file.write(pixels.data)
        index = {"names": images.names, "excluded": images.excluded, "crc32": _checksum(images.pixels)}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        for old in slot.iterdir():
            # Under the lock, so whatever else lies here is stale or was left by a build that was killed.
            if old.is_dir() and old.name != temporary.name:  # mkdtemp's path is absolute from Python 3.12 on
                shutil.rmtree(old)
        temporary.rename(slot / signature)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(entry: Path) -> ImageArray | None:
    """The entry, or None when it is not there or damaged."""
    try:
        index: dict[str, Any] = json.loads((entry / "index.json").read_text(encoding="utf-8"))
        # Mapped: runs side by side share the pages. Copy on write, since torch wants to be able to write.
        pixels: NDArray[np.uint8] = np.load(entry / "pixels.npy", mmap_mode="c")
        if len(pixels) == len(index["names"]) and _checksum(pixels) == index["crc32"]:
            return ImageArray(index["names"], pixels, index["excluded"])
        reason = "its checksum is wrong"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = str(error)
    log.warning("%s is damaged (%s) and is built anew", entry, reason)
    return None


def _checksum(pixels: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)
