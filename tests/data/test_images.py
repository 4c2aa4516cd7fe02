"""From a photo to the network's input: every kind of file is used or refused, in the right orientation and crop."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from configs import image_options
from conftest import noise_photo
from PIL import Image

from siamese.config.data import ImageOptions
from siamese.data.images import LARGEST, LONGEST, crop_box, decode, open_upright, why_unusable

RNG = np.random.default_rng(0)
FACE = RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(Image.fromarray(FACE), "JPEG")
PNG = encoded(Image.fromarray(FACE), "PNG")


def png_of_zeros(width: int, height: int) -> bytes:
    """A black image with one bit per pixel: a few kilobytes at any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(FACE), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("L", (90, 90), shade) for shade in (0, 255)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


USABLE: dict[str, bytes | Callable[[], bytes]] = {
    "a PNG that is called .jpg": PNG,
    "a BMP that is called .jpg": lambda: encoded(Image.fromarray(FACE), "BMP"),
    "a WebP that is called .jpg": lambda: encoded(Image.fromarray(FACE), "WEBP"),
    "a TIFF that is called .jpg": lambda: encoded(Image.fromarray(FACE), "TIFF"),
    "one pixel": lambda: encoded(Image.new("RGB", (1, 1)), "PNG"),
    "40,000 pixels wide": lambda: encoded(Image.new("RGB", (40_000, 2)), "PNG"),
    "CMYK": lambda: encoded(Image.fromarray(FACE).convert("CMYK"), "JPEG"),
    "palette": lambda: encoded(Image.fromarray(FACE).convert("P"), "PNG"),
    "one bit": lambda: encoded(Image.fromarray(FACE).convert("1"), "PNG"),
    "16 bits": lambda: encoded(Image.fromarray(FACE[..., 0].astype(np.uint16) * 257), "PNG"),
    "transparent": lambda: encoded(Image.fromarray(FACE).convert("RGBA"), "PNG"),
    "animated": animated,
    "turned by its EXIF": rotated,
    "progressive": lambda: encoded(Image.fromarray(FACE), "JPEG", progressive=True),
    "more behind its end": JPEG + b"\0" * 1000,
}

UNUSABLE: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "empty": (b"", "not an image"),
    "one byte": (b"\xff", "not an image"),
    "cut short": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "its head alone": (JPEG[:200], "not an image|cannot be decoded"),
    "PNG cut short": (PNG[:-2000], "cannot be decoded"),
    "PNG with a wrong checksum": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "cannot be decoded|not an image"),
    "noise": (RNG.bytes(5000), "not an image"),
    "noise behind a JPEG's first bytes": (JPEG[:20] + RNG.bytes(5000), "not an image|cannot be decoded"),
    "a web page": (b"<!doctype html><title>404</title>", "not an image"),
    "a vector drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "a text": ("Fußgänger".encode("utf-16"), "not an image"),
    "a document": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF", "not an image|cannot be decoded"),
    "an archive": (b"PK\x03\x04" + RNG.bytes(500), "not an image"),
    "code": (b"\x80\x04cos\nsystem\n(S'touch /tmp/siamese-ran'\ntR.", "not an image"),
    "a decompression bomb": (lambda: png_of_zeros(30_000, 30_000), "900000000 pixels|decompression bomb"),
    "just too large": (lambda: png_of_zeros(10_001, 10_000), f"10001 x 10000 pixels, more than {LARGEST:,}"),
    "a thin line": (lambda: png_of_zeros(1, LONGEST + 1), f"1 x {LONGEST + 1} pixels, more than {LONGEST:,}"),
    "floating point": (
        lambda: encoded(Image.fromarray(RNG.random((90, 90), dtype=np.float32)), "TIFF"), "floating-point pixels"
    ),
}  # fmt: skip


def a_link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing": (lambda path: None, "missing"),
    "a folder": (Path.mkdir, "not a regular file"),
    "a pipe": (os.mkfifo, "not a regular file"),
    "a link to nothing": (a_link_to("gone.jpg"), "missing"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "symbolic link|symlink"),
    "a link to a device without end": (a_link_to("/dev/zero"), "not a regular file"),
    "a link to an empty device": (a_link_to("/dev/null"), "not a regular file"),
    "a link to a folder": (a_link_to("/"), "not a regular file"),
    "a link to a text": (a_link_to("/etc/passwd"), "not an image"),
}


