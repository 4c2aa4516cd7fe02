"""Numbers and names as the pages show them."""

from __future__ import annotations

import pytest

from siamese.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "p = 0.500"), (0.9999, "p > 0.999"), (1.0, "p = 1.000"), (1e-9, "p < 0.001"), (0.0, "p = 0.000")],
)
def test_probability(value, shown):
    assert text.probability(value) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Abdullah_Gul/Abdullah_Gul_0013.jpg", "Abdullah Gul 13"),
        ("A_B/A_B_0000.jpg", "A B 0"),
        ("me/photo.png", "me/photo.png"),
        ("Ann Veneman/IMG_1731.JPG", "Ann Veneman/IMG_1731.JPG"),
        ("Ann/holiday/Ann_1.jpg", "Ann/holiday/Ann_1.jpg"),
    ],
)
def test_photo_title(name, shown):
    assert text.photo_title(name) == shown


def test_interval():
    assert text.interval([0.637, 0.696], text.percent) == "63.7 – 69.6 %"
    assert text.interval(None, text.percent) == ""
    assert text.interval([0.1, float("nan")], text.percent) == ""
    assert text.number("x", text.percent) == text.ABSENT
