"""Several residual networks, each for another crop of the face.

Shapes: B images, C channels, H = W pixels, D embedding dimensions of all networks together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.models.encoder import Encoder
from siamese.models.resnet import ResNetEncoder


class MultiCropEncoder(Encoder):
    """Embed central crops of several sizes with one residual network each, and concatenate the embeddings.

    Sun, Wang and Tang (2014, "Deep Learning Face Representation from Predicting 10,000 Classes", section 3.2) do so
    with face patches. The networks share no weights. Each network's embedding is scaled to length 1, so that all have
    the same influence. Objectives on groups train each network with a separate loss
    (`siamese.objectives.groups.EachPart`), as if the networks were trained separately. Objectives on pairs have one
    loss for all.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        crops: side of each network's central crop as a fraction of the image side, in (0, 1].
        crop_size: side to which each crop is resized, pixels; bilinear, with antialiasing if it shrinks.
        embedding_dim: dimensions of each network's embedding.
        options: the other arguments of `ResNetEncoder`.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        *,
        crops: Sequence[float],
        crop_size: int,
        embedding_dim: int,
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
        """Embed images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D], float32."""
        networks = list(zip(self.encoders, self.sides, strict=True))

        def embed(encoder: nn.Module, side: int) -> Tensor:
            return F.normalize(encoder(central_crop(x_BCHW, side, self.crop_size)).float())

        if not x_BCHW.is_cuda:
            return torch.cat([embed(*network) for network in networks], 1)
        # Side by side: one of these networks alone does not keep a GPU busy.
        main, streams, z = torch.cuda.current_stream(), _streams(self.parts), []
        for network, stream in zip(networks, streams, strict=True):
            stream.wait_stream(main)
            x_BCHW.record_stream(stream)
            with torch.cuda.stream(stream):
                z.append(embed(*network))
            z[-1].record_stream(main)
        for stream in streams:
            main.wait_stream(stream)
        return torch.cat(z, 1)


@lru_cache
def _streams(number: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream() for _ in range(number)]


def central_crop(x_BCHW: Tensor, side: int, size: int) -> Tensor:
    """Cut the central square from each image and resize it.

    Args:
        x_BCHW: float [B, C, H, W].
        side: side of the square, pixels.
        size: side of the result, pixels.

    Returns:
        [B, C, size, size]; not interpolated if ``side`` equals ``size``.
    """
    top, left = ((length - side) // 2 for length in x_BCHW.shape[-2:])
    crop_BCHW = x_BCHW[:, :, top : top + side, left : left + side]
    if side != size:
        crop_BCHW = F.interpolate(crop_BCHW, size=(size, size), mode="bilinear", antialias=side > size)
    return crop_BCHW.contiguous(memory_format=torch.channels_last)
