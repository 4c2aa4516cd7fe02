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


@pytest.mark.parametrize(("c_in", "stride"), [(4, 1), (6, 1), (6, 2)])
def test_a_residual_block_is_its_shortcut_plus_its_branch(c_in: int, stride: int) -> None:
    """Also the names of the weights are those of a sequence of PyTorch's layers, as in older checkpoints."""
    torch.manual_seed(0)
    block = ResidualBlock(c_in, 4, stride)
    branch = nn.Sequential(
        nn.Conv2d(c_in, 4, 3, stride, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4),
    )  # fmt: skip
    pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
    changed = nn.Sequential(pool, nn.Conv2d(c_in, 4, 1, bias=False), nn.BatchNorm2d(4))
    shortcut = nn.Identity() if (c_in, stride) == (4, 1) else changed
    reference = nn.ModuleDict({"branch": branch, "shortcut": shortcut}).double()
    reference.load_state_dict(block.state_dict())
    x = torch.rand(3, c_in, 7, 7)
    found = []
    for model, pixels in ((block, x), (reference, x.double())):
        pixels = pixels.clone().requires_grad_()
        apply = model if model is block else lambda v: (branch(v) + shortcut(v)).relu()
        y = apply(pixels)
        y.square().sum().backward()
        model.eval()
        with torch.no_grad():
            later = apply(pixels)
        grads = [weights.grad for weights in model.parameters()]
        found.append([value.double() for value in (y, later, pixels.grad, *grads, *model.buffers())])
    for mine, their in zip(*found, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=1e-5 * float(1 + their.abs().max()))


def test_the_default_residual_network_has_the_parameters_that_its_file_names() -> None:
    default = group_defaults("model", "resnet")
    sizes = {}
    for side in (64, 105):
        with torch.device("meta"):
            network = make_network(default, 1, side, objective="ntxent")
        sizes[side] = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert sizes == {64: pytest.approx(2.3, abs=0.05), 105: pytest.approx(4.4, abs=0.05)}
