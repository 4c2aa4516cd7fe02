"""How a photo becomes the network's input: open, turn upright, make grey or RGB, crop, resize.

`crop_box` is the only place that decides which part of a photo the network sees; `siamese.data.image_cache` keeps the
decoded images of a data set on disk. If you change how images are decoded or cropped, raise ``FORMAT`` there; otherwise
old pixels are used.
"""

from __future__ import annotations

import stat
import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from siamese.config.data import ImageOptions

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "DIB", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read. It also has plugins for documents, video and scientific arrays, one of
which starts Ghostscript, whatever the name of the file. AVIF and HEIF are read if Pillow has them."""

LARGEST = 134_000_000
"""Most pixels of a photo: 0.5 GB, because Pillow keeps 4 bytes per pixel in colour. Only a JPEG may have more."""

LARGEST_WHOLE = 32_000_000
"""Most pixels of a JPEG that is decoded whole. A larger one is decoded at a fraction of its size."""

REDUCED_FROM, GAP = 1_000_000, 3
"""A JPEG of more pixels than the first is decoded at a fraction of its size if what the network sees of it then still
has more pixels on each side than the network's input, by the second factor."""

LONGEST = 100_000
"""Most pixels on one side: Pillow keeps a pointer to each row, 1.6 GB for a column of 100 million pixels."""

SIDE = 32
"""Side of a thumbnail in which `siamese.data.copies` searches for copies, pixels."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Values of ``data.interpolation``."""

TURNED: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a photo with this EXIF orientation upright."""

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""TIFF tags (TIFF 6.0, section 8)."""

Image.init()  # all plugins, for `open_image`
with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()


class NoFaceError(ValueError):
    """The face to align is not on the photo."""


class NeedsPackageError(ValueError):
    """The photo is of a type that an optional package reads."""


class Prepared(NamedTuple):
    """A photo as the network's input.

    Attributes:
        pixels: uint8 [C, H, W].
        faces: number of faces on the photo; None without ``data.align``.
        face: which of them was aligned, by size; 1 is the largest.
    """

    pixels: NDArray[np.uint8]
    faces: int | None = None
    face: int | None = None


HEIC_ENDINGS = {".heic", ".heif", ".hif"}


