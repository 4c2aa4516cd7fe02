"""The Siamese network around an encoder.

Shapes: B pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.data.augmentation import sampling_grid
from siamese.models.encoder import Encoder
from siamese.models.koch import koch_init


class L1Head(nn.Module):
    """A linear layer on |h1 - h2|: the learned, weighted L1 distance of Koch et al. (2015), section 3.1.

    Its output is a logit; its sigmoid is the probability that both images show the same person. Computed as its weights
    are, in float32 under autocast too: in bfloat16 half of a thousand pairs would tie.
    """

    def __init__(self, embedding_dim: int, init: str = "torch") -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_dim, 1)
        if init == "koch":
            koch_init(self.linear)

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> logits [B]."""
        with torch.autocast(z1_BD.device.type, enabled=False):
            z1_BD, z2_BD = (z_BD.to(self.linear.weight.dtype) for z_BD in (z1_BD, z2_BD))
            logit_B: Tensor = self.linear((z1_BD - z2_BD).abs()).squeeze(1)
        return logit_B


class CosineHead(nn.Module):
    """The cosine of the angle between both embeddings, in float32."""

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B] in [-1, 1]."""
        return F.cosine_similarity(z1_BD.float(), z2_BD.float())


class EuclideanHead(nn.Module):
    """The Euclidean distance of both embeddings scaled to length 1, negative, so that higher is more alike; float32."""

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B] in [-2, 0]."""
        distance_B: Tensor = torch.linalg.vector_norm(F.normalize(z1_BD.float()) - F.normalize(z2_BD.float()), dim=1)
        return -distance_B


class SiameseNetwork(nn.Module):
    """One encoder applied to both images, and a head that scores the pair of embeddings.

    In evaluation mode an image may be embedded as the mean of the embeddings of several views of it (as Krizhevsky et
    al. 2012, section 4.1, average predictions).

    Args:
        encoder: images -> embeddings.
        head: both embeddings of each pair -> scores.
        flip_average: each view and its mirror image.
        crop_average: share of the side, in (0, 1]. Below 1 the views are the whole image and four windows of this size,
            each in the middle of an edge.
    """

    def __init__(
        self, encoder: Encoder, head: nn.Module, flip_average: bool = False, crop_average: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.flip_average = flip_average
        self.crop_average = crop_average

    def embed(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W], floats in [0, 1] -> embeddings [B, D]; a mean of several views is float32."""
        if self.training or not self._many_views:
            z_BD: Tensor = self.encoder(x_BCHW)
            return z_BD
        views = [x_BCHW, *(windows(x_BCHW, self.crop_average) if self.crop_average < 1 else ())]
        if self.flip_average:
            views += [view.flip(-1) for view in views]
        return torch.stack([self.encoder(view).float() for view in views]).mean(0)

    def forward(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> Tensor:
        """Both images of each pair -> scores [B]: logits where the head is an `L1Head`."""
        if self.training or not self._many_views:
            z1_BD, z2_BD = self.encoder.twins(x1_BCHW, x2_BCHW)
        else:
            z1_BD, z2_BD = self.embed(x1_BCHW), self.embed(x2_BCHW)
        score_B: Tensor = self.head(z1_BD, z2_BD)
        return score_B

    @property
    def _many_views(self) -> bool:
        return self.flip_average or self.crop_average < 1


def windows(x_BCHW: Tensor, share: float) -> list[Tensor]:
    """Four square windows of each image, in the middle of its left, right, upper and lower edge, at the image's size.

    Args:
        x_BCHW: float [B, C, H, W].
        share: of the side, in (0, 1).

    Returns:
        four times [B, C, H, W], bilinear.
    """
    gap = 1 - share
    views = []
    for right, down in ((-gap, 0.0), (gap, 0.0), (0.0, -gap), (0.0, gap)):
        theta = torch.tensor([[share, 0.0, right], [0.0, share, down]], device=x_BCHW.device)
        grid = sampling_grid(theta.expand(x_BCHW.shape[0], 2, 3), x_BCHW)
        views.append(F.grid_sample(x_BCHW, grid, padding_mode="border", align_corners=False))
    return views
