"""A folder of photos as a phone and a network drive leave it."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path

from PIL import Image

NAMES = ("Zoë", "李娜", "Мария", "Anna (2024)", "O'Brien & Söhne", "#7", "2024", "Ángel Núñez", "محمد", "Jo")
"""Of the first people; the others are called Person 10, Person 11, ..."""

HEIC = importlib.util.find_spec("pillow_heif") is not None


def phone_folder(faces: Path, folder: Path) -> Path:
    """Write the photos of a folder per person as a phone names and stores them, among files that are no photos."""
    for number, person in enumerate(sorted(faces.iterdir())):
        name = NAMES[number] if number < len(NAMES) else f"Person {number}"
        home = folder / (unicodedata.normalize("NFD", name) if number % 2 else name)  # as a Mac and as Linux names it
        home.mkdir(parents=True)
        for k, file in enumerate(sorted(person.iterdir())):
            _save(Image.open(file).convert("RGB"), home / f"IMG_{1000 * number + k}", k)
        (home / "IMG_0001.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
        (home / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        thumbnails = home / "@eaDir/IMG_0000.jpg"
        thumbnails.mkdir(parents=True)
        Image.new("RGB", (120, 120), "grey").save(thumbnails / "SYNOPHOTO_THUMB_M.jpg")
    recycled = folder / "#recycle/Jo"
    recycled.mkdir(parents=True)
    Image.new("RGB", (50, 50), "white").save(recycled / "IMG_1.jpg")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return folder


def _save(photo: Image.Image, path: Path, kind: int) -> None:
    """As a photo held upright, as a rotated one, in a subfolder, and as HEIC, in turn."""
    match kind % 4:
        case 1:
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned a quarter clockwise
            photo.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".JPG"), exif=exif)
        case 2:
            (path.parent / "WhatsApp Images").mkdir(exist_ok=True)
            photo.save(path.parent / "WhatsApp Images" / f"{path.name} (1).jpeg", quality=60)
        case 3 if HEIC:
            import pillow_heif

            pillow_heif.from_pillow(photo).save(path.with_suffix(".HEIC"), quality=80)
        case _:
            photo.save(path.with_suffix(".png"))
