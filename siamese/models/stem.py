"""The first layers of a residual network: convolution, batch normalization, pooling and ReLU, as one layer.

The result of the convolution is the largest map of the network, and 1/50 of its arithmetic. On the CPU, writing it and
reading it again takes a fifth of a bf16 training step. Here it is never stored: ``norm_pool.cpp`` computes it window by
window, and its mean and variance follow from sums over the image and its products with itself, shifted by up to two
pixels.

Shapes: B images, C channels, O output channels, H x W pixels, h = H // 2, w = W // 2, K = 9 C inputs of an output pixel
("taps").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from siamese.models.norm_pool import DTYPES, BatchNormMaxPoolReLU2d, call, channels_last


class PooledStem(nn.Sequential):
    """Layers of which the first two are a convolution of images and `BatchNormMaxPoolReLU2d`.

    On the CPU, these two are one, with float32 arithmetic also under bf16 autocast, unless the images need a gradient.
    Results and state are otherwise those of a sequence.

    Args:
        in_channels: C.
        width: O.
        layers: what follows.
    """

    def __init__(self, in_channels: int, width: int, *layers: nn.Module) -> None:
        conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        super().__init__(conv, BatchNormMaxPoolReLU2d(width), *layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] -> the result of the last layer, or [B, O, h, w]."""
        conv, norm, *others = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, BatchNormMaxPoolReLU2d)
        y_BOhw = _stem(conv, norm, x_BCHW)
        for layer in others:
            y_BOhw = layer(y_BOhw)
        return y_BOhw


def _stem(conv: nn.Conv2d, norm: BatchNormMaxPoolReLU2d, x_BCHW: Tensor) -> Tensor:
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
    single = x_BCHW.dtype == conv.weight.dtype == torch.float32 and dtype in DTYPES
    alike = x_BCHW.shape[1:2] == conv.weight.shape[1:2] and conv.in_channels in (1, 3) and not x_BCHW.requires_grad
    if not (single and alike and norm.fits(x_BCHW, len(conv.weight))):
        y_BOhw: Tensor = norm(conv(x_BCHW))
        return y_BOhw
    if not norm.training:
        return _pooled(x_BCHW, conv.weight, *norm.scale_and_shift(), dtype)[0]
    y_BOhw, mean_O, var_O = _Stem.apply(x_BCHW, conv.weight, norm.weight, norm.bias, norm.eps, dtype)
    norm.update_running_statistics(mean_O, var_O, x_BCHW.numel() // x_BCHW.shape[1])
    return y_BOhw


class _Stem(torch.autograd.Function):
    """Convolution, normalization, pooling and ReLU; also returns mean and variance of the convolution's result."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, weight_OC33: Tensor, scale_O: Tensor, bias_O: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = channels_last(x_BCHW)
        weight_OK = weight_OC33.flatten(1).double()
        mean_K, covariance_KK = _tap_statistics(x_BCHW)
        mean_O = weight_OK @ mean_K
        var_O = ((weight_OK @ covariance_KK) * weight_OK).sum(1)
        rstd_O = (var_O + eps).rsqrt()
        factor_O = scale_O * rstd_O
        shift_O = bias_O - mean_O * factor_O
        y_BOhw, where_BOhw = _pooled(x_BCHW, weight_OC33, factor_O, shift_O, dtype, keep=True)
        ctx.save_for_backward(x_BCHW, where_BOhw, weight_OC33, mean_K, covariance_KK, rstd_O, factor_O)
        mean_O, var_O = mean_O.float(), var_O.float()
        ctx.mark_non_differentiable(mean_O, var_O)
        return y_BOhw, mean_O, var_O

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BOhw: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, where_BOhw, weight_OC33, mean_K, covariance_KK, rstd_O, factor_O = ctx.saved_tensors
        (batch, out), taps = g_BOhw.shape[:2], len(mean_K)
        sum_BO = x_BCHW.new_empty(batch, out)
        product_BKO = x_BCHW.new_empty(batch, taps, out)
        call(
            "stem_sums", x_BCHW, x_BCHW, channels_last(g_BOhw), where_BOhw, out, sum_BO, product_BKO, dtype=g_BOhw.dtype
        )
        weight_OK = weight_OC33.flatten(1).double()
        bias_O = sum_BO.double().sum(0)
        # The sums of g and the taps' deviations from their means: those of the result follow from them.
        product_OK = product_BKO.double().sum(0).T - bias_O[:, None] * mean_K
        scale_O = (weight_OK * product_OK).sum(1) * rstd_O
        # As in `norm_pool._Gradients`: the gradient of the result is factor (g - mean(g) - x_hat mean(g x_hat)).
        weight_OK = factor_O[:, None] * (product_OK - (scale_O * rstd_O)[:, None] * (weight_OK @ covariance_KK))
        return None, weight_OK.float().view_as(weight_OC33), scale_O.float(), bias_O.float(), None, None


def _tap_statistics(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [K] and covariance [K, K] of the taps of all pixels of channels-last images, float64."""
    batch, channels, height, width = x_BCHW.shape
    sum_BK = x_BCHW.new_empty(batch, 9 * channels, dtype=torch.float64)
    product_BKK = x_BCHW.new_empty(batch, 9 * channels, 9 * channels, dtype=torch.float64)
    call("taps", x_BCHW, x_BCHW, sum_BK, product_BKK)
    count = batch * height * width
    mean_K = sum_BK.sum(0) / count
    return mean_K, product_BKK.sum(0) / count - mean_K.outer(mean_K)


def _pooled(
    x_BCHW: Tensor, weight_OC33: Tensor, factor_O: Tensor, shift_O: Tensor, dtype: torch.dtype, keep: bool = False
) -> tuple[Tensor, Tensor | None]:
    """ReLU of the maxima of ``factor * conv(x) + shift``; with ``keep``, also their positions, uint8."""
    x_BCHW = channels_last(x_BCHW)
    (batch, _, height, width), out = x_BCHW.shape, len(weight_OC33)
    weight_KO = (weight_OC33.flatten(1).T * factor_O).float().contiguous()
    y_BOhw = x_BCHW.new_empty(batch, height // 2, width // 2, out, dtype=dtype).permute(0, 3, 1, 2)
    where_BOhw = torch.empty_like(y_BOhw, dtype=torch.uint8) if keep else None
    call("stem", x_BCHW, x_BCHW, weight_KO, shift_O.float(), out, y_BOhw, where_BOhw, dtype=dtype)
    return y_BOhw, where_BOhw
