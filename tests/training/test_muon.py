"""Muon: properties of the update, against its definition by singular values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from siamese.training.muon import RMS, Muon, orthogonalize

SHAPES = [(32, 1, 3, 3), (64, 32, 3, 3), (16, 200), (200, 16), (24, 24), (1, 50), (50,), (1,)]


def matrix(update: Tensor) -> Tensor:
    return update.reshape(len(update) if update.ndim > 1 else 1, -1)


def draw(shape: tuple[int, ...], smallest: float = 0.02) -> Tensor:
    """A weight's gradient whose singular values are 1 to ``smallest``."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix(noise), full_matrices=False)
    gradient: Tensor = u * smallest ** torch.linspace(0, 1, len(s)) @ vh
    return gradient.reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e12])
def test_the_directions_stay_and_have_one_length(shape: tuple[int, ...], factor: float) -> None:
    gradient = draw(shape)
    update = orthogonalize(factor * gradient)
    u, _, vh = torch.linalg.svd(matrix(gradient), full_matrices=False)
    lengths = u.T @ matrix(update) @ vh.T / (RMS * max(matrix(gradient).shape) ** 0.5)
    assert update.shape == gradient.shape
    assert torch.dist(lengths, torch.diag(lengths.diag())) < 1e-3 * len(lengths)
    assert lengths.diag().min() > 0.95
    assert lengths.diag().max() < 1.16


def test_no_gradient_is_no_update() -> None:
    assert torch.equal(orthogonalize(torch.zeros(8, 3, 3, 3)), torch.zeros(8, 3, 3, 3))


def test_the_memory_layout_does_not_matter() -> None:
    gradient = draw((16, 8, 3, 3))
    assert torch.equal(orthogonalize(gradient), orthogonalize(gradient.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (5,)])
def test_momentum_and_weight_decay(shape: tuple[int, ...]) -> None:
    """Two steps with the formulas of the paper, in float64; a parameter without gradient stays."""
    weight, unused = nn.Parameter(draw(shape).double()), nn.Parameter(torch.ones(2))
    expected, mean = weight.detach().clone(), torch.zeros(shape).double()
    optimizer = Muon([weight, unused], lr=0.1, weight_decay=0.5, momentum=0.9)
    for k in (1, 2):
        weight.grad = draw(shape, smallest=0.1 * k).double()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * weight.grad
        expected = 0.95 * expected - 0.1 * orthogonalize(0.9 * mean + 0.1 * weight.grad)
        torch.testing.assert_close(weight.detach(), expected)
    assert torch.equal(unused, torch.ones(2))


def test_a_saved_state_continues_bit_for_bit() -> None:
    def steps(weight: nn.Parameter, optimizer: Muon, gradients: list[Tensor]) -> None:
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()

    gradients = [draw((6, 10), smallest) for smallest in (0.3, 0.1, 0.05, 0.2)]
    whole, cut = nn.Parameter(torch.ones(6, 10)), nn.Parameter(torch.ones(6, 10))
    steps(whole, Muon([whole], 0.1, 0.5, 0.9), gradients)
    before = Muon([cut], 0.1, 0.5, 0.9)
    steps(cut, before, gradients[:2])
    after = Muon([cut], 0.1, 0.5, 0.9)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    steps(cut, after, gradients[2:])
    assert torch.equal(whole, cut)
