"""Build a network from its configuration. A new model is added here and in `siamese.config.model`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.models.encoder import Encoder
from siamese.models.koch import KochEncoder
from siamese.models.lbp import LbpEncoder
from siamese.models.multicrop import MultiCropEncoder
from siamese.models.resnet import ResNetEncoder
from siamese.models.siamese import CosineHead, EuclideanHead, L1Head, SiameseNetwork


def build_encoder(model: dict[str, Any], in_channels: int, input_size: int, *, dft: bool = False) -> Encoder:
    """Build an encoder.

    Args:
        model: keys of ``conf/model/*.yaml``: ``name`` selects the class, the others are its arguments.
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square images, pixels.
        dft: compute the large convolutions of Koch's encoder by Fourier transform; the parameters do not change.

    Raises:
        ValueError: there is no model of this name.
    """
    options = {key: value for key, value in model.items() if key != "name"}
    encoder: Encoder
    match model["name"]:
        case "koch":
            encoder = KochEncoder(in_channels, input_size, dft=dft, **options)
        case "resnet":
            encoder = ResNetEncoder(in_channels, input_size, **options)
        case "multicrop":
            encoder = MultiCropEncoder(in_channels, input_size, **options)
        case "torchvision":
            from siamese.models.backbones import TorchvisionEncoder

            encoder = TorchvisionEncoder(in_channels, input_size, **options)
        case "lbp":
            encoder = LbpEncoder(in_channels, input_size, **options)
        case name:
            raise ValueError(f"no model is called {name!r}")
    # Faster on CPU and GPU; results differ by rounding only.
    return encoder.to(memory_format=torch.channels_last)


def build_head(encoder: Encoder, model: dict[str, Any], objective: dict[str, Any]) -> nn.Module:
    """Build the head that scores pairs as ``objective`` compares them: learned for ``bce``, else a distance.

    All objectives on groups compare directions. The cosine sorts pairs in the same order as the Euclidean distance of
    normalized embeddings.

    Args:
        encoder: network whose embeddings are scored.
        model: keys of ``conf/model/*.yaml``.
        objective: keys of ``conf/objective/*.yaml``.
    """
    if objective["name"] == "bce":
        return L1Head(encoder.embedding_dim, init=model.get("init", "torch"))  # only Koch's model has the key
    if objective["name"] == "contrastive" and objective["distance"] == "euclidean":
        return EuclideanHead()
    return CosineHead()


def build_network(
    model: dict[str, Any],
    objective: dict[str, Any],
    in_channels: int,
    input_size: int,
    *,
    flip_average: bool,
    crop_average: float,
    dft: bool = False,
) -> SiameseNetwork:
    """Build an encoder with the head that ``objective`` trains; arguments as in the classes and functions above."""
    encoder = build_encoder(model, in_channels, input_size, dft=dft)
    head = build_head(encoder, model, objective)
    return SiameseNetwork(encoder, head, flip_average=flip_average, crop_average=crop_average)


def network_of(
    config: TrainConfig, dft: bool = False, *, pretrained: bool = True, one_view: bool = False
) -> SiameseNetwork:
    """Build the network that the configuration of a run describes.

    Args:
        config: configuration of the run.
        dft: compute the large convolutions of Koch's encoder by Fourier transform.
        pretrained: start from the weights that ``model.weights`` names, if any; False if a checkpoint is loaded next.
        one_view: ignore ``flip_average`` and ``crop_average``.

    Raises:
        DataError: the pretrained weights are neither on this machine nor can be downloaded.
    """
    model, objective = to_plain(config.model), to_plain(config.objective)
    if "weights" in model and not pretrained:
        model["weights"] = None
    return build_network(
        model,
        objective,
        config.data.channels,
        config.data.image_size,
        flip_average=config.flip_average and not one_view,
        crop_average=1.0 if one_view else config.crop_average,
        dft=dft,
    )
