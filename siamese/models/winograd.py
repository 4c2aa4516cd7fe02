"""Convolution with 3x3 kernels in float32 by Winograd's method, which needs fewer multiplications than the direct sum.

Lavin and Gray (2016, "Fast Algorithms for Convolutional Neural Networks", section 4): a tile of M x M pixels of the
result depends on (M + 2)^2 pixels of the input. Both and the kernel have transforms, with which the convolution is one
product of matrices for each of (M + 2)^2 positions. That takes 4 multiplications a pixel instead of 9 with M = 2, 2.25
with M = 4, and 1.96 with M = 5. The library (``kernels.cpp``) transforms the maps. The backward pass applies the
transposed steps in reverse order.

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

TILES = (2, 4, 5)
"""The values of M for which the library has the transforms."""

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, -0.5)
"""Points of Toom and Cook's method, as in the library; M uses the first M + 1."""

CHUNK_BYTES = 8 * 2**20
"""The images are transformed in parts. Their tiles, and the products of these, have about this size each, so that they
stay in the processor's last cache."""


def winograd_conv2d(x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
    """Compute `torch.nn.functional.conv2d` with padding 1 by Winograd's method, on the CPU, with the library.

    Args:
        x_BCHW: images, float32, for which `siamese.models.kernels.fits` returns True.
        w_OC33: 3x3 kernels, float32.

    Returns:
        [B, O, H, W], float32 and channels-last; differentiable once. It differs from the exact sum by rounding: up to
        1e-5 of the largest value, its gradients up to 2e-5. An infinite or very large pixel affects the whole tile.
    """
    y_BOHW: Tensor = _WinogradConv.apply(channels_last(x_BCHW), w_OC33)
    return y_BOHW


class _WinogradConv(torch.autograd.Function):
    @staticmethod
    # Without autocast, and so is the backward pass.
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
        (batch, channels, height, width), out = x_BCHW.shape, len(w_OC33)
        m = _tile(height, width)
        w_TCO = (_kernel_transform(m) @ w_OC33.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, channels, out)
        y_BOHW = x_BCHW.new_empty(batch, height, width, out).permute(0, 3, 1, 2)
        of_x, of_y = _Workspace(), _Workspace()
        for part in _parts(m, x_BCHW, out):
            x_TNC = _transform("from_input", m, x_BCHW[part], of_x)
            y_TNO = torch.bmm(x_TNC, w_TCO, out=of_y.take(*x_TNC.shape[:2], out))
            call("winograd_to_result", y_BOHW[part], y_BOHW[part], m, y_TNO)
        ctx.save_for_backward(x_BCHW, w_TCO)
        return y_BOHW

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, g_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BCHW, w_TCO = ctx.saved_tensors
        g_BOHW = channels_last(g_BOHW)
        m, (channels, out) = _tile(*x_BCHW.shape[2:]), w_TCO.shape[1:]
        gx_BCHW = torch.empty_like(x_BCHW) if ctx.needs_input_grad[0] else None
        gw_TCO = torch.zeros_like(w_TCO) if ctx.needs_input_grad[1] else None
        of_x, of_g = _Workspace(), _Workspace()
        for part in _parts(m, x_BCHW, out):
            g_TNO = _transform("from_result", m, g_BOHW[part], of_g)
            if gw_TCO is not None:
                gw_TCO.baddbmm_(_transform("from_input", m, x_BCHW[part], of_x).mT, g_TNO)
            if gx_BCHW is not None:
                gx_TNC = torch.bmm(g_TNO, w_TCO.mT, out=of_x.take(*g_TNO.shape[:2], channels))
                call("winograd_to_input", gx_BCHW[part], gx_BCHW[part], m, gx_TNC)
        if gw_TCO is None:
            return gx_BCHW, None
        gw_9X = _kernel_transform(m).T @ gw_TCO.flatten(1)
        return gx_BCHW, gw_9X.view(3, 3, channels, out).permute(3, 2, 0, 1)


def _tile(height: int, width: int) -> int:
    """Return the M with the fewest multiplications."""
    return min(TILES, key=lambda m: (m + 2) ** 2 * _tiles_of_image(m, height, width))


def _tiles_of_image(m: int, height: int, width: int) -> int:
    return math.ceil(height / m) * math.ceil(width / m)


@cache
def _kernel_transform(m: int) -> Tensor:
    """Return the transform of the columns and the rows of a kernel, as one matrix [T, 9].

    For one axis, the row of a point p is [1, p, p^2], divided by the product of p - q over the other points q. The last
    row belongs to the point infinity and selects the last tap.
    """
    points = POINTS[: m + 1]
    rows = [[p**k / math.prod(p - q for q in points if q != p) for k in range(3)] for p in points]
    one = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64, device="cpu")
    return torch.kron(one, one).float()


def _parts(m: int, x_BCHW: Tensor, out: int) -> Iterator[slice]:
    """Divide the images into parts whose tiles have about `CHUNK_BYTES`, with the same number for each thread."""
    batch, channels, height, width = x_BCHW.shape
    of_image = 4 * (m + 2) ** 2 * _tiles_of_image(m, height, width) * max(channels, out)
    threads = torch.get_num_threads()
    images = max(1, CHUNK_BYTES // of_image // threads) * threads
    return (slice(first, first + images) for first in range(0, batch, images))


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
    """Return the transformed tiles [T, N, C] of images, or of a gradient of the result."""
    batch, channels, height, width = x_BCHW.shape
    tiles_TNC = workspace.take((m + 2) ** 2, batch * _tiles_of_image(m, height, width), channels)
    call(f"winograd_{name}", x_BCHW, x_BCHW, m, tiles_TNC)
    return tiles_TNC
