"""Losses on a batch of images of many people, where images of one group are of one person.

Composed of the parts of pytorch-metric-learning: distance, miner, loss. All compute in float32, under autocast too (a
cosine over a temperature of 0.05 goes up to 20, where bfloat16 has steps of 0.125), and give 0 for a batch that has
nothing to compare.

Shapes: M images, P listed pairs, D embedding dimensions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, SupConLoss, TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn


class GroupLoss(nn.Module):
    """What all share: subclasses define ``_loss_of`` on float32 embeddings."""

    def forward(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """Embeddings [M, D] of any float type, groups int64 [M], labels [P] of the pairs (p, P + p) -> scalar float32.

        What has no use for listed pairs leaves their labels alone.
        """
        with torch.autocast(z_MD.device.type, enabled=False):
            return self._loss_of(z_MD.float(), groups_M, label_P)

    @abstractmethod
    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """As ``forward``, of float32 embeddings outside autocast."""


class NTXent(GroupLoss):
    """Each image finds those of its person among all others of the batch.

    The cross-entropy of a softmax over the cosines with all other images, divided by the temperature, averaged over the
    positives of an image and then over the images that have some (Khosla et al. 2020, eq. 2, "out"; with two
    views and no labels the NT-Xent of Chen et al. 2020).

    With ``pair_weight`` the binary cross-entropy of the listed pairs is added, so that the different ones among them
    count for more than one of many negatives. Their logit is ``scale * cosine + offset``, both learned, from 10 and -5.

    Args:
        temperature: above 0.
        pair_weight: 0 leaves the listed pairs to the first part.
    """

    def __init__(self, temperature: float, pair_weight: float = 0.0) -> None:
        super().__init__()
        self.loss = SupConLoss(temperature, distance=CosineSimilarity())
        self.pair_weight = pair_weight
        if pair_weight:
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.offset = nn.Parameter(torch.tensor(-5.0))

    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        total: Tensor = self.loss(z_MD, groups_M)
        pairs = len(label_P)
        if self.pair_weight and pairs:
            cosine_P = F.cosine_similarity(z_MD[:pairs], z_MD[pairs : 2 * pairs])
            logit_P = self.log_scale.exp() * cosine_P + self.offset
            total = total + self.pair_weight * F.binary_cross_entropy_with_logits(logit_P, label_P)
        return total


class Triplet(GroupLoss):
    """The triplet loss of Schroff, Kalenichenko and Philbin (2015), eq. 1, with a margin on the distance itself.

    ``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, averaged over the triplets of the batch that cost
    something. The distance is that of embeddings scaled to length 1, not squared; or their cosine.

    Args:
        distance: ``euclidean`` or ``cosine``.
        margin: above 0.
        mining: ``all`` triplets within the margin; ``semihard``, those whose negative is farther than the positive; or
            ``hard``, those whose negative is nearer.
    """

    def __init__(self, distance: str, margin: float, mining: str) -> None:
        super().__init__()
        measure = {"euclidean": LpDistance, "cosine": CosineSimilarity}[distance]
        self.miner = TripletMarginMiner(margin, type_of_triplets=mining, distance=measure())
        self.loss = TripletMarginLoss(margin, distance=measure())

    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        total: Tensor = self.loss(z_MD, groups_M, self.miner(z_MD, groups_M))
        return total


class AngularMargin(GroupLoss):
    """Classification of the training people by the angle to a learned centre of each, with a margin for the right one.

    The cross-entropy of ``scale * cos(angle + margin)`` (ArcFace, Deng et al. 2019, eq. 3) or of
    ``scale * (cos(angle) - margin)`` (CosFace, Wang et al. 2018, eq. 4) against ``scale * cos(angle)`` of all others.

    Args:
        kind: ``arcface`` or ``cosface``.
        people: number of training people; groups are numbers below it.
        embedding_dim: D.
        margin: radians (arcface), or a cosine (cosface).
        scale: above 0.
    """

    def __init__(self, kind: str, people: int, embedding_dim: int, margin: float, scale: float) -> None:
        super().__init__()
        self.loss = (
            ArcFaceLoss(people, embedding_dim, margin=math.degrees(margin), scale=scale)
            if kind == "arcface"
            else CosFaceLoss(people, embedding_dim, margin=margin, scale=scale)
        )

    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        total: Tensor = self.loss(z_MD, groups_M)
        return total


class EachPart(nn.Module):
    """The sum of the losses of an embedding's parts, each by itself: every part learns as it would alone.

    Args:
        losses: on groups, one for each part.
    """

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """Embeddings [M, D] that split into equal parts, groups int64 [M], labels [P] -> scalar float32."""
        parts = z_MD.chunk(len(self.losses), dim=1)
        losses = [loss(part, groups_M, label_P) for loss, part in zip(self.losses, parts, strict=True)]
        return torch.stack(losses).sum()
