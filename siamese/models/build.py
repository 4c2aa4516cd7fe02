"""From the configuration's plain values to a network; add a new model here and in `siamese.config`."""

from __future__ import annotations

from typing import Any

import torch

from siamese.models.encoder import Encoder
from siamese.models.koch import KochEncoder
from siamese.models.siamese import L1Head, SiameseNetwork

ENCODERS = {"koch": KochEncoder}


def build_encoder(model: dict[str, Any], in_channels: int, input_size: int, dft: bool = False) -> Encoder:
    """The encoder that ``model`` describes: ``name`` picks it, the rest are its arguments.

    Args:
        model: as in ``conf/model/*.yaml``.
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square images, pixels.
        dft: compute costly convolutions through spectra; the parameters are the same either way.
    """
    options = {key: value for key, value in model.items() if key != "name"}
    encoder = ENCODERS[model["name"]](in_channels=in_channels, input_size=input_size, dft=dft, **options)
    # Convolutions read neighbouring channels together: faster on CPU and GPU, and the same numbers to rounding.
    return encoder.to(memory_format=torch.channels_last)


def build_network(model: dict[str, Any], in_channels: int, input_size: int, dft: bool = False) -> SiameseNetwork:
    """The network around the encoder that ``model`` describes; arguments as of `build_encoder`."""
    encoder = build_encoder(model, in_channels, input_size, dft)
    return SiameseNetwork(encoder, L1Head(encoder.embedding_dim, init=model["init"]))
