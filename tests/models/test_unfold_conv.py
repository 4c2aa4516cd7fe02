"""Our convolutions, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from siamese.models.kernels import library
from siamese.models.unfold_conv import SmallMapConv2d, UnfoldConv2d, cpu_has_bf16


def assert_same(plain: nn.Conv2d, ours: nn.Conv2d, x: Tensor, bf16: bool) -> Tensor:
    """Compare outputs and gradients of two convolutions with the same weights, and return the output of ours."""
    ours.load_state_dict(plain.state_dict())
    direction = torch.randn(plain(x).shape)
    outputs, found = [], []
    for convolution in (plain, ours):
        pixels = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs.append(convolution(pixels))
        y = outputs[-1].float()
        found.append([y, *torch.autograd.grad((y * direction).sum(), [pixels, *convolution.parameters()])])
    for one, other in zip(*found, strict=True):
        largest = one.abs().max()
        torch.testing.assert_close(other / largest, one / largest, rtol=0, atol=0.02 if bf16 else 1e-6)
    assert {y.dtype for y in outputs} == {torch.bfloat16 if bf16 else torch.float32}
    return outputs[1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bf16", [True, False])
def test_an_unfolded_convolution_is_the_convolution(channels: int, bf16: bool) -> None:
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(channels, 4, (5, 3)), UnfoldConv2d(channels, 4, (5, 3))
    assert_same(plain, ours, torch.rand(2, channels, 12, 11), bf16)


@pytest.mark.parametrize(("height", "width", "stride"), [(5, 5, 1), (10, 9, 2), (1, 1, 1), (1, 4, 2), (40, 40, 1)])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_convolution_of_small_maps_is_the_convolution(height: int, width: int, stride: int, bf16: bool) -> None:
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(6, 4, 3, stride, padding=1, bias=False), SmallMapConv2d(6, 4, stride)
    x = torch.rand(3, 6, height, width).contiguous(memory_format=torch.channels_last)
    y = assert_same(plain, ours, x, bf16)
    by_product = bf16 and cpu_has_bf16() and library() is not None and height * width <= 100 * stride**2
    assert ("_SmallMapConv" in str(y.grad_fn)) == by_product


@pytest.mark.skipif(not cpu_has_bf16(), reason="bf16 convolutions are only for processors with AVX-512")
def test_a_convolution_without_a_gradient_of_its_input() -> None:
    convolution, x = SmallMapConv2d(2, 3), torch.rand(1, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        convolution(x).sum().backward()
    assert convolution.weight.grad is not None
