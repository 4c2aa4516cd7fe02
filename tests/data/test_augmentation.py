"""Augmentation of whole batches: each change on its own, within its bounds, reproducible from torch's seed."""

from __future__ import annotations

import math

import pytest
import torch
from configs import section

from siamese.data.augmentation import augment


def spot(row, column, side=41, batch=64):
    """Black images with one bright spot, three pixels wide."""
    x = torch.zeros(batch, 1, side, side)
    x[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1.0
    return x


def centres(x):
    """Centre of mass of each image: (rows, columns)."""
    weight = x[:, 0] / x[:, 0].sum((1, 2), keepdim=True)
    at = torch.arange(x.shape[-1], dtype=torch.float32)
    return (weight.sum(2) * at).sum(1), (weight.sum(1) * at).sum(1)


def noise(batch=8, channels=1, side=21):
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(1))


def apply(x, seed=0, **options):
    torch.manual_seed(seed)
    return augment(x, section("augmentation", **options))


def test_without_changes_the_images_are_returned():
    x = noise()
    assert apply(x) is x


ALL = {
    "flip": True, "rotation": 10.0, "shear": 0.2, "scale": 1.2, "translation": 0.1, "brightness": 0.2, "contrast": 0.3,
    "erase": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("options", [{key: value} for key, value in ALL.items()] + [ALL], ids=[*ALL, "all"])
@pytest.mark.parametrize("channels", [1, 3])
def test_changes_stay_in_range_follow_the_seed_and_leave_the_input_alone(options, channels):
    x = noise(channels=channels)
    kept = x.clone()
    y = apply(x, **options)
    assert (y.shape, y.dtype) == (x.shape, torch.float32)
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    assert torch.equal(x, kept)
    assert torch.equal(y, apply(x, **options))
    assert not torch.equal(y, apply(x, seed=1, **options))
    changed = [not torch.equal(a, b) for a, b in zip(x, y, strict=True)]
    assert any(changed)


def test_a_flip_mirrors_about_half_of_the_images():
    x = noise(batch=400)
    y = apply(x, flip=True)
    mirrored = [torch.equal(b, a.flip(-1)) for a, b in zip(x, y, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, x, y, strict=True))
    assert 150 < sum(mirrored) < 250
    moved = apply(x, flip=True, rotation=1e-4)
    assert [bool((b - a.flip(-1)).abs().max() < 1e-3) for a, b in zip(x, moved, strict=True)] == mirrored


def test_rotation_turns_about_the_centre_by_at_most_the_angle():
    row, column = centres(apply(spot(20, 35), rotation=20.0))
    angle = torch.rad2deg(torch.atan2(row - 20, column - 20))
    assert torch.allclose(torch.hypot(row - 20, column - 20), torch.tensor(15.0), atol=0.3)
    assert float(angle.abs().max()) <= 20.5
    assert float(angle.min()) < -12
    assert float(angle.max()) > 12


def test_translation_moves_by_at_most_its_share_of_the_side():
    row, column = centres(apply(spot(20, 20), translation=0.2))
    for moved in (row - 20, column - 20):
        assert float(moved.abs().max()) <= 0.2 * 41 + 0.1
        assert float(moved.min()) < -5
        assert float(moved.max()) > 5


def test_scale_is_between_its_inverse_and_itself():
    _, column = centres(apply(spot(20, 30), scale=1.5))
    factor = (column - 20) / 10
    assert 1 / 1.5 - 0.02 < float(factor.min()) < 0.75
    assert 1.35 < float(factor.max()) < 1.5 + 0.02


def test_shear_moves_points_above_the_centre_sideways():
    row, column = centres(apply(spot(10, 20), shear=0.3))
    assert torch.allclose(row, torch.tensor(10.0), atol=0.2)
    assert float((column - 20).abs().max()) <= 3.2
    assert float((column - 20).abs().max()) > 2


def test_light_changes_only_mean_and_contrast():
    x = 0.4 + 0.2 * noise(batch=200)
    brighter, sharper = apply(x, brightness=0.1), apply(x, contrast=0.4)
    offset = (brighter - x).flatten(1)
    assert torch.allclose(offset, offset[:, :1].expand_as(offset), atol=1e-6)
    assert 0.08 < float(offset.abs().max()) <= 0.1 + 1e-6
    assert torch.allclose(sharper.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    ratio = sharper.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.6 - 1e-4 <= float(ratio.min()) < 0.7
    assert 1.3 < float(ratio.max()) <= 1.4 + 1e-4


def test_erasing_fills_one_rectangle_with_the_mean():
    x = noise(batch=300, side=40)
    y = apply(x, erase=0.5, erase_size=0.5)
    hit = 0
    for before, after in zip(x[:, 0], y[:, 0], strict=True):
        changed = before != after
        if not changed.any():
            continue
        hit += 1
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        top, bottom, left, right = int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())
        assert torch.allclose(after[top : bottom + 1, left : right + 1], before.mean(), atol=1e-6)
        assert math.floor(0.125 * 40) - 1 <= bottom - top + 1 <= 21
        assert math.floor(0.125 * 40) - 1 <= right - left + 1 <= 21
    assert 110 < hit < 190


def test_autocast_changes_no_pixel():
    """As the training step calls it with precision=bf16."""
    x = noise(side=96)
    with torch.autocast("cpu", torch.bfloat16):
        y = apply(x, **ALL)
    assert torch.equal(y, apply(x, **ALL))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_images():
    x = noise()
    assert torch.allclose(apply(x.cuda(), **ALL).cpu(), apply(x, **ALL), atol=1e-5)
