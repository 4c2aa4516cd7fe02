"""How a photo becomes the network's input: open, turn upright, make grey or RGB, crop, resize.

`crop_box` is the only place that decides which part of a photo the network sees; `siamese.data.image_cache` decodes
all images of a data set and keeps the result on disk. If you change how images are decoded or cropped, raise ``FORMAT``
there; otherwise old pixels are used.
"""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from siamese.config.data import ImageOptions

LARGEST = 100_000_000
"""Most pixels of a photo: 0.3 GB in colour. A larger file is a mistake, or made to exhaust the memory."""

LONGEST = 100_000
"""Most pixels on one side: Pillow keeps a pointer to each row, 1.6 GB for a column of 100 million pixels."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Values of ``data.interpolation``."""


def decode(path: Path, options: ImageOptions) -> NDArray[np.uint8]:
    """Read an image file as the network's input, uint8 [C, H, W].

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file is missing, is not a usable image, is
            smaller than the crop, or has more than `LARGEST` pixels or more than `LONGEST` on a side. Pillow's decoders
            may raise other exceptions on a damaged file. `why_unusable` puts the reason into words.
    """
    with open_image(path) as image:
        return to_input(image, options)


def open_upright(path: Path, at_least: int | None = None) -> Image.Image:
    """Open a photo as the network sees it before cropping and resizing: upright, 8 bits, transparency on white.

    Args:
        path: the image file.
        at_least: allow decoding a large JPEG at a fraction of its size, with at least this many pixels on each side;
            None: full size.

    Raises:
        as `decode`.
    """
    with open_image(path) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        return upright(image)


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding its pixels; raises as `decode`."""
    if not stat.S_ISREG(path.stat().st_mode):  # reading would wait for a pipe, and never end for a device
        raise ValueError("not a regular file")
    return Image.open(path)


def to_input(image: Image.Image, options: ImageOptions) -> NDArray[np.uint8]:
    """Convert an opened photo to the network's input, uint8 [C, H, W] with C = 1 (grey) or 3 (RGB); raises as `decode`.

    Of an animation, the first frame is used.
    """
    image = upright(image).convert("RGB" if options.color else "L")
    image = image.crop(crop_box(image.size, options))
    side = options.image_size
    image = image.resize((side, side), RESAMPLING[options.interpolation])
    return np.asarray(image, dtype=np.uint8).reshape(side, side, -1).transpose(2, 0, 1)


def upright(image: Image.Image) -> Image.Image:
    """Decode an opened photo, turned by its EXIF orientation, with 8 bits per band, on white; raises as `decode`."""
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST:,}")
    if max(image.size) > LONGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {LONGEST:,} on a side")
    return _eight_bits(ImageOps.exif_transpose(image))


def crop_box(size: tuple[int, int], options: ImageOptions) -> tuple[int, int, int, int]:
    """The part of a photo that the network sees: the central square of ``data.crop``, or all if it is null.

    Args:
        size: (width, height) of the upright photo, pixels.
        options: ``crop`` is the side of the square, in pixels (int) or as a fraction of the shorter side (float).

    Returns:
        left, upper, right and lower edge, pixels.

    Raises:
        ValueError: the photo is smaller than the crop.
    """
    if options.crop is None:
        return 0, 0, *size
    crop = options.crop if isinstance(options.crop, int) else max(1, round(options.crop * min(size)))
    if min(size) < crop:
        raise ValueError(f"{size[0]} x {size[1]} pixels, smaller than data.crop={crop}")
    left, top = ((side - crop) // 2 for side in size)
    return left, top, left + crop, top + crop


def why_unusable(error: Exception) -> str:
    """The reason why a photo cannot be used, in words, from the exception that `decode` raised."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a type that Pillow does not read"
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert to 8 bits per band (the upper 8 of 16), without transparency."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no defined white")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip values above 255
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
