"""Several residual networks, each of which sees its own crop of the face.

Shapes: B images, C channels, H = W pixels, D embedding dimensions of all networks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.models.encoder import Encoder
from siamese.models.resnet import ResNetEncoder


class MultiCropEncoder(Encoder):
    """Residual networks on central crops of several sizes, their embeddings side by side (as Sun, Wang and Tang 2014,
    "Deep Learning Face Representation from Predicting 10,000 Classes", section 3.2, with face patches).

    Each network's embedding of an image is scaled to length 1, so that all count alike. They share no weights;
    objectives on groups train each by a loss of its own (`siamese.objectives.groups.EachPart`), which keeps them as
    different as networks trained apart; those on pairs have one loss for all.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        crops: share of the side of the central square that a network sees, in (0, 1], one for each network.
        crop_size: side to which each crop is resized, pixels; bilinear, smoothed where it shrinks.
        embedding_dim: of each network.
        options: the other arguments of `ResNetEncoder`.
    """

    def __init__(
        self,
        in_channels: int = 1,
        input_size: int = 96,
        crops: Sequence[float] = (1.0, 0.8, 0.63),
        crop_size: int = 64,
        embedding_dim: int = 256,
        **options: Any,
    ) -> None:
        super().__init__()
        self.sides = [round(share * input_size) for share in crops]
        self.crop_size = crop_size
        self.encoders = nn.ModuleList(
            ResNetEncoder(in_channels, crop_size, embedding_dim=embedding_dim, **options) for _ in crops
        )
        self.parts = len(crops)
        self.embedding_dim = embedding_dim * self.parts

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W], floats in [0, 1] -> embeddings [B, D], float32."""
        crops = (central_crop(x_BCHW, side, self.crop_size) for side in self.sides)
        z = [F.normalize(encoder(crop).float()) for encoder, crop in zip(self.encoders, crops, strict=True)]
        return torch.cat(z, 1)


def central_crop(x_BCHW: Tensor, side: int, size: int) -> Tensor:
    """The central square of ``side`` pixels of each image, resized to ``size``.

    Args:
        x_BCHW: float [B, C, H, W].

    Returns:
        [B, C, size, size]; the pixels themselves where ``side`` is ``size``.
    """
    top, left = ((length - side) // 2 for length in x_BCHW.shape[-2:])
    crop_BCHW = x_BCHW[:, :, top : top + side, left : left + side]
    if side != size:
        crop_BCHW = F.interpolate(crop_BCHW, size=(size, size), mode="bilinear", antialias=side > size)
    return crop_BCHW.contiguous(memory_format=torch.channels_last)
