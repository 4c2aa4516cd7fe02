"""What every encoder offers.

Shapes: B images or pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from torch import Tensor, nn


class Encoder(nn.Module):
    """Embeds images: subclasses define ``forward``, images [B, C, H, W], floats in [0, 1] -> embeddings [B, D].

    Attributes:
        embedding_dim: D.
        parts: into how many embeddings of equal size, each scaled to length 1, it splits; 1 where it is a single one.
    """

    embedding_dim: int
    parts: int = 1

    def twins(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Both images of each pair -> embeddings [B, D] of each; batch statistics are those of one side."""
        return self(x1_BCHW), self(x2_BCHW)
