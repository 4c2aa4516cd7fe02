"""Layers of batch normalization and ReLU with 2x2 max-pooling or the addition of a residual block; average pooling.

As separate layers on the CPU, they take a third of a bf16 training step although they do little arithmetic: each reads
and writes the largest feature maps of the network. The layers here read them twice in the forward pass, and once (with
pooling) or twice in the backward pass, by functions of the compiled library (`siamese.models.kernels`). Where it does
not work, PyTorch's layers compute the same.

Shapes: B images, C channels, H x W pixels, h = H // 2, w = W // 2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from siamese.models.kernels import call, channels_last, fits


class MaxPoolReLU2d(nn.Module):
    """``MaxPool2d(2)`` followed by ReLU; the results are the same."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        if not (fits(x_BCHW) and min(x_BCHW.shape[2:]) > 1):
            return nn.functional.max_pool2d(x_BCHW, 2).relu_()
        y_BChw: Tensor = _Pool.apply(x_BCHW, *_identity(x_BCHW))
        return y_BChw


class ForkedAvgPool2d(nn.AvgPool2d):
    """Return the input and its averages (`torch.nn.AvgPool2d`). The backward pass adds both gradients in one pass.

    Args:
        stride: side of a window; at the last row and column, windows may be smaller.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride, ceil_mode=True)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """[B, C, H, W] -> the same, and its averages [B, C, ceil(H / stride), ceil(W / stride)]."""
        if self.stride == 1:
            return x_BCHW, x_BCHW
        if not (fits(x_BCHW) and torch.is_grad_enabled() and x_BCHW.requires_grad):
            return x_BCHW, super().forward(x_BCHW)
        same_BCHW, average_BChw = _ForkedAverage.apply(x_BCHW, self.stride)
        return same_BCHW, average_BChw


class _BatchNorm2d(nn.BatchNorm2d):
    """What the layers with batch normalization share."""

    def fits(self, x_BCHW: Tensor, channels: int) -> bool:
        """Whether the library normalizes ``channels`` maps made from x, in a case that training and scoring need.

        PyTorch's layers do the rest, and raise the errors.
        """
        usual = self.momentum is not None and (self.training or not torch.is_grad_enabled())
        single = self.weight.dtype == torch.float32
        alike = len(self.weight) == channels and self.weight.device == x_BCHW.device
        return usual and single and alike and fits(x_BCHW) and x_BCHW.shape[1] < x_BCHW.numel()

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Factor and addend [C] of normalization by the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale_C = self.weight * (self.running_var + self.eps).rsqrt()
        return scale_C, self.bias - self.running_mean * scale_C

    @torch.no_grad()
    def update_running_statistics(self, mean_C: Tensor, var_C: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(var_C * (count / (count - 1)), self.momentum)


class FusedBatchNorm2d(_BatchNorm2d):
    """`torch.nn.BatchNorm2d`, followed by an addition, ReLU, or both; results and state are the same.

    Args:
        channels: C.
        relu: whether ReLU follows.
    """

    def __init__(self, channels: int, relu: bool = True) -> None:
        super().__init__(channels)
        self.relu = relu

    def forward(self, x_BCHW: Tensor, added_BCHW: Tensor | None = None) -> Tensor:
        """Normalize [B, C, H, W], and add ``added_BCHW`` of the same shape -> [B, C, H, W]."""
        alike = added_BCHW is None or (added_BCHW.shape, added_BCHW.dtype) == (x_BCHW.shape, x_BCHW.dtype)
        y_BCHW: Tensor
        if not (alike and self.fits(x_BCHW, x_BCHW.shape[1])):
            y_BCHW = super().forward(x_BCHW)
            if added_BCHW is not None:
                y_BCHW += added_BCHW
            return torch.relu_(y_BCHW) if self.relu else y_BCHW
        floor = 0.0 if self.relu else -math.inf
        if not self.training:
            return _scale(x_BCHW, added_BCHW, *self.scale_and_shift(), floor)
        y_BCHW, mean_C, var_C = _NormAdd.apply(x_BCHW, added_BCHW, self.weight, self.bias, self.eps, floor)
        self.update_running_statistics(mean_C, var_C, x_BCHW.numel() // x_BCHW.shape[1])
        return y_BCHW


class BatchNormMaxPoolReLU2d(_BatchNorm2d):
    """`torch.nn.BatchNorm2d` followed by ``MaxPool2d(2)`` and ReLU; results and state are the same."""

    def fits(self, x_BCHW: Tensor, channels: int) -> bool:
        """As in the base class, and the maps are not too small to be pooled."""
        return super().fits(x_BCHW, channels) and min(x_BCHW.shape[2:]) > 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        if not self.fits(x_BCHW, x_BCHW.shape[1]):
            return nn.functional.max_pool2d(super().forward(x_BCHW), 2).relu_()
        y_BChw: Tensor
        if not self.training:
            y_BChw = _Pool.apply(x_BCHW, *self.scale_and_shift())
            return y_BChw
        y_BChw, mean_C, var_C = _NormPool.apply(x_BCHW, self.weight, self.bias, self.eps)
        self.update_running_statistics(mean_C, var_C, x_BCHW.numel() // x_BCHW.shape[1])
        return y_BChw


def _identity(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    channels = x_BCHW.shape[1]
    return x_BCHW.new_ones(channels, dtype=torch.float32), x_BCHW.new_zeros(channels, dtype=torch.float32)


def _pool(x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor, keep: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """ReLU of the maxima of ``scale * x + shift``; with ``keep``, also their positions (uint8) and the x there."""
    batch, channels, height, width = x_BCHW.shape
    pooled = (batch, channels, height // 2, width // 2)
    y_BChw = torch.empty(pooled, dtype=x_BCHW.dtype, device=x_BCHW.device, memory_format=torch.channels_last)
    where_BChw = torch.empty_like(y_BChw, dtype=torch.uint8) if keep else None
    largest_BChw = torch.empty_like(y_BChw) if keep else None
    call("pool", x_BCHW, x_BCHW, scale_C, shift_C, y_BChw, where_BChw, largest_BChw)
    return y_BChw, where_BChw, largest_BChw


class _Pool(torch.autograd.Function):
    """ReLU of the maxima of ``scale * x + shift``, with constant ``scale`` and ``shift`` [C]."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor) -> Tensor:
        x_BCHW = channels_last(x_BCHW)
        y_BChw, where_BChw, _ = _pool(x_BCHW, scale_C, shift_C, ctx.needs_input_grad[0])
        ctx.save_for_backward(x_BCHW, where_BChw, scale_C)
        return y_BChw

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BChw: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, where_BChw, scale_C = ctx.saved_tensors
        gx_BCHW = torch.empty_like(x_BCHW)
        nothing_C = torch.zeros_like(scale_C)
        g_BChw = channels_last(g_BChw)
        call("gradient", x_BCHW, x_BCHW, g_BChw, where_BChw, scale_C, nothing_C, nothing_C, gx_BCHW)
        return gx_BCHW, None, None


