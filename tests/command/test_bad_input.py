"""What users and strangers put into a data set: every kind is used, left out with a reason, or refused in one line."""

from __future__ import annotations

import io
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from configs import section
from PIL import Image

from siamese.data.images import LARGEST, LONGEST, decode
from siamese.errors import DataError
from siamese.training.data_module import PairDataModule

RNG = np.random.default_rng(0)
FACE = RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(Image.fromarray(FACE), "JPEG")
PNG = encoded(Image.fromarray(FACE), "PNG")


def png_of_zeros(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel: some kilobytes, whatever its size."""

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
    "cut short": (JPEG[: len(JPEG) // 2], "does not decode"),
    "its head alone": (JPEG[:200], "not an image|does not decode"),
    "PNG cut short": (PNG[:-2000], "does not decode"),
    "PNG with a wrong checksum": (PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], "does not decode|not an image"),
    "noise": (RNG.bytes(5000), "not an image"),
    "noise behind a JPEG's first bytes": (JPEG[:20] + RNG.bytes(5000), "not an image|does not decode"),
    "a web page": (b"<!doctype html><title>404</title>", "not an image"),
    "a vector drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "a text": ("Fußgänger".encode("utf-16"), "not an image"),
    "a document": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF", "not an image|does not decode"),
    "an archive": (b"PK\x03\x04" + RNG.bytes(500), "not an image"),
    "code": (b"\x80\x04cos\nsystem\n(S'touch /tmp/siamese-ran'\ntR.", "not an image"),
    "a decompression bomb": (lambda: png_of_zeros(30_000, 30_000), "900000000 pixels|decompression bomb"),
    "just too large": (lambda: png_of_zeros(10_001, 10_000), f"10001 x 10000 pixels, more than {LARGEST:,}"),
    "a thin line": (lambda: png_of_zeros(1, LONGEST + 1), f"1 x {LONGEST + 1} pixels, more than {LONGEST:,}"),
    "floating point": (
        lambda: encoded(Image.fromarray(RNG.random((90, 90), dtype=np.float32)), "TIFF"), "floating-point numbers"
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


@pytest.fixture
def tree(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny faces."""
    shutil.copytree(tiny_root, tmp_path / "faces")
    return tmp_path / "faces"


@pytest.fixture
def module(tree: Path, tiny_data: dict[str, object]) -> Callable[[], PairDataModule]:
    def make() -> PairDataModule:
        data = PairDataModule(section("data", **{**tiny_data, "root": str(tree)}), 4, 0)
        data.setup()
        return data

    return make


def victim(tree: Path) -> str:
    """The first image of the test pairs."""
    name, index, *_ = (tree / "pairsDevTest.txt").read_text().splitlines()[1].split("\t")
    return f"{name}/{name}_{int(index):04d}.jpg"


def content(made: bytes | Callable[[], bytes]) -> bytes:
    return made if isinstance(made, bytes) else made()


@pytest.mark.parametrize("kind", USABLE)
def test_images_that_are_used(kind: str, tree: Path, module: Callable[[], PairDataModule]) -> None:
    name = victim(tree)
    (tree / "lfw" / name).write_bytes(content(USABLE[kind]))
    data = module()
    assert data.images.excluded == {}
    assert len(data.test) == 20
    assert name in data.images.names


@pytest.mark.parametrize("kind", [*UNUSABLE, *SPECIAL])
def test_images_that_are_left_out_with_their_reason(
    kind: str, tree: Path, module: Callable[[], PairDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    name = victim(tree)
    path = tree / "lfw" / name
    path.unlink()
    if kind in UNUSABLE:
        made, reason = UNUSABLE[kind]
        path.write_bytes(content(made))
    else:
        make, reason = SPECIAL[kind]
        make(path)
    with caplog.at_level(logging.WARNING):
        data = module()
    assert list(data.images.excluded) == [name]
    said = data.images.excluded[name]
    assert any(part in said.lower() for part in reason.lower().split("|")), said
    assert said.isprintable()
    assert len(said) < 300
    assert len(data.test) < 20
    assert "1 image files unusable" in caplog.text
    assert not Path("/tmp/siamese-ran").exists()


def test_what_unusual_images_look_like(tree: Path, tiny_data: dict[str, object]) -> None:
    options = section("data", **{**tiny_data, "image_size": 90, "color": False})
    grey = np.asarray(Image.fromarray(FACE[..., 0]))

    def shown(data: bytes) -> np.ndarray:
        (tree / "x.jpg").write_bytes(data)
        return decode(tree / "x.jpg", options)[0]

    np.testing.assert_array_equal(shown(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")), grey)
    cut_out = np.dstack([grey, np.where(np.arange(90) < 45, 255, 0)[None].repeat(90, 0).astype(np.uint8)])
    seen = shown(encoded(Image.fromarray(cut_out, "LA"), "PNG"))
    np.testing.assert_array_equal(seen[:, :45], grey[:, :45])
    assert seen[:, 45:].min() == 255  # on white, whatever colour hides there
    assert shown(animated()).max() == 0


def numbered(*lines: str) -> str:
    return "\n".join(lines) + "\n"


LISTS: dict[str, tuple[Callable[[str], str | bytes], str]] = {
    # change of the list's text -> what the one line says
    "empty": (lambda text: "", ":1: the list ends too early"),
    "a web page": (lambda text: "<!doctype html>\n" + text, ":1: bad count"),
    "binary": (lambda text: RNG.bytes(2000), "not"),
    "Latin-1": (lambda text: text.encode().replace(b"_", b"\xe9", 3), "utf-8"),
    "UTF-16": (lambda text: text.encode("utf-16"), "utf-8"),
    "no header": (lambda text: text.split("\n", 1)[1], ":1: bad count"),
    "header of View 2": (lambda text: "10\t" + text, ":1: bad count"),
    "header with a word": (lambda text: "pairs " + text, ":1: bad count"),
    "header too large": (lambda text: "9" + text, "where a same pair belongs"),
    "header too small": (lambda text: "1\n" + text.split("\n", 1)[1], "belongs"),
    "header below zero": (lambda text: "-" + text, ":1: bad count"),
    "cut short": (lambda text: text[: len(text) // 2].rsplit("\n", 1)[0] + "\n", "the list ends too early"),
    "cut within a line": (lambda text: text.rstrip().rsplit("\t", 1)[0], "where a different pair belongs"),
    "a line more": (lambda text: text + "Ada\t1\tBen\t1\n", "1 more line than declared"),
    "a column more": (lambda text: text.replace("\n", "\t1\n", 3).replace("\t1\n", "\n", 1), ":2:"),
    "spaces for tabs": (lambda text: text.replace("\t", " "), ":2:"),
    "commas for tabs": (lambda text: text.replace("\t", ","), ":2:"),
    "an empty line within": (lambda text: text.replace("\n", "\n\n", 2).replace("\n\n", "\n", 1), ":3:"),
    "image zero": (lambda text: with_index(text, "0"), ":2: bad number '0'"),
    "image below zero": (lambda text: with_index(text, "-1"), ":2: bad number '-1'"),
    "a huge image number": (lambda text: with_index(text, "9" * 400), ":2: bad number"),
    "an image number that is none": (lambda text: with_index(text, "one"), ":2: bad number 'one'"),
    "an image with itself": (lambda text: with_index(text, "1", "1"), ":2: image 1 of"),
    "a person with himself as two": (lambda text: twice_in_the_last_line(text), "both names are"),
    "a name that leads out": (lambda text: with_name(text, ".."), ":2: impossible name"),
    "a name that leads further out": (lambda text: with_name(text, "../../etc"), ":2: impossible name"),
    "an absolute name": (lambda text: with_name(text, "/etc/passwd"), ":2: impossible name"),
    "a name with a zero byte": (lambda text: with_name(text, "A\0b"), ":2: impossible name"),
    "a name with a line end": (lambda text: with_name(text, "A\rb"), ":2: impossible name"),
    "a name of nothing": (lambda text: with_name(text, ""), ":2: empty name"),
    "a name of blanks": (lambda text: with_name(text, "  "), ":2: impossible name"),
}


def with_index(text: str, *indices: str) -> str:
    header, first, *rest = text.split("\n")
    name, a, b = first.split("\t")
    return "\n".join([header, "\t".join([name, *indices, *(a, b)[len(indices) :]]), *rest])


def with_name(text: str, name: str) -> str:
    header, first, *rest = text.split("\n")
    return "\n".join([header, "\t".join([name, *first.split("\t")[1:]]), *rest])


def twice_in_the_last_line(text: str) -> str:
    *rest, last = text.rstrip("\n").split("\n")
    name = last.split("\t")[0]
    return numbered(*rest, f"{name}\t1\t{name}\t2")


@pytest.mark.parametrize("kind", LISTS)
def test_lists_that_are_refused_in_one_line(kind: str, tree: Path, module: Callable[[], PairDataModule]) -> None:
    change, said = LISTS[kind]
    path = tree / "pairsDevTest.txt"
    changed = change(path.read_text(encoding="utf-8"))
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DataError) as caught:
        module()
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert said.lower() in message.lower(), message
    assert message.isprintable()
    assert len(message) < 400


HARMLESS: dict[str, Callable[[str], str]] = {
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "BOM": lambda text: "\ufeff" + text,
    "blank lines at the end": lambda text: text + "\n \n\t\n",
    "no line end at the end": lambda text: text.rstrip("\n"),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_lists_that_read_the_same(kind: str, tree: Path, module: Callable[[], PairDataModule]) -> None:
    before = module().test.pairs
    path = tree / "pairsDevTest.txt"
    path.write_bytes(HARMLESS[kind](path.read_text(encoding="utf-8")).encode())
    assert module().test.pairs == before


def test_lists_that_are_warned_of(
    tree: Path, module: Callable[[], PairDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    path = tree / "pairsDevTest.txt"
    header, first, second, *rest = path.read_text(encoding="utf-8").split("\n")
    person = (tree / "pairsDevTrain.txt").read_text(encoding="utf-8").split("\n")[1].split("\t")[0]
    other = rest[-2].split("\t")
    path.write_text("\n".join([header, first, first, *rest[:-2], "\t".join([person, "1", *other[2:]]), ""]))
    with caplog.at_level(logging.WARNING):
        module()
    assert f"{path}: pairs listed more than once: 1 (kept)" in caplog.text
    assert "1 people are in pairsDevTrain.txt and in pairsDevTest.txt" in caplog.text
    assert second not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["a folder", "a link to itself", "a pipe", "a device"])
def test_lists_that_are_no_files(kind: str, tree: Path, module: Callable[[], PairDataModule]) -> None:
    path = tree / "pairsDevTest.txt"
    path.unlink()
    {
        "a folder": Path.mkdir, "a link to itself": lambda p: p.symlink_to(p.name), "a pipe": os.mkfifo,
        "a device": lambda p: p.symlink_to("/dev/zero"),
    }[kind](path)  # fmt: skip
    with pytest.raises(DataError, match=str(path)) as caught:
        module()
    assert str(caught.value).isprintable()
