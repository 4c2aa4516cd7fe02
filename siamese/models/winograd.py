"""Convolution with 3x3 kernels in float32 by Winograd's method, which needs fewer multiplications than the direct sum.

Lavin and Gray (2016, "Fast Algorithms for Convolutional Neural Networks", section 4): a tile of M x M pixels of the
result depends on (M + 2)^2 pixels of the input. Both and the kernel have transforms, with which the convolution is one
product of matrices for each of (M + 2)^2 positions. That takes 4 multiplications a pixel instead of 9 with M = 2, and
2.25 with M = 4. The library (``kernels.cpp``) transforms the maps. Gradients follow the same steps backward.

Shapes: B images, C input and O output channels, H x W pixels, N tiles of all images, T = (M + 2)^2 positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from siamese.models.kernels import call, channels_last

KERNEL: dict[int, list[list[float]]] = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
    ],
}  # fmt: skip
"""M -> the transform of a kernel's columns and rows; the library has the other two."""

CHUNK_BYTES = 4 * 2**20
"""The images are transformed in parts of this size, so that the products find them in the processor's cache."""


def winograd_conv2d(x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
    """Compute `torch.nn.functional.conv2d` with padding 1 by Winograd's method, on the CPU, with the library.

    Args:
        x_BCHW: images, float32, for which `siamese.models.kernels.fits` returns True.
        w_OC33: 3x3 kernels, float32.

    Returns:
        [B, O, H, W], float32 and channels-last; differentiable once. It differs from the direct sum by rounding: up to
        1e-5 of the largest value. An infinite or very large pixel affects the whole tile.
    """
    y_BOHW: Tensor = _WinogradConv.apply(channels_last(x_BCHW), w_OC33)
    return y_BOHW


class _WinogradConv(torch.autograd.Function):
    @staticmethod
    # As of other convolutions, the gradient is float32 if the result was.
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
        ctx.save_for_backward(x_BCHW, w_OC33)
        return _convolve(x_BCHW, w_OC33)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, g_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BCHW, w_OC33 = ctx.saved_tensors
        g_BOHW, grad_x, grad_w = channels_last(g_BOHW), None, None
        if ctx.needs_input_grad[0]:  # a convolution of the gradient with the kernels turned by 180 degrees
            grad_x = _convolve(g_BOHW, w_OC33.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            grad_w = _kernel_gradient(x_BCHW, g_BOHW)
        return grad_x, grad_w


def _convolve(x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
    (batch, channels, height, width), out = x_BCHW.shape, len(w_OC33)
    m = _tile(height, width)
    w_TCO = (_kernel_transform(m) @ w_OC33.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, out)
    y_BOHW = x_BCHW.new_empty(batch, height, width, out).permute(0, 3, 1, 2)
    tiles, products = _Workspace(), _Workspace()
    for x, y in _parts(m, x_BCHW, y_BOHW):
        x_TNC = _transform("input", m, x, tiles)
        y_TNO = torch.bmm(x_TNC, w_TCO, out=products.take(*x_TNC.shape[:2], out))
        call("winograd_result", y, y_TNO, m, y)
    return y_BOHW


def _kernel_gradient(x_BCHW: Tensor, g_BOHW: Tensor) -> Tensor:
    m = _tile(*x_BCHW.shape[2:])
    c_in, c_out = x_BCHW.shape[1], g_BOHW.shape[1]
    gw_TCO = x_BCHW.new_zeros((m + 2) ** 2, c_in, c_out)
    of_x, of_g = _Workspace(), _Workspace()
    for x, g in _parts(m, x_BCHW, g_BOHW):
        gw_TCO.baddbmm_(_transform("input", m, x, of_x).mT, _transform("gradient", m, g, of_g))
    gw_9X = _kernel_transform(m).T @ gw_TCO.view(len(gw_TCO), -1)
    return gw_9X.view(3, 3, c_in, c_out).permute(3, 2, 0, 1)


def _tile(height: int, width: int) -> int:
    """Return the M with the fewest multiplications."""
    return min(KERNEL, key=lambda m: (m + 2) ** 2 * math.ceil(height / m) * math.ceil(width / m))


@cache
def _kernel_transform(m: int) -> Tensor:
    """Return the transform of the columns and the rows of a kernel, as one matrix [T, 9]."""
    one = torch.tensor(KERNEL[m], dtype=torch.float64, device="cpu")
    return torch.kron(one, one).float()


def _parts(m: int, *maps_BCHW: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Divide the images into parts whose tiles have about `CHUNK_BYTES`, with the same number for each thread."""
    channels = max(maps.shape[1] for maps in maps_BCHW)
    height, width = maps_BCHW[0].shape[2:]
    of_image = 4 * (m + 2) ** 2 * math.ceil(height / m) * math.ceil(width / m) * channels
    threads = torch.get_num_threads()
    images = max(1, CHUNK_BYTES // of_image // threads) * threads
    return zip(*(maps.split(images) for maps in maps_BCHW), strict=True)


class _Workspace:
    """Memory that one part of the images after the other uses: new memory for each part would take as long again."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.float32, device="cpu")

    def take(self, *shape: int) -> Tensor:
        size = math.prod(shape)
        if len(self.memory) < size:
            self.memory = self.memory.new_empty(size)
        return self.memory[:size].view(shape)


def _transform(name: str, m: int, x_BCHW: Tensor, workspace: _Workspace) -> Tensor:
    """Return the transformed tiles [T, N, C] of images or of their gradient."""
    batch, channels, height, width = x_BCHW.shape
    tiles = batch * math.ceil(height / m) * math.ceil(width / m)
    x_TNC = workspace.take((m + 2) ** 2, tiles, channels)
    call(f"winograd_{name}", x_BCHW, x_BCHW, m, x_TNC)
    return x_TNC
