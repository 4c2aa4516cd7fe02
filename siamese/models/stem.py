"""The first layers of a residual network for grey images: convolution, normalization, pooling and ReLU as one layer.

The convolution makes the largest feature map of the network with a fiftieth of the network's arithmetic. On the CPU, it
takes longer to write this map and read it again than to compute it. The library (``kernels.cpp``) therefore never
stores it: it computes each pooling window when it needs it. Mean and variance of the map, and the gradients, follow
from sums of the pixels and of products of neighbouring pixels.

Shapes: B images, O output channels, H x W pixels, h = H // 2, w = W // 2, K = 9 pixels that an output pixel depends on
("taps").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from siamese.models.kernels import DTYPES, call, channels_last
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d


class PooledStem(nn.Sequential):
    """A sequence of layers. On the CPU, the library computes the first two as one operation.

    They must be a 3x3 convolution and `BatchNormMaxPoolReLU2d`, without hooks, and the images must be grey and need no
    gradient. The arithmetic is float32, also under bf16 autocast.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the result of the last layer; of the first two: [B, O, h, w]."""
        layers: list[Any] = list(self)
        y_BOhw = x_BCHW
        if len(layers) > 1 and _fits(layers[0], layers[1], x_BCHW):
            y_BOhw = _stem(layers[0], layers[1], x_BCHW)
            layers = layers[2:]
        for layer in layers:
            y_BOhw = layer(y_BOhw)
        return y_BOhw


PLAIN = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "padding_mode": "zeros"}


def _fits(conv: nn.Module, norm: nn.Module, x_BCHW: Tensor) -> bool:
    """Whether the library computes both layers."""
    if type(conv) is not nn.Conv2d or type(norm) is not BatchNormMaxPoolReLU2d:
        return False
    plain = all(getattr(conv, name) == value for name, value in PLAIN.items()) and conv.bias is None
    hooked = _hooked(conv) or _hooked(norm)
    grey = x_BCHW.shape[1:2] == conv.weight.shape[1:2] == (1,) and not x_BCHW.requires_grad
    alike = (x_BCHW.dtype, x_BCHW.device) == (conv.weight.dtype, conv.weight.device) == (torch.float32, x_BCHW.device)
    usual = alike and _dtype() in DTYPES
    return plain and not hooked and grey and usual and norm.fits(x_BCHW, len(conv.weight))


def _hooked(layer: nn.Module) -> bool:
    return any((layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks))


def _dtype() -> torch.dtype:
    """The dtype of a convolution's result."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _stem(conv: nn.Conv2d, norm: BatchNormMaxPoolReLU2d, x_BCHW: Tensor) -> Tensor:
    if not norm.training:
        return _pooled(x_BCHW, 0.0, conv.weight, *norm.scale_and_shift(), _dtype())[0]
    y_BOhw: Tensor
    y_BOhw, mean_O, var_O = _Stem.apply(x_BCHW, conv.weight, norm.weight, norm.bias, norm.eps, _dtype())
    norm.update_running_statistics(mean_O, var_O, x_BCHW.numel())
    return y_BOhw


class _Stem(torch.autograd.Function):
    """Convolution, normalization, pooling and ReLU; also returns mean and variance of the convolution's result."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_O133: Tensor, scale_O: Tensor, bias_O: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = channels_last(x_BCHW)
        # Normalization subtracts the brightness anyway. Subtracting it here makes the sums more exact. (Not the mean of
        # all pixels: each number of threads rounds it in another way.)
        middle_B = x_BCHW[:, 0, x_BCHW.shape[2] // 2, x_BCHW.shape[3] // 2]
        common = middle_B.double().mean().item()
        weight_OK = weight_O133.flatten(1).double()
        mean_K, covariance_KK = _tap_statistics(x_BCHW, common)
        mean_O = weight_OK @ mean_K
        var_O = ((weight_OK @ covariance_KK) * weight_OK).sum(1)
        rstd_O = (var_O + eps).rsqrt()
        factor_O = scale_O * rstd_O
        shift_O = bias_O - mean_O * factor_O
        y_BOhw, where_BOhw = _pooled(x_BCHW, common, weight_O133, factor_O, shift_O, dtype, keep=True)
        ctx.save_for_backward(x_BCHW, where_BOhw, weight_O133, mean_K, covariance_KK, rstd_O, factor_O)
        ctx.common = common
        mean_O, var_O = (mean_O + common * weight_OK.sum(1)).float(), var_O.float()
        ctx.mark_non_differentiable(mean_O, var_O)
        return y_BOhw, mean_O, var_O

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BOhw: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, where_BOhw, weight_O133, mean_K, covariance_KK, rstd_O, factor_O = ctx.saved_tensors
        (batch, out), taps = g_BOhw.shape[:2], len(mean_K)
        sum_BO = x_BCHW.new_empty(batch, out)
        product_BKO = x_BCHW.new_empty(batch, taps, out)
        g_BOhw = channels_last(g_BOhw)
        call("stem_sums", x_BCHW, x_BCHW, ctx.common, g_BOhw, where_BOhw, out, sum_BO, product_BKO, dtype=g_BOhw.dtype)
        weight_OK = weight_O133.flatten(1).double()
        bias_O = sum_BO.double().sum(0)
        # The sums of g times the taps' deviations from their means: those of the result follow from them.
        product_OK = product_BKO.double().sum(0).T - bias_O[:, None] * mean_K
        scale_O = (weight_OK * product_OK).sum(1) * rstd_O
        # As in `norm_pool._Gradients`: the gradient of the result is factor (g - mean(g) - x_hat mean(g x_hat)).
        weight_OK = factor_O[:, None] * (product_OK - (scale_O * rstd_O)[:, None] * (weight_OK @ covariance_KK))
        return None, weight_OK.float().view_as(weight_O133), scale_O.float(), bias_O.float(), None, None


def _tap_statistics(x_BCHW: Tensor, common: float) -> tuple[Tensor, Tensor]:
    """Mean [K] and covariance [K, K] of the taps of all pixels, minus a common number, float64."""
    batch = len(x_BCHW)
    sum_BK = x_BCHW.new_empty(batch, 9, dtype=torch.float64)
    product_BKK = x_BCHW.new_empty(batch, 9, 9, dtype=torch.float64)
    call("taps", x_BCHW, x_BCHW, common, sum_BK, product_BKK)
    mean_K = sum_BK.sum(0) / x_BCHW.numel()
    return mean_K, product_BKK.sum(0) / x_BCHW.numel() - mean_K.outer(mean_K)


def _pooled(
    x_BCHW: Tensor,
    common: float,
    weight_O133: Tensor,
    factor_O: Tensor,
    shift_O: Tensor,
    dtype: torch.dtype,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """ReLU of the maxima of ``factor * conv(x - common) + shift``; with ``keep``, also their positions, uint8."""
    x_BCHW = channels_last(x_BCHW)
    (batch, _, height, width), out = x_BCHW.shape, len(weight_O133)
    weight_KO = (weight_O133.flatten(1).T * factor_O).float().contiguous()
    shape = (batch, out, height // 2, width // 2)
    y_BOhw = torch.empty(shape, dtype=dtype, device=x_BCHW.device, memory_format=torch.channels_last)
    where_BOhw = torch.empty_like(y_BOhw, dtype=torch.uint8) if keep else None
    call("stem", x_BCHW, x_BCHW, common, weight_KO, shift_O.float(), out, y_BOhw, where_BOhw, dtype=dtype)
    return y_BOhw, where_BOhw
