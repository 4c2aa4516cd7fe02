"""The example pairs of a run page, and their photos."""

from __future__ import annotations

import numpy as np
import pytest
from configs import image_options
from PIL import Image

from siamese.data.images import decode
from siamese.evaluation.metrics import sigmoid
from siamese.report.examples import load_photo, pick_examples
from siamese.runs.tables import Prediction


def pair(score: float, label: int = 1, name: str = "a") -> Prediction:
    return Prediction("test", name, "b", label, score, float(sigmoid(score)), int(score >= 0))


def test_most_confident_and_most_doubtful():
    positives = [pair(score) for score in (3, 50, 0.1, 1, 60, 0.2, 40, 0.3)]
    negatives = [pair(-score) for score in (3, 50, 0.1, 1, 60, 0.2, 40, 0.3)]
    groups = {group.outcome: group for group in pick_examples(positives + negatives)}
    assert [pair.score for pair in groups["tp"].confident] == [60, 50, 40]
    assert [pair.score for pair in groups["tp"].uncertain] == [0.1, 0.2, 0.3]
    assert [pair.score for pair in groups["fn"].confident] == [-60, -50, -40]
    assert [pair.score for pair in groups["fn"].uncertain] == [-0.1, -0.2, -0.3]
    assert groups["fp"].count == groups["tn"].count == 0


@pytest.mark.parametrize("count", range(9))
def test_every_pair_is_shown_at_most_once(count):
    group = pick_examples([pair(i + 1.0) for i in range(count)])[0]
    shown = [*group.confident, *group.uncertain]
    assert len(set(shown)) == len(shown) == min(count, 6)
    assert bool(group.uncertain) == (count > 6)


def test_equal_scores_are_ordered_by_name():
    pairs = [pair(1.0, name=name) for name in "cab"]
    assert pick_examples(pairs) == pick_examples(pairs[::-1])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA"])
def test_photos_become_small_rgb(mode, tmp_path):
    suffix = "png" if mode in ("P", "RGBA") else "jpg"
    Image.new(mode, (500, 250)).save(tmp_path / f"a.{suffix}")
    photo = load_photo(tmp_path / f"a.{suffix}")
    assert photo is not None
    assert (photo.mode, photo.size) == ("RGB", (250, 125))


@pytest.mark.parametrize("size", [(400, 200), (4000, 2000)])  # the larger one is decoded at a fraction of its size
def test_photos_are_upright(size, tmp_path):
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left side of the file is the top of the photo
    image.save(tmp_path / "a.jpg", exif=exif)
    photo = load_photo(tmp_path / "a.jpg", height=100)
    network = Image.fromarray(decode(tmp_path / "a.jpg", image_options(image_size=100, color=True)).transpose(1, 2, 0))
    assert photo is not None
    assert photo.size == (50, 100)
    for y, color in ((20, (255, 0, 0)), (80, (0, 0, 255))):
        assert np.abs(np.subtract(photo.getpixel((25, y)), color)).max() < 10
        assert np.abs(np.subtract(photo.getpixel((25, y)), network.getpixel((50, y)))).max() < 10


def test_transparent_parts_are_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", height=40)
    assert photo is not None
    assert photo.getpixel((20, 20)) == (255, 255, 255)


def test_16_bit_photos_keep_their_contrast(tmp_path):
    Image.fromarray(np.full((40, 40), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png", height=40)
    assert photo is not None
    assert photo.getpixel((20, 20)) == (128, 128, 128)


def test_unreadable_photos_are_none(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    assert load_photo(tmp_path / "text.jpg") is None
    assert load_photo(tmp_path / "missing.jpg") is None
    assert load_photo(tmp_path) is None
