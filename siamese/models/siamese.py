"""The Siamese network around an encoder.

Shapes: B pairs, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.models.encoder import Encoder
from siamese.models.koch import koch_init


class L1Head(nn.Module):
    """A linear layer on |h1 - h2|: the learned, weighted L1 distance of Koch et al. (2015), section 3.1.

    The output is a logit; its sigmoid is the probability that both images show the same person. It is computed in the
    dtype of the weights, under autocast too: in bfloat16 half of a thousand pairs would have equal scores.

    Args:
        embedding_dim: D.
        init: ``torch`` or ``koch``, as in `siamese.models.koch.KochEncoder`.
    """

    def __init__(self, embedding_dim: int, init: str) -> None:
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
    """The cosine similarity of both embeddings, in float32."""

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B] in [-1, 1]."""
        return F.cosine_similarity(z1_BD.float(), z2_BD.float())


class EuclideanHead(nn.Module):
    """The negative Euclidean distance of both embeddings scaled to length 1, in float32; higher means more similar."""

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B] in [-2, 0]."""
        distance_B: Tensor = torch.linalg.vector_norm(F.normalize(z1_BD.float()) - F.normalize(z2_BD.float()), dim=1)
        return -distance_B


class SiameseNetwork(nn.Module):
    """One encoder for both images, and a head that scores each pair of embeddings.

    In evaluation mode the embedding of an image can be the mean over several views of the image (Krizhevsky et al.
    2012, section 4.1, average predictions in this way).

    Args:
        encoder: images -> embeddings.
        head: both embeddings of each pair -> scores.
        flip_average: add the mirror image of each view.
        crop_average: side of four additional views, one at the middle of each edge, as a fraction of the image side in
            (0, 1]; 1 adds none.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, *, flip_average: bool, crop_average: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.flip_average = flip_average
        self.crop_average = crop_average

    def embed(self, x_BCHW: Tensor, *, with_crops: bool = True) -> Tensor:
        """Embed images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D]; a mean over several views is float32.

        Args:
            x_BCHW: the images.
            with_crops: False: ignore ``crop_average``.
        """
        share = self.crop_average if with_crops else 1.0
        if self.training or not (self.flip_average or share < 1):
            z_BD: Tensor = self.encoder(x_BCHW)
            return z_BD
        views = [x_BCHW, *(windows(x_BCHW, share) if share < 1 else ())]
        if self.flip_average:
            views += [view.flip(-1) for view in views]
        return torch.stack([self.encoder(view).float() for view in views]).mean(0)

    def forward(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> Tensor:
        """Score both images of each pair, floats in [0, 1] [B, C, H, W] -> scores [B]; logits with an `L1Head`."""
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
    """Cut four square windows from each image, at the middle of its left, right, upper and lower edge.

    Args:
        x_BCHW: float [B, C, H, W].
        share: side of a window as a fraction of the image side, in (0, 1).

    Returns:
        four tensors [B, C, H, W]: the windows, resized bilinearly to the size of the image.
    """
    gap = 1 - share
    views = []
    for right, down in ((-gap, 0.0), (gap, 0.0), (0.0, -gap), (0.0, gap)):
        theta = torch.tensor([[share, 0.0, right], [0.0, share, down]], device=x_BCHW.device)
        with torch.autocast(x_BCHW.device.type, enabled=False):  # a bfloat16 grid is off by up to a sixth of a pixel
            grid_1HW2 = F.affine_grid(theta[None], [1, *x_BCHW.shape[1:]], align_corners=False)
        grid_BHW2 = grid_1HW2.expand(x_BCHW.shape[0], -1, -1, -1)
        views.append(F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False))
    return views
