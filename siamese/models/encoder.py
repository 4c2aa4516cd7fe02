"""Base class of the encoders.

Shapes: B images or pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class Encoder(nn.Module):
    """A network that embeds images.

    Subclasses define ``forward``: images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D].

    Attributes:
        embedding_dim: D.
        parts: number of embeddings that an output consists of. They have equal size, and each is scaled to length 1 if
            there are several.
        rounding: largest difference between two computations of an embedding that only round differently, relative to
            the largest value.
    """

    embedding_dim: int
    parts: int = 1
    rounding: float = 1e-4

    def twins(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed both images of each pair -> embeddings [B, D] of each; each side has its own batch statistics."""
        return self(x1_BCHW), self(x2_BCHW)

    def prepare(self, images: Iterable[Tensor]) -> None:
        """Set initial weights from training images before training; the default does nothing.

        Args:
            images: blocks of training images, floats in [0, 1] [B, C, H, W].
        """
