"""The convolution whose kernel columns are channels, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from siamese.models.unfold_conv import UnfoldConv2d


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bf16", [True, False])
def test_an_unfolded_convolution_is_the_convolution(channels: int, bf16: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 4, (5, 3))
    unfolded = UnfoldConv2d(channels, 4, (5, 3))
    unfolded.load_state_dict(plain.state_dict())
    x, direction = torch.rand(2, channels, 12, 11), torch.randn(2, 4, 8, 9)
    found = []
    for convolution in (plain, unfolded):
        pixels = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = convolution(pixels)
        assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
        gradients = torch.autograd.grad((y.float() * direction).sum(), [pixels, *convolution.parameters()])
        found.append([y.float(), *gradients])
    for one, other in zip(*found, strict=True):
        largest = one.abs().max()
        torch.testing.assert_close(other / largest, one / largest, rtol=0, atol=0.02 if bf16 else 1e-6)
