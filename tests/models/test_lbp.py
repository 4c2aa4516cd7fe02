"""Local binary patterns: the histograms, and the principal components that the linear layer starts from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from siamese.errors import ConfigError
from siamese.models.lbp import LBP_PATTERNS, BlockHistograms, LbpEncoder

OPTIONS = {"scales": [1.0, 0.5], "radii": [1, 2], "cell": 5, "embedding_dim": 6}


def bilinear(image: Tensor, y: float, x: float) -> float:
    top, left = math.floor(y), math.floor(x)
    down, right = y - top, x - left
    corners = (
        (0, 0, (1 - down) * (1 - right)),
        (0, 1, (1 - down) * right),
        (1, 0, down * (1 - right)),
        (1, 1, down * right),
    )
    return sum(float(image[top + i, left + j]) * weight for i, j, weight in corners if weight > 1e-9)


def changes(code: int) -> int:
    bits = f"{code:08b}"
    return sum(bits[i] != bits[i - 1] for i in range(8))


def reference(image: Tensor, radius: float, cells: int) -> Tensor:
    """The histograms as the papers describe them, pixel by pixel."""
    uniform = [code for code in range(256) if changes(code) <= 2]
    margin = math.ceil(radius)
    width = len(image) - 2 * margin
    count = torch.zeros(cells, cells, LBP_PATTERNS)
    for i in range(width):
        for j in range(width):
            y, x, code = margin + i, margin + j, 0
            for bit in range(8):
                angle = 2 * math.pi * bit / 8
                neighbour = bilinear(image, y - radius * math.sin(angle), x + radius * math.cos(angle))
                code += (neighbour >= float(image[y, x]) - 1e-5) << bit
            pattern = uniform.index(code) if code in uniform else LBP_PATTERNS - 1
            count[i * cells // width, j * cells // width, pattern] += 1
    blocks = [count[i : i + 2, j : j + 2].sum((0, 1)) for i in range(cells - 1) for j in range(cells - 1)]
    return torch.cat([block.sqrt() / block.sum().sqrt() for block in blocks])


@pytest.mark.parametrize("radius", [1, 2, 1.5])
def test_histograms_are_those_of_the_definition(radius: float) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 40, (22, 22)).float() / 255  # with ties
    histograms = BlockHistograms(22, radius, cell=6)
    torch.testing.assert_close(histograms(image[None, None])[0], reference(image, radius, histograms.cells))


def test_histograms_do_not_depend_on_brightness_and_contrast() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (3, 1, 24, 24)) / 255
    encoder = LbpEncoder(1, 24, **OPTIONS)
    torch.testing.assert_close(encoder.features(0.3 + 0.5 * x), encoder.features(x))
    assert not torch.allclose(encoder.features(1 - x), encoder.features(x))


def test_each_channel_is_described() -> None:
    x = torch.rand(2, 3, 24, 24)
    grey, rgb = (LbpEncoder(channels, 24, **OPTIONS) for channels in (1, 3))
    torch.testing.assert_close(torch.stack([grey.features(x[:, [i]]) for i in range(3)], 1).flatten(1), rgb.features(x))
    assert rgb(x).shape == (2, 6)


def test_the_linear_layer_starts_as_principal_components() -> None:
    torch.manual_seed(0)
    x = torch.rand(40, 1, 24, 24)
    encoder = LbpEncoder(1, 24, **OPTIONS)
    before = torch.get_rng_state()
    encoder.prepare(x.split(7))
    assert torch.equal(torch.get_rng_state(), before)  # what training draws stays the same
    z_ND, features = encoder(x), encoder.features(x).double()
    values = torch.linalg.svdvals(features - features.mean(0))[:6]
    torch.testing.assert_close(z_ND.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(z_ND.double().norm(dim=0), values, rtol=1e-2, atol=0)
    turned = z_ND.T @ z_ND
    torch.testing.assert_close(turned, turned.diagonal().diag(), atol=1e-3, rtol=0)  # components are uncorrelated


def test_too_few_images_for_the_components() -> None:
    encoder = LbpEncoder(1, 24, **OPTIONS)
    with pytest.raises(ConfigError, match="embedding_dim=6: 6 training images have at most 5"):
        encoder.prepare([torch.rand(6, 1, 24, 24)])
