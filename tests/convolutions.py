"""Compare a convolution of ours with PyTorch's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def assert_same_convolution(plain: nn.Conv2d, ours: nn.Conv2d, x: Tensor, bf16: bool, atol: float = 1e-6) -> Tensor:
    """Compare outputs and gradients of two convolutions with the same weights, and return the output of ours.

    Args:
        atol: largest difference in float32, relative to the largest value.
    """
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
        torch.testing.assert_close(other / largest, one / largest, rtol=0, atol=0.02 if bf16 else atol)
    assert {y.dtype for y in outputs} == {torch.bfloat16 if bf16 else torch.float32}
    return outputs[1]
