"""From a photo to the network's input: every kind of file is used or refused, in the right orientation and crop."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from configs import image_options
from conftest import noise_photo
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from siamese.config.data import ImageOptions
from siamese.data import images
from siamese.data.images import LARGEST, LONGEST, crop_box, decode, open_upright, upright, why_unusable

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


def tiff_of_12_bits(side: int = 90) -> bytes:
    """A grey ramp from left to right, two pixels in three bytes."""
    row = np.linspace(0, 4095, side).astype(int)
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in row.reshape(-1, 2)) * side
    tags = [
        (256, side),
        (257, side),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, side),
        (279, len(packed)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 3 if value < 1 << 16 else 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", 9) + entries + bytes(4)


def heic() -> bytes:
    pytest.importorskip("pillow_heif", reason="an extra")
    return encoded(Image.fromarray(FACE), "HEIF")


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
    "12 bits": tiff_of_12_bits,
    "LAB": lambda: encoded(Image.new("LAB", (90, 90), (200, 128, 128)), "TIFF"),
    "JPEG 2000": lambda: encoded(Image.fromarray(FACE), "JPEG2000"),
    "HEIC": heic,
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
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(w) (/tmp/siamese-ran) file\n", "not an image"),
    "a table of star positions": (b"SIMPLE  =                    T".ljust(2880) + bytes(2880), "not an image"),
    "an array": (b"\x89HDF\r\n\x1a\n" + bytes(500), "not an image"),
    "a film": (b"\0\0\1\xb3" + bytes(500), "not an image"),
    "weather data": (b"GRIB\0\0\0\1" + bytes(500), "not an image"),
    "a picture for Photoshop": (b"8BPS\0\1" + bytes(500), "not an image"),
    "a decompression bomb": (lambda: png_of_zeros(30_000, 30_000), f"30000 x 30000 pixels, more than {LARGEST:,}"),
    "just too large": (lambda: png_of_zeros(13_401, 10_000), f"13401 x 10000 pixels, more than {LARGEST:,}"),
    "whole numbers of 32 bits": (
        lambda: encoded(Image.fromarray(FACE[..., 0].astype(np.int32) << 16), "TIFF"), "32-bit pixels"
    ),
    "10 of 16 bits": (lambda: encoded(Image.fromarray(FACE[..., 0].astype(np.uint16) * 4), "PNG"), "nearly black"),
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


def test_more_than_8_bits_and_other_colours_look_as_in_a_viewer(tmp_path: Path) -> None:
    def decoded(data: bytes) -> np.ndarray:
        (tmp_path / "x.tif").write_bytes(data)
        return decode(tmp_path / "x.tif", options(image_size=90, color=True))

    grey = FACE[..., 0]
    ramp = np.linspace(0, 4095, 90).astype(int) >> 4
    np.testing.assert_array_equal(decoded(tiff_of_12_bits())[0], np.tile(ramp, (90, 1)))
    negative = encoded(Image.fromarray((grey.astype(np.uint16) * 257) ^ 0xFFFF), "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(decoded(negative)[0], grey)
    white = decoded(encoded(Image.new("LAB", (90, 90), (255, 128, 128)), "TIFF"))
    assert white.min() >= 250
    np.testing.assert_array_equal(decoded(encoded(Image.new("1", (90, 90), 1), "TIFF")), 255)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_orientation_in_every_format(kind: str, orientation: int, tmp_path: Path) -> None:
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow has no {kind}")
    picture = Image.new("L", (64, 32))
    picture.paste(255, (0, 0, 20, 10))  # white in the corner at the top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "x.jpg"
    file.write_bytes(encoded(picture.convert("RGB"), kind, exif=exif))
    with Image.open(file) as image:
        expected = ImageOps.exif_transpose(image).convert("L")
    seen = open_upright(file).convert("L")
    assert seen.size == ((64, 32) if orientation < 5 else (32, 64))
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(expected))


@settings(max_examples=200)
@given(st.data())
def test_damaged_exif_data_does_not_lose_the_orientation(data: st.DataObject) -> None:
    """Damage anywhere but in the header and in the orientation's own entry."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "Maker", 0x0131: "Software 1.2", 0x011A: 72.0, 0x8298: "me"})
    exif.get_ifd(0x8769)[0x829A] = 0.01
    whole = encoded(Image.new("L", (40, 20)), "JPEG", exif=exif)
    first = whole.index(b"Exif\0\0") + 6
    last = first + int.from_bytes(whole[first - 8 : first - 6], "big") - 8
    entry = whole.index(b"\1\x12", first)
    free = [at for at in range(first + 10, last) if not entry <= at < entry + 12]
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.sampled_from(free), min_size=1, max_size=3)):
        # Another entry that becomes a second orientation would be a contradiction, not damage.
        damaged[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (0x01, 0x12)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.jpg")
        file.write_bytes(damaged)
        assert open_upright(file).size == (20, 40)


def test_a_huge_jpeg_is_decoded_at_a_fraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(FACE).resize((1200, 900), Image.Resampling.BICUBIC).save(file, quality=95)
    expected = {crop: decode(file, options(crop=crop)).astype(int) for crop in (None, 0.5, 400)}
    for largest, size in ((1200 * 900, (1200, 900)), (1200 * 900 - 1, (600, 450)), (20_000, (150, 113))):
        monkeypatch.setattr(images, "LARGEST_WHOLE", largest)
        assert open_upright(file).size == size
        for crop, pixels in expected.items():
            assert abs(decode(file, options(crop=crop)) - pixels).mean() < 8
    monkeypatch.setattr(images, "LARGEST", 10_000)
    with pytest.raises(ValueError, match="150 x 113 pixels, more than 10,000; save it in a smaller size"):
        open_upright(file)


def test_heic_without_its_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(ValueError, match=r"HEIC, which needs pillow-heif; .* pip install -e '\.\[heic\]'"):
        decode(tmp_path / "a.jpg", options())


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


@pytest.mark.parametrize(("crop", "seen"), [(None, (450, 338)), (0.7, (900, 675)), (2000, (900, 675))])
@pytest.mark.parametrize("turned", [False, True])
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crop: float | None, seen: tuple[int, int], turned: bool
) -> None:
    """The pixels differ little, even of coloured noise. A photo of a megapixel or less is decoded whole."""
    scene = Image.fromarray(RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
        (3600, 2700), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    scene.save(tmp_path / "large.jpg", exif=exif, quality=95)
    scene.crop((1300, 850, 2300, 1850)).save(tmp_path / "small.jpg", quality=95)
    options = image_options(image_size=105, color=True, crop=crop)
    sizes = []

    def seen_by(image: Image.Image) -> Image.Image:
        sizes.append(image.size)
        return image

    monkeypatch.setattr(images, "upright", lambda *how: seen_by(upright(*how)))
    reduced = decode(tmp_path / "large.jpg", options).astype(int)
    assert sizes == [seen[::-1] if turned else seen]
    monkeypatch.setattr(images, "REDUCED_FROM", 10**9)
    whole = decode(tmp_path / "large.jpg", options).astype(int)
    assert abs(reduced - whole).mean() < 2
    assert abs(reduced - whole).max() <= 20
    monkeypatch.undo()
    if crop != 2000:
        plain = decode(tmp_path / "small.jpg", options)
        monkeypatch.setattr(images, "REDUCED_FROM", 10**9)
        assert np.array_equal(decode(tmp_path / "small.jpg", options), plain)
