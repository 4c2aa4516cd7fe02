"""Convolution by discrete Fourier transform (DFT), computed with matrix products only.

A stride-1 convolution of a small image with a large kernel needs far fewer operations as a product of spectra. Koch's
second layer (7x7 kernels on 48x48 pixels, 78 % of the network's arithmetic) needs a seventh of them.

At such sizes, multiplying by a matrix of sines and cosines is a cheap way to transform. It reads and writes the
channels-last layout of the neighbouring convolutions, so nothing is transposed. Zero padding and cropping reduce the
matrices.

Shapes: B images, C input and O output channels, H x W pixels in, P x Q = (H-K+1) x (W-L+1) pixels out, K x L the
kernel, U = H // 2 + 1 and W frequencies (real signals need half a spectrum), R = 2 the real and the imaginary part,
F = U * W.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW = 16
"""Without gradients, fewer images than this are convolved directly: the images of a batch share the cost of
transforming the kernel."""


class DFTConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of stride 1 without padding, dilation or groups, computed in float32 by Fourier transform.

    Parameters and state are those of ``Conv2d``. Outputs and gradients differ by rounding (about 1e-6 of their largest
    value). Under autocast the arithmetic stays float32, and the output has the dtype of the input. Without gradients,
    fewer than `FEW` images are convolved directly.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve images [B, C, H, W] -> [B, O, H - K + 1, W - L + 1], in the input's dtype and channels-last."""
        x_own = x_BCHW.to(self.weight.dtype)
        if len(x_BCHW) < FEW and not torch.is_grad_enabled():
            with torch.autocast(x_BCHW.device.type, enabled=False):
                return super().forward(x_own).to(x_BCHW.dtype)
        return dft_conv2d(x_own, self.weight, self.bias).to(x_BCHW.dtype)


