"""Koch's encoder and the network around it: feature maps, parameter counts, initialization, twins."""

from __future__ import annotations

import pytest
import torch
from networks import KOCH, SMALL_KOCH, make_network
from torch import nn

from siamese.config.shapes import koch_feature_size
from siamese.models.norm_pool import MaxPoolReLU2d


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_models_of_the_course_report_have_their_parameters() -> None:
    with torch.device("meta"):
        assert parameters(make_network(KOCH, 1, 105)) == 38_951_745
        # A weight and a bias for each channel of the four BatchNorm2d and of the BatchNorm1d.
        normalized = make_network({**KOCH, "batchnorm": True}, 1, 105)
    assert parameters(normalized) == 38_951_745 + 2 * (64 + 128 + 128 + 256 + 4096)


def test_feature_maps_are_those_of_the_paper() -> None:
    encoder = make_network({**KOCH, "widths": [2, 2, 2, 2], "embedding_dim": 3}, 1, 105).encoder
    x, sides = torch.zeros(1, 1, 105, 105), []
    for layer in encoder.convolutions:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | MaxPoolReLU2d):
            sides.append(x.shape[-1])
    assert sides == [96, 48, 42, 21, 18, 9, 6]


@pytest.mark.parametrize("size", [65, 66, 105, 120, 250])
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_that_fits(size: int, batchnorm: bool, channels: int) -> None:
    network = make_network({**SMALL_KOCH, "batchnorm": batchnorm, "dropout": 0.1}, channels, size)
    x = torch.rand(2, channels, size, size)
    assert network(x, x.flip(0)).shape == (2,)
    assert network.embed(x).shape == (2, 16)


def test_too_small_an_image_is_refused() -> None:
    assert koch_feature_size(64) < 1 <= koch_feature_size(65)
    with pytest.raises(ValueError, match="64x64 pixels is too small"):
        make_network(KOCH, 1, 64)


def test_each_side_has_its_own_batch_statistics() -> None:
    torch.manual_seed(0)
    network = make_network({**SMALL_KOCH, "batchnorm": True}, 1, 65).train()
    a, b = torch.rand(4, 1, 65, 65), 0.1 * torch.rand(4, 1, 65, 65)
    torch.testing.assert_close(network(a, b), network.head(network.embed(a), network.embed(b)))
    both = network.embed(torch.cat([a, b]))
    assert not torch.allclose(both[:4], network.embed(a), atol=1e-3)


def test_dropout_acts_only_in_training_and_not_on_the_embedding() -> None:
    network = make_network({**SMALL_KOCH, "dropout": 0.5}, 1, 65)
    x = torch.rand(2, 1, 65, 65)
    assert not torch.equal(network.train().embed(x), network.embed(x))
    network.eval()
    torch.testing.assert_close(network.embed(x), network.embed(x))
    assert not any(isinstance(layer, nn.Dropout) for layer in network.encoder.linear)


def test_koch_initialization() -> None:
    torch.manual_seed(0)
    network = make_network({**KOCH, "widths": [16, 32, 32, 64], "embedding_dim": 512, "init": "koch"}, 1, 105)
    convolution = network.encoder.convolutions[2]
    linear = network.encoder.linear[0]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert linear.weight.std().item() == pytest.approx(0.2, rel=0.05)
    assert network.head.linear.weight.std().item() == pytest.approx(0.2, rel=0.2)
    assert linear.bias.mean().item() == pytest.approx(0.5, abs=0.005)
    assert linear.bias.std().item() == pytest.approx(0.01, rel=0.15)