def endings() -> set[str]:
    """The endings, in lower case, of the files that are read: those of `FORMATS`."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS and kind in Image.OPEN}


def decode(file: Path | BytesIO, options: ImageOptions) -> NDArray[np.uint8]:
    """Read an image file, or its content, as the network's input, uint8 [C, H, W].

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: the file is missing, is not a usable image, is
            smaller than the crop, or has more than `LARGEST` pixels or more than `LONGEST` on a side. Pillow's decoders
            may raise other exceptions on a damaged file. `why_unusable` puts the reason into words.
    """
    with open_image(file) as image:
        return prepare(image, options).pixels


def decode_with_thumbnail(file: Path, options: ImageOptions) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read an image file as the network's input, and as a `thumbnail`; raises as `decode`."""
    with open_image(file) as image:
        whole, scale = _upright_for(image, options)
        return prepare_upright(whole, scale, options).pixels, thumbnail(whole)


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return what is compared of an upright photo to find copies: all of it, grey, uint8 [SIDE, SIDE]."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


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
        return upright(image, 1 if at_least is None else min(image.size) // at_least)


def open_image(file: Path | BytesIO) -> Image.Image:
    """Open an image file of one of `FORMATS`, whatever its name, without decoding its pixels; raises as `decode`."""
    if isinstance(file, BytesIO):
        start = file.getvalue()[:16]
    elif stat.S_ISREG(file.stat().st_mode):
        with file.open("rb") as opened:
            start = opened.read(16)
    else:  # reading would wait for a pipe, and never end for a device
        raise ValueError("not a regular file")
    if "HEIF" not in Image.OPEN and _is_heic(start):
        raise NeedsPackageError("HEIC, which needs pillow-heif; in the clone run: pip install -e '.[heic]'")
    # `Image.open` would warn of the 108 megapixels of a phone, and refuse its 200. `upright` checks the size.
    for kind in FORMATS:
        # The errors that Pillow skips in `Image.open`, and KeyError for a format that it lacks.
        with suppress(KeyError, SyntaxError, IndexError, TypeError, struct.error):
            factory, accepts = Image.OPEN[kind]
            accepted = accepts is None or accepts(start)
            if accepted and not isinstance(accepted, str):  # a text says why Pillow lacks it
                return factory(*((file, "") if isinstance(file, BytesIO) else (cast(Any, str(file)), file.name)))
    raise UnidentifiedImageError("not an image")


def prepare(image: Image.Image, options: ImageOptions, face: int = 1) -> Prepared:
    """Convert an opened photo to the network's input, with C = 1 (grey) or 3 (RGB); raises as `decode`.

    Of an animation, the first frame is used. With ``data.align``, ``face`` is the number of the face to align, by size.
    """
    whole, scale = _upright_for(image, options)
    return prepare_upright(whole, scale, options, face)


def _upright_for(image: Image.Image, options: ImageOptions) -> tuple[Image.Image, float]:
    """Decode a photo in no more detail than needed; also return the ``scale`` of `prepare_upright`."""
    longer, reduce = max(image.size), 1
    if options.align is None and image.width * image.height > REDUCED_FROM:
        left, top, right, bottom = crop_box(image.size, options)
        reduce = min(right - left, bottom - top) // (GAP * options.image_size)
    whole = upright(image, reduce)
    return whole, longer / max(whole.size)


def prepare_upright(image: Image.Image, scale: float, options: ImageOptions, face: int = 1) -> Prepared:
    """Convert a photo from `upright` as `prepare` does.

    ``scale`` is the size of the photo in its file, as a multiple of the size of ``image`` (see `LARGEST_WHOLE`).
    """
    faces = None
    if options.align is not None:
        from siamese.data.faces import align_eyes

        (image, faces), scale = align_eyes(image, face), 1.0
    image = image.convert("RGB" if options.color else "L")
    box = crop_box((round(scale * image.width), round(scale * image.height)), options)
    box = round(box[0] / scale), round(box[1] / scale), round(box[2] / scale), round(box[3] / scale)
    if box != (0, 0, *image.size):
        image = image.crop(box)
    side = options.image_size
    image = image.resize((side, side), RESAMPLING[options.interpolation])
    pixels = np.asarray(image, dtype=np.uint8).reshape(side, side, -1).transpose(2, 0, 1)
    return Prepared(pixels, faces, face if faces else None)


def upright(image: Image.Image, reduce: int = 1) -> Image.Image:
    """Decode an opened photo, turned by its EXIF orientation, with 8 bits per band, on white; raises as `decode`.

    A JPEG is decoded at a half, a quarter or an eighth of its size if it has more than `LARGEST_WHOLE` pixels, or if it
    may be as small as one part in ``reduce`` on each side.
    """
    if max(image.size) > LONGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {LONGEST:,} on a side")
    needed = next((scale for scale in (1, 2, 4) if image.width * image.height <= LARGEST_WHOLE * scale**2), 8)
    scale = max(needed, next((scale for scale in (8, 4, 2) if scale <= reduce), 1))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    if image.width * image.height > LARGEST:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {LARGEST:,}; save it in a smaller size")
    turn = TURNED.get(_orientation(image))
    image = _eight_bits(image)
    return image if turn is None else image.transpose(turn)


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
    if isinstance(error, NoFaceError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or of a type that Pillow does not read"
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def _is_heic(start: bytes) -> bool:
    """Whether a file begins like one of the formats that need pillow-heif (ISO/IEC 23008-12, annex B)."""
    return start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def _orientation(image: Image.Image) -> int | None:
    """The orientation of a photo, 1 to 8 (CIPA DC-008, 4.6.5.1); None if it has none, or if it cannot be read."""
    image.load()  # some plugins turn the image here, and delete the orientation
    # First without Pillow, which reads nothing, or fails, if anything else in the EXIF data is damaged.
    exif = (image.info.get("exif") or b"").removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"
    first = int.from_bytes(exif[4:8], order) + 2
    for entry in (exif[at : at + 12] for at in range(first, len(exif), 12)):  # tag, type, number of values, value
        if int.from_bytes(entry[:2], order) == ExifTags.Base.Orientation:
            return int.from_bytes(entry[8:10], order)
    with suppress(Exception):  # Pillow raises nearly anything
        return image.getexif().get(ExifTags.Base.Orientation)  # also from XMP
    return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert to 8 bits per band, without transparency, as viewers show the image."""
    match image.mode:
        case "F":
            raise ValueError("floating-point pixels, which have no defined white; save it with 8 bits")
        case "LAB":
            profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
            return cast(Image.Image, ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB")))
        case mode if mode.startswith("I"):
            return _eight_of_more_bits(image)
        case "La":
            image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _eight_of_more_bits(image: Image.Image) -> Image.Image:
    """The upper 8 bits of an integer image; Pillow's own conversion would clip values above 255."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
    values = np.asarray(image).astype(np.int64)
    if bits > 16 or values.min() < 0 or values.max() >= 1 << bits:
        raise ValueError(f"{max(bits, 32)}-bit pixels, which have no defined white; save it with 8 bits")
    shades = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is 0
        shades = 255 - shades
    if values.any() and shades.max() < 16:
        raise ValueError("all pixels are nearly black, because it uses few of its bits; save it with 8 bits")
    return Image.fromarray(shades)
