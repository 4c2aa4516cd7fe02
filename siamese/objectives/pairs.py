"""Losses on labelled pairs.

Shapes: B pairs, D embedding dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of the logits, in nats, averaged over the batch (Koch et al. 2015, section 3.2).

    Computed in float32 from the logits, whatever the precision of the network. Sigmoid followed by cross-entropy is the
    same function, but loses all digits of a confident pair in bf16.
    """

    capturable = True

    def forward(self, logit_B: Tensor, label_B: Tensor) -> Tensor:
        """Compute the loss of logits [B] of any float dtype and labels [B] (1 = same) -> scalar float32."""
        return F.binary_cross_entropy_with_logits(logit_B.float(), label_B.float())


class Contrastive(nn.Module):
    """Contrastive loss (Hadsell, Chopra and LeCun 2006, eq. 4), averaged over the batch.

    The loss is ``d ** 2 / 2`` for a same pair and ``max(0, margin - d) ** 2 / 2`` for a different pair. The distance d
    is computed from the score of the head: ``1 - score`` for a cosine, ``-score`` for the negative Euclidean distance.

    Args:
        distance: ``cosine`` or ``euclidean``.
        margin: distance from which the loss of a different pair is 0.
    """

    capturable = True

    def __init__(self, distance: str, margin: float) -> None:
        super().__init__()
        self.offset = {"cosine": 1.0, "euclidean": 0.0}[distance]
        self.margin = margin

    def forward(self, score_B: Tensor, label_B: Tensor) -> Tensor:
        """Compute the loss of scores [B] of any float dtype and labels [B] (1 = same) -> scalar float32."""
        d_B = self.offset - score_B.float()
        apart_B = F.relu(self.margin - d_B)
        return torch.where(label_B == 1, d_B, apart_B).square().mean() / 2