def dft_conv2d(x_BCHW: Tensor, w_OCKL: Tensor, b_O: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.conv2d` (stride 1, no padding) by Fourier transform.

    Args:
        x_BCHW: images, float32 or float64.
        w_OCKL: kernels, of the same dtype.
        b_O: bias, of the same dtype.

    Returns:
        [B, O, P, Q], of the same dtype; differentiable once.
    """
    with torch.autocast(x_BCHW.device.type, enabled=False):
        y_BOPQ: Tensor = _DFTConv.apply(x_BCHW, w_OCKL, b_O)
    return y_BOPQ


def dft_saves(size: int, c_in: int, c_out: int, kernel: int) -> bool:
    """Return whether the Fourier transform needs less than a third of the multiplications of a direct convolution.

    A third, because products of many small matrices run at a lower rate. The transform of the kernel is not counted: a
    batch shares its cost.

    Args:
        size: side of the square images, pixels.
        c_in: input channels.
        c_out: output channels.
        kernel: side of the square kernels.
    """
    out, u = size - kernel + 1, size // 2 + 1
    there = 2 * u * size * size * c_in + 4 * u * size**2 * c_in
    product = 4 * u * size * c_in * c_out
    back = 4 * u * size * out * c_out + 2 * u * out**2 * c_out
    return 3 * (there + product + back) < out**2 * c_in * c_out * kernel**2


class _Matrices(NamedTuple):
    """The transforms along each axis as real matrices, without the parts that only zeros or unused pixels need.

    The images have n x m nonzero or used pixels. In an axis of several letters, the last letter changes fastest.
    """

    rows: Tensor  # [UR, n]
    columns: Tensor  # [WR, Rm]
    back_columns: Tensor  # [Rm, WR]
    back_rows: Tensor  # [n, UR]


@lru_cache(maxsize=64)
def _matrices(height: int, width: int, n: int, m: int, dtype: torch.dtype, device: torch.device) -> _Matrices:
    """Compute, in float64, the transforms between the first n x m pixels of an image and its half spectrum.

    The last matrix contains the factor 1 / (HW), and counts twice the frequencies whose mirror image is not stored.
    """
    u = torch.arange(height // 2 + 1, dtype=torch.float64)
    angle_UN = 2 * math.pi / height * torch.outer(u, torch.arange(n, dtype=torch.float64))
    w = torch.arange(width, dtype=torch.float64)
    angle_WM = 2 * math.pi / width * torch.outer(w, torch.arange(m, dtype=torch.float64))
    twice_U = (2 - ((u == 0) | (2 * u == height)).double()) / (height * width)
    rows = torch.stack([angle_UN.cos(), -angle_UN.sin()], 1)
    cos, sin = angle_WM.cos(), angle_WM.sin()
    # (a + ib) exp(-i angle): real part a cos + b sin, imaginary part b cos - a sin.
    cols = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    back_rows = rows * twice_U[:, None, None]
    made = (
        rows.reshape(-1, n),
        cols.reshape(2 * width, 2 * m),
        # The inverse transform is the transpose.
        cols.permute(2, 3, 0, 1).reshape(2 * m, 2 * width),
        back_rows.permute(2, 0, 1).reshape(n, -1),
    )
    return _Matrices(*(matrix.to(device, dtype).contiguous() for matrix in made))


@lru_cache(maxsize=64)
def _kernel_matrices(
    height: int, width: int, k: int, m: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `_matrices`, for the three planes of a kernel's spectrum and the four planes of its gradient."""
    plain = _matrices(height, width, k, m, dtype, device)
    re, im = plain.columns.view(width, 2, 2 * m).unbind(1)
    planes = torch.stack([-im, re, im], 1).reshape(3 * width, 2 * m)
    # The gradient's parts: real P0 + Q1, imaginary P1 - Q0, from the planes P0, P1, Q0, Q1.
    back_re, back_im = plain.back_columns.view(2 * m, width, 2).unbind(2)
    back = torch.stack([back_re, back_im, -back_im, back_re], 2).reshape(2 * m, 4 * width)
    return plain.rows, planes.contiguous(), back.contiguous(), plain.back_rows


def _spectrum(x_BHWC: Tensor, height: int, width: int) -> Tensor:
    """Transform pixels [B, n, m, C], padded with zeros -> half spectrum [B, F, R, C]."""
    batch, n, m, channels = x_BHWC.shape
    matrices = _matrices(height, width, n, m, x_BHWC.dtype, x_BHWC.device)
    a = torch.matmul(matrices.rows, x_BHWC.reshape(batch, n, m * channels))
    z = torch.matmul(matrices.columns, a.view(-1, 2 * m, channels))
    return z.view(batch, -1, 2, channels)


def _pixels(z_BFRC: Tensor, height: int, width: int, n: int, m: int) -> Tensor:
    """Transform a half spectrum [B, F, R, C] back -> its first n x m pixels [B, n, m, C]."""
    batch, _, _, channels = z_BFRC.shape
    matrices = _matrices(height, width, n, m, z_BFRC.dtype, z_BFRC.device)
    a = torch.matmul(matrices.back_columns, z_BFRC.view(-1, 2 * width, channels))
    x = torch.matmul(matrices.back_rows, a.view(batch, -1, m * channels))
    return x.view(batch, n, m, channels)


class _DFTConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, w_OCKL: Tensor, b_O: Tensor | None) -> Tensor:
        (batch, _, height, width), (c_out, c_in, k, m) = x_BCHW.shape, w_OCKL.shape
        x_BFRC = _spectrum(x_BCHW.permute(0, 2, 3, 1), height, width)
        frequencies = x_BFRC.shape[1]
        # The planes of the kernel's spectrum are -Im, Re, Im. One matrix product with the neighbours (Re, Im) gives
        # the real part of the product with the conjugate, one with (-Im, Re) the imaginary part.
        rows, planes, _, _ = _kernel_matrices(height, width, k, m, w_OCKL.dtype, w_OCKL.device)
        a = rows @ w_OCKL.permute(2, 3, 1, 0).reshape(k, -1)
        w_F3CO = torch.matmul(planes, a.view(-1, 2 * m, c_in * c_out)).view(frequencies, 3, c_in, c_out)
        y_BFRO = x_BFRC.new_empty(batch, frequencies, 2, c_out)
        x_FBc = x_BFRC.view(batch, frequencies, 2 * c_in).transpose(0, 1)
        for part, first in enumerate((1, 0)):
            torch.bmm(x_FBc, _two_planes(w_F3CO, first), out=y_BFRO[:, :, part].transpose(0, 1))
        if b_O is not None:
            y_BFRO[:, 0, 0] += b_O * (height * width)  # a constant has the frequency zero only
        ctx.save_for_backward(x_BFRC, w_F3CO)
        ctx.shape = (height, width, k, m)
        return _pixels(y_BFRO, height, width, height - k + 1, width - m + 1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BOPQ: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.autocast(g_BOPQ.device.type, enabled=False):
            return _DFTConv.gradients(ctx, g_BOPQ)

    @staticmethod
    def gradients(ctx: Any, g_BOPQ: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Compute the gradients of input, kernel and bias; None for those that are not needed."""
        x_BFRC, w_F3CO = ctx.saved_tensors
        height, width, k, m = ctx.shape
        batch, frequencies, _, c_in = x_BFRC.shape
        c_out = w_F3CO.shape[3]
        g_BFRO = _spectrum(g_BOPQ.permute(0, 2, 3, 1), height, width)
        g_parts = [g_BFRO[:, :, part].transpose(0, 1) for part in (0, 1)]
        grad_x = grad_w = grad_b = None
        if ctx.needs_input_grad[0]:
            gx_FBc = x_BFRC.new_empty(batch, frequencies, 2 * c_in).transpose(0, 1)
            torch.bmm(g_parts[0], _two_planes(w_F3CO, 1).mT, out=gx_FBc)
            gx_FBc.baddbmm_(g_parts[1], _two_planes(w_F3CO, 0).mT)
            gx_BFRC = gx_FBc.transpose(0, 1).view(batch, frequencies, 2, c_in)
            grad_x = _pixels(gx_BFRC, height, width, height, width).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            x_FcB = x_BFRC.view(batch, frequencies, 2 * c_in).permute(1, 2, 0)
            gw_F4CO = x_BFRC.new_empty(frequencies, 4, c_in, c_out)
            for part in (0, 1):
                torch.bmm(x_FcB, g_parts[part], out=_two_planes(gw_F4CO, 2 * part))
            _, _, back, back_rows = _kernel_matrices(height, width, k, m, g_BOPQ.dtype, g_BOPQ.device)
            a = torch.matmul(back, gw_F4CO.view(-1, 4 * width, c_in * c_out))
            grad_w = (back_rows @ a.view(-1, m * c_in * c_out)).view(k, m, c_in, c_out).permute(3, 2, 0, 1)
        if ctx.needs_input_grad[2]:
            grad_b = g_BFRO[:, 0, 0].sum(0)
        return grad_x, grad_w, grad_b


def _two_planes(planes_FNCO: Tensor, first: int) -> Tensor:
    """View two neighbouring planes as one matrix for each frequency, [F, 2C, O]."""
    frequencies, _, c_in, c_out = planes_FNCO.shape
    return planes_FNCO[:, first : first + 2].view(frequencies, 2 * c_in, c_out)
