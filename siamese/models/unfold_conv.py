"""Convolution of images of few channels, with the kernel's columns taken as channels."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


@cache
def cpu_has_bf16() -> bool:
    """Whether torch hands bf16 convolutions to oneDNN on this processor (on x86 from AVX-512 on).

    Elsewhere torch computes them by itself, many times slower than in float32.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


class UnfoldConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of stride 1 without padding, dilation or groups, for images of one or a few channels.

    Matrix units multiply 32 channels at a time, and a grey image has one. Under bf16 autocast on the CPU each pixel is
    therefore given the ``L`` pixels from it to the right as channels, and the kernel is one column wide: the same sum
    of products, 2.4 times as fast with AMX (forward and gradients of Koch's first layer). Elsewhere it is ``Conv2d``:
    in float32 this is no faster, and torch's own bf16 convolution fails at its gradient. Parameters and state are those
    of ``Conv2d`` either way.

    Shapes: B images, C input and O output channels, H x W pixels, K x L the kernel.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] -> [B, O, H - K + 1, W - L + 1]."""
        if not (x_BCHW.device.type == "cpu" and torch.is_autocast_enabled("cpu") and cpu_has_bf16()):
            return super().forward(x_BCHW)
        channels_last = torch.channels_last
        dtype = torch.get_autocast_dtype("cpu")
        columns_BCHWL = x_BCHW.to(dtype).unfold(3, self.kernel_size[1], 1)
        x_BXHW = columns_BCHWL.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous(memory_format=channels_last)
        w_OXK1 = self.weight.permute(0, 1, 3, 2).flatten(1, 2).unsqueeze(3).contiguous(memory_format=channels_last)
        return nn.functional.conv2d(x_BXHW, w_OXK1, self.bias)
