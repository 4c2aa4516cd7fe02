"""Convolutions as products of larger matrices, where oneDNN uses matrix units badly in bf16."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from siamese.models.kernels import call, channels_last, fits


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


class SmallMapConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a 3x3 kernel, padding 1 and no bias, for many channels and few pixels.

    Under bf16 autocast on the CPU, with the compiled library, the gradient of the weights is one product of matrices if
    the result has at most 100 pixels. For 256 channels of 5 x 5 pixels, that takes a quarter of oneDNN's time with AMX.
    Parameters and state are those of ``Conv2d``.

    Shapes: B images, C input and O output channels, H x W pixels, h = ceil(H / stride), w = ceil(W / stride).

    Args:
        c_in: C.
        c_out: O.
        stride: of both axes.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, 3, stride, padding=1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve images [B, C, H, W] -> [B, O, h, w]."""
        few_pixels = x_BCHW.shape[2] * x_BCHW.shape[3] <= 100 * self.stride[0] ** 2
        if not (few_pixels and torch.is_grad_enabled() and fits(x_BCHW) and _in_bf16()):
            return super().forward(x_BCHW)
        y_BOhw: Tensor = _SmallMapConv.apply(x_BCHW.bfloat16(), self.weight.bfloat16(), self.stride[0])
        return y_BOhw


class _SmallMapConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight_OC33: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_OC33)
        ctx.stride = stride
        return nn.functional.conv2d(x_BCHW, weight_OC33, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BOhw: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight_OC33 = ctx.saved_tensors
        channels, out, stride = x_BCHW.shape[1], g_BOhw.shape[1], ctx.stride
        gx_BCHW = None
        if ctx.needs_input_grad[0]:
            gx_BCHW = conv2d_input(x_BCHW.shape, weight_OC33, g_BOhw, stride=stride, padding=1)
        x_BCHW = channels_last(x_BCHW)
        columns_NX = x_BCHW.new_empty(g_BOhw.numel() // out, 9 * channels)
        call("columns", x_BCHW, x_BCHW, stride, columns_NX)
        g_NO = g_BOhw.permute(0, 2, 3, 1).reshape(-1, out)
        return gx_BCHW, (g_NO.T @ columns_NX).view(out, 3, 3, channels).permute(0, 3, 1, 2), None


def _in_bf16() -> bool:
    is_bf16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_bf16 and cpu_has_bf16()
