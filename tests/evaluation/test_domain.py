"""Images unlike the training images are found, and images like them are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from siamese.evaluation.domain import Domain, features, fit_domain, is_blank

SIZE = 48


def drawn(n: int, seed: int = 0, channels: int = 1) -> NDArray[np.uint8]:
    """Images of a bright disc on a dark ground, each with its own place, size and grey levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = []
    for _ in range(n):
        inside = np.hypot(x - rng.normal(24, 2), y - rng.normal(24, 2)) < rng.normal(14, 2)
        image = np.where(inside, rng.uniform(150, 220), rng.uniform(20, 80)) + rng.normal(0, 2, (SIZE, SIZE))
        images.append(np.repeat(image[None], channels, axis=0))
    return np.stack(images).clip(0, 255).astype(np.uint8)


def share_unusual(domain: Domain, images: NDArray[np.uint8]) -> float:
    return float(np.mean([domain.unusual(row) for row in features(images)]))


@pytest.mark.parametrize("n", [30, 300])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_images_are_unusual_and_new_ones_of_the_same_kind_are_not(n: int, channels: int) -> None:
    domain = fit_domain(features(drawn(n, channels=channels)), np.arange(n) // 2)
    new = drawn(200, seed=1, channels=channels)
    assert share_unusual(domain, new) <= 0.05
    noise = np.random.default_rng(2).integers(0, 256, new.shape, dtype=np.uint8)
    moved = np.roll(new, SIZE // 2, axis=-1)
    smooth = np.broadcast_to(np.linspace(0, 255, SIZE).astype(np.uint8), new.shape)
    for other in (noise, moved, smooth):
        assert share_unusual(domain, other) == 1


def test_the_same_kind_is_unusual_at_the_rate_of_the_cut() -> None:
    rng = np.random.default_rng(0)
    train, new = (rng.normal(size=(2000, 10)).astype(np.float32) for _ in range(2))
    domain = fit_domain(train, np.arange(2000))
    assert 0.003 < np.mean([domain.unusual(row) for row in new]) < 0.02


def test_images_of_one_person_are_not_compared_with_one_another() -> None:
    """Two equal images of each person would be near each other, and the cut too low for new people."""
    rng = np.random.default_rng(0)
    train, new = (rng.normal(size=(40, 200)).astype(np.float32) for _ in range(2))
    domain = fit_domain(np.repeat(train, 2, axis=0), np.repeat(np.arange(40), 2))
    assert np.mean([domain.unusual(row) for row in new]) < 0.2


def test_what_is_equal_on_all_training_images_does_not_decide() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(500, 20)).astype(np.float32)
    train[:, 0] = 1
    domain = fit_domain(train, np.arange(500))
    row = np.zeros(20, np.float32)
    row[0] = 1.01
    assert not domain.unusual(row)


def test_too_few_images_to_compare_with_find_nothing() -> None:
    one = features(drawn(1))
    assert not fit_domain(one, np.zeros(1, int)).unusual(features(drawn(1, seed=5))[0] + 100)
    assert np.isfinite(fit_domain(features(drawn(6)), np.zeros(6, int)).cut)  # a single person


BLANK_PICTURES = {
    "white paper": lambda noise, x, y: 250 + 2 * noise,
    "covered lens": lambda noise, x, y: 3 + 2 * noise,
    "noise": lambda noise, x, y: 128 + 70 * noise,
    "gradient": lambda noise, x, y: 255 * x + 0 * noise,
    "wall": lambda noise, x, y: 200 - 60 * ((x - 0.4) ** 2 + (y - 0.5) ** 2) + 3 * noise,
}


@pytest.mark.parametrize("kind", BLANK_PICTURES)
@pytest.mark.parametrize("side", [32, 64, 105])
@pytest.mark.parametrize("channels", [1, 3])
def test_shading_and_noise_are_blank(kind: str, side: int, channels: int) -> None:
    y, x = np.mgrid[0 : 1 : 1j * side, 0 : 1 : 1j * side]  # type: ignore[misc]
    noise = np.random.default_rng(0).normal(size=(channels, side, side))
    assert is_blank(BLANK_PICTURES[kind](noise, x, y).clip(0, 255).astype(np.uint8))


def test_shapes_are_not_blank() -> None:
    images = drawn(50, channels=3)
    assert not any(map(is_blank, images))
    assert not any(is_blank((0.4 * image).astype(np.uint8)) for image in images)  # dark


@given(st.integers(8, 70), st.sampled_from([1, 3]), st.sampled_from([0, 255, None]))
def test_any_image_can_be_described(side: int, channels: int, value: int | None) -> None:
    shape = (channels, side, side)
    image = np.random.default_rng(side).integers(0, 256, shape, dtype=np.uint8)
    if value is not None:
        image = np.full(shape, value, np.uint8)
    (found,) = features(image[None])
    assert found.dtype == np.float32
    assert found.ndim == 1
    assert np.isfinite(found).all()
    assert len(found) == features(image[None, :1]).shape[1]
    assert np.array_equal(features(np.stack([255 - image, image]))[1], found)