class _ForkedAverage(torch.autograd.Function):
    """The input, and its averages over windows."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        ctx.stride = stride
        return x_BCHW.view_as(x_BCHW), nn.functional.avg_pool2d(x_BCHW, stride, ceil_mode=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor, g_BChw: Tensor) -> tuple[Tensor, None]:
        g_BCHW = channels_last(g_BCHW)
        gx_BCHW = torch.empty_like(g_BCHW)
        call("spread", g_BCHW, g_BCHW, channels_last(g_BChw), ctx.stride, gx_BCHW)
        return gx_BCHW, None


class _NormPool(torch.autograd.Function):
    """Batch normalization, pooling and ReLU; also returns mean and variance of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = channels_last(x_BCHW)
        mean_C, var_C = _batch_statistics(x_BCHW)
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
        g_BChw = channels_last(g_BChw)
        sum_BC, product_BC = _pair_of_sums(x_BCHW)
        call("sums", x_BCHW, g_BChw, where_BChw, largest_BChw, mean_C, sum_BC, product_BC)
        gradients = _Gradients(sum_BC, product_BC, mean_C, rstd_C, scale_C, x_BCHW)
        gx_BCHW = torch.empty_like(x_BCHW)
        call("gradient", x_BCHW, x_BCHW, g_BChw, where_BChw, scale_C, *gradients.of_x, gx_BCHW)
        return gx_BCHW, gradients.weight, gradients.bias, None


