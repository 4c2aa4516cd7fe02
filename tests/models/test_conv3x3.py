"""The 3x3 convolutions of residual networks: the same as PyTorch's, and computed in the way that is fastest."""

from __future__ import annotations

import pytest
import torch
from convolutions import assert_same_convolution
from torch import Tensor, nn

from siamese.models import conv3x3
from siamese.models.conv3x3 import FEWEST_CHANNELS, Conv3x3
from siamese.models.dft_conv import FEW
from siamese.models.kernels import library
from siamese.models.unfold_conv import cpu_has_bf16

compiled = pytest.mark.skipif(library() is None, reason="the library was not built: no C++ compiler at installation")


@pytest.mark.parametrize(("height", "width", "stride"), [(5, 5, 1), (10, 9, 2), (1, 1, 1), (1, 4, 2), (40, 40, 1)])
@pytest.mark.parametrize("channels", [(6, 4), (32, 36)])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_3x3_convolution_is_the_convolution(
    height: int, width: int, stride: int, channels: tuple[int, int], bf16: bool
) -> None:
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(*channels, 3, stride, padding=1, bias=False), Conv3x3(*channels, stride)
    x = torch.rand(3, channels[0], height, width).contiguous(memory_format=torch.channels_last)
    y = assert_same_convolution(plain, ours, x, bf16, atol=1e-5)
    by_product = bf16 and cpu_has_bf16() and library() is not None and height * width <= 100 * stride**2
    by_winograd = not bf16 and stride == 1 and min(channels) >= FEWEST_CHANNELS and library() is not None
    assert ("_SmallMapConv" in str(y.grad_fn)) == by_product
    assert ("_WinogradConv" in str(y.grad_fn)) == by_winograd


@pytest.mark.skipif(not cpu_has_bf16(), reason="bf16 convolutions are only for processors with AVX-512")
def test_a_convolution_without_a_gradient_of_its_input() -> None:
    convolution, x = Conv3x3(2, 3), torch.rand(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(x).sum().backward()
    assert convolution.weight.grad is not None


@compiled
@pytest.mark.parametrize("images", [1, FEW - 1, FEW])
def test_few_images_without_gradients_are_convolved_directly(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def winograd(x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
        asked.append(len(x_BCHW))
        return x_BCHW

    monkeypatch.setattr(conv3x3, "winograd_conv2d", winograd)
    layer = Conv3x3(FEWEST_CHANNELS, FEWEST_CHANNELS)
    x = torch.rand(images, FEWEST_CHANNELS, 4, 4)
    with torch.no_grad():
        layer(x)
    assert asked == ([images] if images >= FEW else [])


@compiled
@pytest.mark.parametrize("case", ["float64", "bf16 weights", "traced"])
def test_what_the_library_does_not_compute_is_left_to_pytorch(case: str) -> None:
    """An exported graph must consist of PyTorch's layers."""
    layer, x = Conv3x3(FEWEST_CHANNELS, FEWEST_CHANNELS), torch.rand(FEW, FEWEST_CHANNELS, 4, 4)
    if case == "traced":
        traced = torch.jit.trace(layer, x)  # type: ignore[no-untyped-call]
        assert "aten::_convolution" in str(traced.inlined_graph)
        return
    dtype = torch.float64 if case == "float64" else torch.bfloat16
    layer, x = layer.to(dtype), x.to(dtype)
    assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, padding=1))
