"""The residual network: any image size, its blocks, its number of parameters."""

from __future__ import annotations

import pytest
import torch
from networks import SMALL_RESNET, make_network
from torch import nn

from siamese.config.defaults import group_defaults
from siamese.models.resnet import ResidualBlock


@pytest.mark.parametrize("pooling", ["flatten", "average"])
@pytest.mark.parametrize(
    ("stem", "channels", "size", "side"),
    [
        ("pool", 1, 33, 4),
        ("pool", 3, 64, 8),
        ("pool", 1, 8, 1),
        ("conv", 1, 33, 5),
        ("conv", 3, 64, 8),
        ("conv", 1, 8, 1),
    ],
)
def test_residual_network_takes_any_size(pooling: str, stem: str, channels: int, size: int, side: int) -> None:
    network = make_network({**SMALL_RESNET, "pooling": pooling, "stem": stem}, channels, size, objective="ntxent")
    assert network.encoder.features(torch.rand(2, channels, size, size)).shape == (2, 16, side, side)
    assert network.embed(torch.rand(2, channels, size, size)).shape == (2, 8)


def test_a_residual_block_is_its_input_plus_its_branch() -> None:
    block = ResidualBlock(4, 4, stride=1).eval()
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(x), (block.branch(x) + x).relu())
    nn.init.zeros_(block.branch[4].weight)
    torch.testing.assert_close(block(x), x)  # ReLU leaves what is not negative


def test_the_default_residual_network_has_the_parameters_that_its_file_names() -> None:
    default = group_defaults("model", "resnet")
    sizes = {}
    for side in (64, 105):
        with torch.device("meta"):
            network = make_network(default, 1, side, objective="ntxent")
        sizes[side] = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert sizes == {64: pytest.approx(2.3, abs=0.05), 105: pytest.approx(4.4, abs=0.05)}
