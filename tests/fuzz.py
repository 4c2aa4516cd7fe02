"""Fuzz the readers of lists or of images, guided by coverage: ``python tests/fuzz.py lists 600`` runs ten minutes.

``make fuzz`` runs both. The first input that is neither read nor refused properly, or that takes more than ten seconds
or 2 GB, ends the program with an error and is saved in the working directory as ``crash-...``.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["siamese.data", "PIL"]):
    import numpy as np
    from PIL import Image, ImageOps  # noqa: F401 - its plugins are instrumented with it

    Image.init()  # all formats
    from configs import image_options

    from siamese.data.images import decode
    from siamese.data.lists import read_folds, read_pairs, read_people
    from siamese.data.pair_list import read_pair_list
    from siamese.errors import DataError

LISTS = [
    b"2\nAda\t1\t2\nBen\t1\t3\nAda\t1\tBen\t2\nBen\t1\tCy\t1\n",
    b"2\t1\nAda\t1\t2\nAda\t1\tBen\t2\nCy\t2\t1\nCy\t3\tDee\t1\n",
    b"2\nAda\t3\nBen\t1\n",
    b"2\n1\nAda\t3\n2\nBen\t1\nCy\t2\n",
    b'image1,image2,label,split\n"a, b.png",c/d.png,1,train\na.png,c.png,0,test\n',
    b"image1,image2,label\na,b,1\n",
    b"\xef\xbb\xbf1\r\nJos\xc3\xa9\t1\t2\r\nJos\xc3\xa9\t1\tBo\t1\r\n",
]


def images() -> list[bytes]:
    """A small image in every format and mode that Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    found = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "DDS"):
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16"):
            buffer = io.BytesIO()
            try:
                image = Image.fromarray(pixels)
                (image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)).save(
                    buffer, kind
                )
            except (OSError, ValueError, KeyError):
                continue  # the format does not support this mode
            found.append(buffer.getvalue())
    return found


def fuzz_lists(content: bytes, file: Path) -> None:
    """Check that any content is read, or refused in one printable line that names the file and the line."""
    file.write_bytes(content)
    for read in (read_pairs, read_folds, read_people, read_pair_list):
        try:
            read(file)
        except DataError as error:
            message = str(error)
            if not re.fullmatch(rf"{re.escape(str(file))}:(\d+:)? .+", message) or not message.isprintable():
                raise AssertionError(f"the message does not name file and line: {message!r}") from None


def fuzz_images(content: bytes, file: Path) -> None:
    """Check that any content gives pixels of the requested shape, or an exception, which excludes the image."""
    file.write_bytes(content)
    for color in (False, True):
        try:
            pixels = decode(file, image_options(image_size=16, color=color))
        except MemoryError:
            raise
        except Exception:
            continue
        assert pixels.shape == (3 if color else 1, 16, 16)
        assert pixels.dtype == np.uint8


def main(what: str, seconds: str) -> None:
    """Fuzz ``lists`` or ``images`` for this many seconds; the last lines show the number of inputs."""
    targets: dict[str, tuple[Callable[[bytes, Path], None], Callable[[], list[bytes]]]] = {
        "lists": (fuzz_lists, lambda: LISTS),
        "images": (fuzz_images, images),
    }
    target, seeds = targets[what]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, content in enumerate(seeds()):
            (corpus / str(number)).write_bytes(content)
        options = [
            f"-max_total_time={seconds}",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-max_len=8192",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(corpus)], lambda content: target(content, Path(folder) / "input"))
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