def content(made: bytes | Callable[[], bytes]) -> bytes:
    return made if isinstance(made, bytes) else made()


def options(**changes: object) -> ImageOptions:
    return image_options(**{"image_size": 16, **changes})


# --- kinds of files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", USABLE)
def test_usable_files(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(content(USABLE[kind]))
    assert decode(file, options()).shape == (1, 16, 16)
    assert decode(file, options(color=True)).shape == (3, 16, 16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", [*UNUSABLE, *SPECIAL])
def test_unusable_files_and_the_reason(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    if kind in UNUSABLE:
        made, expected = UNUSABLE[kind]
        file.write_bytes(content(made))
    else:
        make, expected = SPECIAL[kind]
        make(file)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Pillow raises nearly anything
        decode(file, options())
    reason = why_unusable(caught.value)
    assert any(part in reason.lower() for part in expected.lower().split("|")), reason
    assert reason.isprintable()
    assert len(reason) < 300
    assert not Path("/tmp/siamese-ran").exists()


# --- pixels -----------------------------------------------------------------------------------------------


def test_decode_gives_what_pillow_gives(tmp_path: Path) -> None:
    file = noise_photo(tmp_path / "a.png", size=(30, 40))
    with Image.open(file) as image:
        grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BILINEAR))
        color = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode(file, options()), grey[None])
    np.testing.assert_array_equal(decode(file, options(color=True, interpolation="bicubic")), color.transpose(2, 0, 1))


def test_16_bits_transparency_and_animation(tmp_path: Path) -> None:
    grey = FACE[..., 0]

    def decoded(data: bytes) -> np.ndarray:
        (tmp_path / "x.png").write_bytes(data)
        return decode(tmp_path / "x.png", options(image_size=90))[0]

    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")), grey)
    cut_out = np.dstack([grey, np.where(np.arange(90) < 45, 255, 0)[None].repeat(90, 0).astype(np.uint8)])
    seen = decoded(encoded(Image.fromarray(cut_out, "LA"), "PNG"))
    np.testing.assert_array_equal(seen[:, :45], grey[:, :45])
    assert seen[:, 45:].min() == 255  # white, whatever colour the transparent pixels have
    assert decoded(animated()).max() == 0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    decoded = decode(tmp_path / "a.png", options())[0]
    assert decoded[:8].max() == 0
    assert decoded[8:].min() == 255


def test_open_upright_shows_what_the_network_sees(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "a.png", exif=exif)
    image = open_upright(tmp_path / "a.png").convert("RGB")
    assert image.size == (20, 40)
    assert image.getextrema() == ((255, 255),) * 3
    with pytest.raises(FileNotFoundError):
        open_upright(tmp_path / "none.png")


def test_open_upright_decodes_a_large_jpeg_at_a_fraction(tmp_path: Path) -> None:
    noise_photo(tmp_path / "a.jpg", size=(1600, 800))
    assert open_upright(tmp_path / "a.jpg").size == (1600, 800)
    assert open_upright(tmp_path / "a.jpg", at_least=200).size == (400, 200)


# --- the crop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        (None, (0, 0, 100, 60)),
        (1.0, (20, 0, 80, 60)),
        (0.5, (35, 15, 65, 45)),
        (30, (35, 15, 65, 45)),
    ],
)
def test_crop_is_the_central_square(crop: float | None, box: tuple[int, int, int, int], tmp_path: Path) -> None:
    cropped = options(image_size=30, color=True, crop=crop)
    assert crop_box((100, 60), cropped) == box
    file = noise_photo(tmp_path / "a.png", size=(100, 60))
    with Image.open(file) as image:
        expected = np.asarray(image.crop(box).resize((30, 30), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(file, cropped), expected)


def test_a_photo_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"20 x 30 pixels, smaller than data\.crop=24"):
        crop_box((20, 30), options(crop=24))


@pytest.mark.parametrize("crop", [0, 7, 0.0, 1.5, -0.5, "half", True, float("nan")])
def test_invalid_crops(crop: object) -> None:
    with pytest.raises(ValueError, match="neither a number of pixels"):
        options(crop=crop)
