"""Convolution with 3x3 kernels in float32 by Winograd's method, which needs fewer multiplications than the direct sum.

Lavin and Gray (2016, "Fast Algorithms for Convolutional Neural Networks", section 4): a tile of M x M pixels of the
result depends on (M + 2)^2 pixels of the input. Both and the kernel have transforms, with which the convolution is one
product of matrices for each of (M + 2)^2 positions. That takes 4 multiplications a pixel instead of 9 with M = 2, 2.25
with M = 4, and 1.96 with M = 5. The backward pass applies the transposed steps in reverse order. The library
(``kernels.cpp``) does all of this block by block of tiles.

Shapes: B images, C input and O output channels, H x W pixels, T = (M + 2)^2 positions, G groups of L = `LANES`
channels.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from siamese.models.kernels import call, channels_last

TILES = (2, 4, 5)
"""The values of M for which the library has the transforms."""

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, -0.5)
"""Points of Toom and Cook's method, as in the library; M uses the first M + 1."""

LANES = 16
"""Channels that the library computes together; it has the same number."""


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
    # Autocast is off here and in the backward pass.
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x_BCHW: Tensor, w_OC33: Tensor) -> Tensor:
        batch, _, height, width = x_BCHW.shape
        y_BOHW = x_BCHW.new_empty(batch, height, width, len(w_OC33)).permute(0, 3, 1, 2)
        m = _tile(height, width)
        call("winograd", x_BCHW, x_BCHW, _transformed(w_OC33.permute(2, 3, 1, 0), m), m, len(w_OC33), y_BOHW)
        ctx.save_for_backward(x_BCHW, w_OC33)
        return y_BOHW

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    @once_differentiable
    def backward(ctx: Any, g_BOHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_BCHW, w_OC33 = ctx.saved_tensors
        (out, channels), m = w_OC33.shape[:2], _tile(*x_BCHW.shape[2:])
        gx_BCHW, gw_XTGCL, w_TGOL = None, None, None
        if ctx.needs_input_grad[0]:
            gx_BCHW = torch.empty_like(x_BCHW)
            w_TGOL = _transformed(w_OC33.permute(2, 3, 0, 1), m)
        if ctx.needs_input_grad[1]:  # X parts of the images, one for each thread; layout as in `_transformed`
            parts = min(torch.get_num_threads(), len(x_BCHW))
            shape = parts, (m + 2) ** 2, -(-out // LANES), -(-channels // LANES) * LANES, LANES
            gw_XTGCL = x_BCHW.new_empty(shape)
        call("winograd_gradients", x_BCHW, x_BCHW, channels_last(g_BOHW), w_TGOL, m, out, gx_BCHW, gw_XTGCL)
        if gw_XTGCL is None:
            return gx_BCHW, None
        transposed = _kernel_transform(m).T.repeat(1, len(gw_XTGCL))
        gw_33GCL = (transposed @ gw_XTGCL.view(transposed.shape[1], -1)).view(3, 3, *gw_XTGCL.shape[2:])
        gw_33CO = gw_33GCL.transpose(2, 3).flatten(3)[:, :, :channels, :out]
        return gx_BCHW, gw_33CO.permute(3, 2, 0, 1)


def _transformed(w_33CO: Tensor, m: int) -> Tensor:
    """Transform kernels to [T, G, C, L] for G groups of output channels; both are padded with zeros to whole groups."""
    channels, out = w_33CO.shape[2:]
    w_33CO = F.pad(w_33CO, (0, -out % LANES, 0, -channels % LANES))
    w_33GCL = w_33CO.unflatten(3, (-1, LANES)).transpose(2, 3)
    w_TN: Tensor = _kernel_transform(m) @ w_33GCL.reshape(9, -1)
    return w_TN.view(-1, *w_33GCL.shape[2:])


def _tile(height: int, width: int) -> int:
    """Return the M with the fewest multiplications."""
    return min(TILES, key=lambda m: (m + 2) ** 2 * math.ceil(height / m) * math.ceil(width / m))


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
