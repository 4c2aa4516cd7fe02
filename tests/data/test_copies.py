"""Copies of one photo are found whatever was done to the file; similar photos are none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from siamese.config.load import compose_train
from siamese.data import copies
from siamese.data.copies import copies_across, find_copies
from siamese.data.dataset import load_dataset
from siamese.data.images import open_upright, thumbnail

SIZE = (240, 200)


@cache
def photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture with structure of several sizes, as a photo has."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        )
        for n in (3, 6, 12, 24)
    ]
    return Image.fromarray(np.average(layers, axis=0, weights=(4, 3, 2, 1)).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(width * (1 - right)), round(height * (1 - bottom)))
    )


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((150, 180), "© 2024 photos.example", fill="white")
    return image


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, low quality": lambda image: saved(image, "JPEG", quality=30),
    "WebP": lambda image: saved(image, "WEBP", quality=40),
    "GIF": lambda image: saved(image.quantize(256), "GIF"),
    "half": lambda image: image.resize((120, 100)),
    "twice": lambda image: image.resize((480, 400)),
    "crop": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "crop of two sides": lambda image: cropped(image, 0.05, 0, 0, 0.05),
    "grey": lambda image: image.convert("L"),
    "mirrored": ImageOps.mirror,
    "border": lambda image: ImageOps.expand(image, 8, "white"),
    "watermark": marked,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "sharper": lambda image: image.filter(ImageFilter.SHARPEN),
    "all": lambda image: saved(
        ImageOps.mirror(cropped(image, 0.03, 0.02, 0.03, 0.03)).resize((160, 135)), "JPEG", quality=50
    ),
}


@pytest.mark.parametrize("what", COPIES)
def test_copies_are_found_among_other_photos(what: str) -> None:
    photos = [photo(seed) for seed in range(6)]
    others = [photo(seed) for seed in range(6, 12)]
    images = [*photos, *others, *map(COPIES[what], photos)]
    assert find_copies([thumbnail(image) for image in images]) == [[k, 12 + k] for k in range(6)]


def test_all_copies_of_a_photo_are_one_group() -> None:
    images = [photo(0), *(change(photo(0)) for change in COPIES.values()), photo(1)]
    assert find_copies([thumbnail(image) for image in images]) == [list(range(len(COPIES) + 1))]


def test_photos_of_one_person_in_one_place_are_no_copies() -> None:
    """Background and person are the same; the person moves, or the expression changes."""

    def shot(shift: int, mouth: int) -> Image.Image:
        image, face = photo(0).copy(), photo(1, (90, 120)).copy()
        ImageDraw.Draw(face).ellipse((25, 80, 65, 80 + mouth), fill="black")
        image.paste(face, (75 + shift, 50), Image.new("L", face.size, 255))
        return image

    burst = [shot(0, 2), shot(10, 2), shot(20, 2), shot(0, 30), shot(-12, 20)]
    assert find_copies([thumbnail(image) for image in burst]) == []


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_blank_images_are_copies_of_none(shade: int) -> None:
    rng = np.random.default_rng(0)
    blank = (shade + rng.integers(-2, 3, (10_000, copies.SIDE, copies.SIDE))).clip(0, 255).astype(np.uint8)
    assert find_copies(blank) == []


def test_one_picture_many_times_is_one_group_found_through_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    fit = copies._fit
    monkeypatch.setattr(copies, "_fit", lambda *of: compared.append(len(of[0])) or fit(*of))
    assert find_copies([thumbnail(photo(0))] * 500) == [list(range(500))]
    assert sum(compared) < 20 * 500  # of 124,750 pairs


@pytest.mark.parametrize("number", [0, 1])
def test_too_few_images_to_compare(number: int) -> None:
    assert find_copies([thumbnail(photo(0))] * number) == []


def test_sets_that_share_images_are_not_compared() -> None:
    groups = [["a", "b"], ["c", "d", "e"]]
    assert copies_across(groups, {"a", "c"}, {"b", "x"}) == [["a", "b"]]
    assert copies_across(groups, {"a", "c"}, {"b", "c"}) == []
    assert copies_across(groups, {"c", "d"}, {"a", "b"}) == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten people with three photos each."""
    for seed in range(30):
        file = tmp_path / "photos" / f"p{seed // 3}" / f"{seed % 3}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(file)
    return tmp_path / "photos"


def load(photos: Path) -> dict[str, str]:
    """Load the photos for a run, and return the set of each."""
    cache = photos.parent / "cache"
    config = compose_train(["data=folder", f"data.root={photos}", f"data.cache={cache}"])
    data = load_dataset(config.data, config.protocol)
    sets = {"training": data.train, "validation": data.val, "test": data.test}
    return {name: part for part, pairs in sets.items() for pair in pairs.pairs for name in pair[:2]}


def test_a_run_warns_of_copies_in_two_sets(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    part_of = load(photos)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]
    part = {part: name for name, part in sorted(part_of.items(), reverse=True)}
    turned = open_upright(photos / part["training"]).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it back by 90 degrees
    turned.save(photos / Path(part["test"]).parent / "9.jpg", exif=exif, quality=60)
    open_upright(photos / part["training"]).save(photos / Path(part["training"]).parent / "9.webp")  # no leak
    for _ in ("decoded", "from the cache"):
        caplog.clear()
        load(photos)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert warnings[0].startswith("1 photo has copies in both training and test (for example ")
        assert str(Path(part["test"]).parent / "9.jpg") in warnings[0]
        assert warnings[0].endswith(f"python -m siamese data {photos}")


def test_a_run_does_not_search_too_many_images(
    photos: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese.data.image_cache.MOST_SEARCHED", 29)
    with caplog.at_level(logging.INFO):
        load(photos)
    assert "30 images, too many to search them for copies" in caplog.text
