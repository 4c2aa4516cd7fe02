"""From the configuration's plain values to a network; add a new model here and in `siamese.config`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from siamese.config.schema import TrainConfig, to_plain
from siamese.models.encoder import Encoder
from siamese.models.koch import KochEncoder
from siamese.models.multicrop import MultiCropEncoder
from siamese.models.resnet import ResNetEncoder
from siamese.models.siamese import CosineHead, EuclideanHead, L1Head, SiameseNetwork


def build_encoder(model: dict[str, Any], in_channels: int, input_size: int, dft: bool = False) -> Encoder:
    """The encoder that ``model`` describes: ``name`` picks it, the rest are its arguments.

    Args:
        model: as in ``conf/model/*.yaml``.
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square images, pixels.
        dft: compute Koch's costly convolutions through spectra; the parameters are the same either way.
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
        case name:
            raise ValueError(f"no model is called {name!r}")
    # Convolutions read neighbouring channels together: faster on CPU and GPU, and the same numbers to rounding.
    return encoder.to(memory_format=torch.channels_last)


def build_head(encoder: Encoder, model: dict[str, Any], objective: dict[str, Any]) -> nn.Module:
    """What scores a pair of embeddings: learned with the binary cross-entropy, else the distance that is trained.

    The objectives on groups all compare directions: the cosine orders pairs as the Euclidean distance of normalized
    embeddings does.
    """
    if objective["name"] == "bce":
        return L1Head(encoder.embedding_dim, init=model.get("init", "torch"))
    if objective["name"] == "contrastive" and objective["distance"] == "euclidean":
        return EuclideanHead()
    return CosineHead()


BCE = {"name": "bce"}


def build_network(
    model: dict[str, Any],
    in_channels: int,
    input_size: int,
    dft: bool = False,
    objective: dict[str, Any] = BCE,
    flip_average: bool = False,
    crop_average: float = 1.0,
) -> SiameseNetwork:
    """The network around the encoder that ``model`` describes, with the head that ``objective`` trains.

    Arguments as of `build_encoder` and `SiameseNetwork`; ``objective`` as in ``conf/objective/*.yaml``.
    """
    encoder = build_encoder(model, in_channels, input_size, dft)
    return SiameseNetwork(encoder, build_head(encoder, model, objective), flip_average, crop_average)


def network_of(
    config: TrainConfig, dft: bool = False, pretrained: bool = True, one_view: bool = False
) -> SiameseNetwork:
    """The network that a run's configuration describes.

    Args:
        config: of the run.
        dft: compute Koch's costly convolutions through spectra.
        pretrained: start from the weights that ``model.weights`` names, if any; False where others take their place.
        one_view: leave ``flip_average`` and ``crop_average`` out.
    """
    model, objective = to_plain(config.model), to_plain(config.objective)
    if "weights" in model and not pretrained:
        model["weights"] = None
    data = config.data
    views = (False, 1.0) if one_view else (config.flip_average, config.crop_average)
    return build_network(model, data.channels, data.image_size, dft, objective, *views)
