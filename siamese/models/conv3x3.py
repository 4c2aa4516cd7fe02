"""The 3x3 convolutions of a residual network, computed faster than oneDNN does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from siamese.models.dft_conv import FEW
from siamese.models.kernels import call, channels_last, fits
from siamese.models.unfold_conv import cpu_has_bf16
from siamese.models.winograd import winograd_conv2d

FEWEST_CHANNELS = 32
"""With fewer channels, Winograd's transforms take longer than the multiplications that they save."""


class Conv3x3(nn.Conv2d):
    """`torch.nn.Conv2d` with a 3x3 kernel, padding 1 and no bias.

    On the CPU, with the compiled library, there are two faster ways than oneDNN's. Parameters and state are those of
    ``Conv2d``. Both ways are differentiable once: gradients that were made with ``create_graph=True`` are constants.

    - In float32 with stride 1: Winograd's method (`siamese.models.winograd`). Without gradients, fewer than `FEW`
      images are convolved directly, because the images of a batch share the cost of transforming the kernel.
    - Under bf16 autocast, if the result has at most 100 pixels: the gradient of the weights is one product of matrices.
      For 256 channels of 5 x 5 pixels, that takes a quarter of oneDNN's time with AMX.

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
        if fits(x_BCHW):
            if self._by_winograd(x_BCHW):
                return winograd_conv2d(x_BCHW, self.weight)
            few_pixels = x_BCHW.shape[2] * x_BCHW.shape[3] <= 100 * self.stride[0] ** 2
            if few_pixels and torch.is_grad_enabled() and _in_bf16():
                y_BOhw: Tensor = _SmallMapConv.apply(x_BCHW.bfloat16(), self.weight.bfloat16(), self.stride[0])
                return y_BOhw
        return super().forward(x_BCHW)

    def _by_winograd(self, x_BCHW: Tensor) -> bool:
        float32 = x_BCHW.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        enough = torch.is_grad_enabled() or len(x_BCHW) >= FEW
        channels = min(self.in_channels, self.out_channels) >= FEWEST_CHANNELS and x_BCHW.shape[1] == self.in_channels
        return float32 and enough and channels and self.stride == (1, 1)


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
