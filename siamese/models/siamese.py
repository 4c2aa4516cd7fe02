"""The Siamese network around an encoder.

Shapes: B pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from torch import Tensor, nn

from siamese.models.encoder import Encoder
from siamese.models.koch import koch_init


class L1Head(nn.Module):
    """A linear layer on |h1 - h2|: the learned, weighted L1 distance of Koch et al. (2015), section 3.1.

    Its output is a logit; its sigmoid is the probability that both images show the same person.
    """

    def __init__(self, embedding_dim: int, init: str = "torch") -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, 1)
        if init == "koch":
            koch_init(self.linear)

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> logits [B]."""
        logit_B: Tensor = self.linear((z1_BD - z2_BD).abs()).squeeze(1)
        return logit_B


class SiameseNetwork(nn.Module):
    """One encoder applied to both images, and a head that scores the pair of embeddings."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W], floats in [0, 1] -> embeddings [B, D]."""
        z_BD: Tensor = self.encoder(x_BCHW)
        return z_BD

    def forward(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> Tensor:
        """Both images of each pair -> logits [B]."""
        logit_B: Tensor = self.head(*self.encoder.twins(x1_BCHW, x2_BCHW))
        return logit_B