class _NormAdd(torch.autograd.Function):
    """Batch normalization, an addition, and the maximum with ``floor``; also returns mean and variance of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, added_BCHW: Tensor | None, weight_C: Tensor, bias_C: Tensor, eps: float, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = channels_last(x_BCHW)
        mean_C, var_C = _batch_statistics(x_BCHW)
        rstd_C = (var_C + eps).rsqrt()
        scale_C = weight_C * rstd_C
        y_BCHW = _scale(x_BCHW, added_BCHW, scale_C, bias_C - mean_C * scale_C, floor)
        ctx.save_for_backward(x_BCHW, None if floor < 0 else y_BCHW, mean_C, rstd_C, scale_C)
        ctx.floor, ctx.adds = floor, added_BCHW is not None
        ctx.mark_non_differentiable(mean_C, var_C)
        return y_BCHW, mean_C, var_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BCHW: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, y_BCHW, mean_C, rstd_C, scale_C = ctx.saved_tensors
        g_BCHW = channels_last(g_BCHW)
        y_BCHW = x_BCHW if y_BCHW is None else y_BCHW  # without ReLU, any finite number passes
        sum_BC, product_BC = _pair_of_sums(x_BCHW)
        call("scale_sums", x_BCHW, x_BCHW, y_BCHW, g_BCHW, mean_C, ctx.floor, sum_BC, product_BC)
        gradients = _Gradients(sum_BC, product_BC, mean_C, rstd_C, scale_C, x_BCHW)
        gx_BCHW, added_BCHW = torch.empty_like(x_BCHW), torch.empty_like(x_BCHW) if ctx.adds else None
        call("scale_gradient", x_BCHW, x_BCHW, y_BCHW, g_BCHW, scale_C, *gradients.of_x, ctx.floor, gx_BCHW, added_BCHW)
        return gx_BCHW, added_BCHW, gradients.weight, gradients.bias, None, None


def _scale(x_BCHW: Tensor, added_BCHW: Tensor | None, scale_C: Tensor, shift_C: Tensor, floor: float) -> Tensor:
    """The maximum of ``scale * x + shift + added`` and ``floor``."""
    x_BCHW = channels_last(x_BCHW)
    y_BCHW = torch.empty_like(x_BCHW)
    added_BCHW = None if added_BCHW is None else channels_last(added_BCHW)
    call("scale", x_BCHW, x_BCHW, added_BCHW, scale_C, shift_C, floor, y_BCHW)
    return y_BCHW


def _batch_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of channels-last feature maps, float32."""
    height, width = x_BCHW.shape[2:]
    mean_BC, m2_BC = _pair_of_sums(x_BCHW)
    call("moments", x_BCHW, x_BCHW, mean_BC, m2_BC)
    mean_C = mean_BC.double().mean(0)
    var_C = (m2_BC / (height * width) + (mean_BC - mean_C).square()).mean(0).float()
    return mean_C.float(), var_C


def _pair_of_sums(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Two uninitialized arrays [B, C] of float32, whatever PyTorch's default dtype and device are."""
    one_BC, other_BC = x_BCHW.new_empty(2, *x_BCHW.shape[:2], dtype=torch.float32).unbind()
    return one_BC, other_BC


class _Gradients:
    """Gradients of a batch normalization.

    Args:
        sum_BC: sums of the gradient g of its result over the pixels of each image.
        product_BC: sums of g (x - mean).
        mean_C, rstd_C, scale_C: mean, inverse standard deviation, and this times the weight.
        x_BCHW: its input.

    Attributes:
        weight, bias: gradients of the parameters [C].
        of_x: constant and factor [C] of ``scale (g - mean(g) - x_hat mean(g x_hat))`` as a linear function of x.
    """

    def __init__(
        self, sum_BC: Tensor, product_BC: Tensor, mean_C: Tensor, rstd_C: Tensor, scale_C: Tensor, x_BCHW: Tensor
    ) -> None:
        bias_C = sum_BC.double().sum(0)
        weight_C = product_BC.double().sum(0) * rstd_C
        share = x_BCHW.shape[1] / x_BCHW.numel()
        linear_C = -scale_C * rstd_C * weight_C * share
        constant_C = -scale_C * bias_C * share - linear_C * mean_C
        self.weight, self.bias = weight_C.float(), bias_C.float()
        self.of_x = constant_C.float(), linear_C.float()
