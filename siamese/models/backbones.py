"""Torchvision networks as encoders.

Shapes: B images, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from siamese.errors import DataError
from siamese.models.encoder import Encoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB values in [0, 1] that torchvision's weights were trained with."""


class TorchvisionEncoder(Encoder):
    """Embed an image with a torchvision classification network whose classifier is replaced by a linear layer.

    A grey image is repeated in all three channels, because the first layer takes RGB.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels; any side from about 32 on.
        backbone: function of `torchvision.models` whose network ends with ``fc`` or ``classifier``.
        weights: ``imagenet`` for torchvision's default weights, downloaded on first use; None to start from scratch.
        dropout: probability that an input of the linear layer is set to 0 in training, in [0, 1).
        embedding_dim: D.

    Raises:
        DataError: the weights are neither on this machine nor can be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        *,
        backbone: str,
        weights: str | None,
        dropout: float,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        try:
            network = torchvision.models.get_model(backbone, weights="DEFAULT" if weights == "imagenet" else None)
        except (URLError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(
                f"model.weights={weights}: torchvision's weights of {backbone} cannot be downloaded ({reason}); "
                f"place the file in {torch.hub.get_dir()}/checkpoints, or give model.weights=null"
            ) from None
        last = "fc" if hasattr(network, "fc") else "classifier"
        classifier = getattr(network, last)
        width = (classifier if isinstance(classifier, nn.Linear) else classifier[0]).in_features
        setattr(network, last, nn.Identity())
        self.network = network
        self.linear = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, embedding_dim))
        self.embedding_dim = embedding_dim
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embed images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D]."""
        z_BD: Tensor = self.linear(self.network((x_BCHW.expand(-1, 3, -1, -1) - self.mean) / self.std))
        return z_BD
