"""Batch normalization, 2x2 max-pooling and ReLU as one layer.

As separate layers on the CPU, they take a third of a bf16 training step although they do little arithmetic: each reads
and writes the largest feature maps of the network. The layers here read them twice in the forward pass and once in the
backward pass. They use a small library (``norm_pool.cpp``), which is compiled when the package is installed on a
machine with a C++ compiler. PyTorch's layers compute the same without the library, on a GPU, in double precision, and
in a graph that is compiled or exported.

Shapes: B images, C channels, H x W pixels, h = H // 2, w = W // 2.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

FUNCTIONS = [f"{name}_{dtype}" for name in ("moments", "pool", "sums", "gradient") for dtype in DTYPES.values()]
"""The functions of the library."""


class MaxPoolReLU2d(nn.Module):
    """``MaxPool2d(2)`` followed by ReLU; the results are the same."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        if not _fits(x_BCHW):
            return nn.functional.max_pool2d(x_BCHW, 2).relu_()
        y_BChw: Tensor = _Pool.apply(x_BCHW, *_identity(x_BCHW.shape[1]))
        return y_BChw


class BatchNormMaxPoolReLU2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` followed by ``MaxPool2d(2)`` and ReLU; results and state are the same."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        # PyTorch handles gradients in evaluation mode, which training never needs, and parameters of other dtypes.
        if not _fits(x_BCHW) or self.weight.dtype != torch.float32 or (torch.is_grad_enabled() and not self.training):
            return nn.functional.max_pool2d(super().forward(x_BCHW), 2).relu_()
        y_BChw: Tensor
        if not self.training:
            assert self.running_mean is not None
            assert self.running_var is not None
            scale_C = self.weight * (self.running_var + self.eps).rsqrt()
            y_BChw = _Pool.apply(x_BCHW, scale_C, self.bias - self.running_mean * scale_C)
            return y_BChw
        y_BChw, mean_C, var_C = _NormPool.apply(x_BCHW, self.weight, self.bias, self.eps)
        self._update_running_statistics(mean_C, var_C, x_BCHW.numel() // x_BCHW.shape[1])
        return y_BChw

    @torch.no_grad()
    def _update_running_statistics(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C * (count / (count - 1)), self.momentum)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Load the compiled library; None if it was not built or cannot be loaded."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_norm_pool{suffix}")
        if file.is_file():
            try:
                return ctypes.CDLL(str(file))
            except OSError as error:
                log.warning("%s cannot be loaded, PyTorch's layers are used instead: %s", file, error)
    return None


def _fits(x: Tensor) -> bool:
    """Whether the library computes a layer on these feature maps."""
    if torch.compiler.is_compiling():  # other programs can only run a graph of PyTorch's own layers
        return False
    return x.device.type == "cpu" and x.dtype in DTYPES and x.dim() == 4 and x.numel() > 0 and library() is not None


def _identity(channels: int) -> tuple[Tensor, Tensor]:
    return torch.ones(channels), torch.zeros(channels)


def _call(name: str, x_BCHW: Tensor, *arrays: Tensor | None) -> None:
    """Call a function of the library for feature maps with the shape and dtype of ``x_BCHW``."""
    function = getattr(library(), f"{name}_{DTYPES[x_BCHW.dtype]}")
    batch, channels, height, width = x_BCHW.shape
    shape = (ctypes.c_long * 4)(batch, height, width, channels)
    pointers = [None if array is None else ctypes.c_void_p(array.data_ptr()) for array in arrays]
    function(shape, *pointers, ctypes.c_int(torch.get_num_threads()))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pool(x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor, keep: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """ReLU of the maxima of ``scale * x + shift``; with ``keep``, also their positions (uint8) and the x there."""
    batch, channels, height, width = x_BCHW.shape
    pooled = (batch, channels, height // 2, width // 2)
    y_BChw = torch.empty(pooled, dtype=x_BCHW.dtype, memory_format=torch.channels_last)
    where_BChw = torch.empty_like(y_BChw, dtype=torch.uint8) if keep else None
    largest_BChw = torch.empty_like(y_BChw) if keep else None
    _call("pool", x_BCHW, x_BCHW, scale_C, shift_C, y_BChw, where_BChw, largest_BChw)
    return y_BChw, where_BChw, largest_BChw


class _Pool(torch.autograd.Function):
    """ReLU of the maxima of ``scale * x + shift``, with constant ``scale`` and ``shift`` [C]."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
        x_BCHW = _channels_last(x_BCHW)
        y_BChw, where_BChw, _ = _pool(x_BCHW, scale_C, shift_C, ctx.needs_input_grad[0])
        ctx.save_for_backward(x_BCHW, where_BChw, scale_C)
        return y_BChw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, where_BChw, scale_C = ctx.saved_tensors
        gx_BCHW = torch.empty_like(x_BCHW)
        nothing_C = torch.zeros_like(scale_C)
        g_BChw = _channels_last(g_BChw)
        _call("gradient", x_BCHW, x_BCHW, g_BChw, where_BChw, scale_C, nothing_C, nothing_C, gx_BCHW)
        return gx_BCHW, None, None


class _NormPool(torch.autograd.Function):
    """Batch normalization, pooling and ReLU; also returns mean and variance of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = _channels_last(x_BCHW)
        batch, channels, height, width = x_BCHW.shape
        mean_BC, m2_BC = torch.empty(2, batch, channels).unbind()
        _call("moments", x_BCHW, x_BCHW, mean_BC, m2_BC)
        mean_C = mean_BC.double().mean(0)
        var_C = (m2_BC / (height * width) + (mean_BC - mean_C).square()).mean(0).float()
        mean_C = mean_C.float()
        rstd_C = (var_C + eps).rsqrt()
        scale_C = weight_C * rstd_C
        y_BChw, where_BChw, largest_BChw = _pool(x_BCHW, scale_C, bias_C - mean_C * scale_C, keep=True)
        ctx.save_for_backward(x_BCHW, where_BChw, largest_BChw, mean_C, rstd_C, scale_C)
        ctx.mark_non_differentiable(mean_C, var_C)
        return y_BChw, mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BChw: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, where_BChw, largest_BChw, mean_C, rstd_C, scale_C = ctx.saved_tensors
        g_BChw = _channels_last(g_BChw)
        batch, channels, height, width = x_BCHW.shape
        sum_BC, product_BC = torch.empty(2, batch, channels).unbind()
        _call("sums", x_BCHW, g_BChw, where_BChw, largest_BChw, mean_C, sum_BC, product_BC)
        grad_bias_C = sum_BC.double().sum(0)
        grad_weight_C = product_BC.double().sum(0) * rstd_C
        # scale (g - mean(g) - x_hat mean(g x_hat)), as a linear function of x.
        share = 1 / (batch * height * width)
        linear_C = -scale_C * rstd_C * grad_weight_C * share
        constant_C = -scale_C * grad_bias_C * share - linear_C * mean_C
        gx_BCHW = torch.empty_like(x_BCHW)
        _call("gradient", x_BCHW, x_BCHW, g_BChw, where_BChw, scale_C, constant_C.float(), linear_C.float(), gx_BCHW)
        return gx_BCHW, grad_weight_C.float(), grad_bias_C.float(), None
