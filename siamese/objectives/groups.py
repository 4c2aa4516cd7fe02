"""Losses on a batch of images in groups; the images of a group show one person.

Most combine a distance, a miner and a loss of pytorch-metric-learning. NT-Xent does not: the library reads which pairs
are positive back from the GPU, three times a batch, and the GPU waits. All compute in float32, under autocast
too: a cosine divided by a temperature of 0.05 reaches 20, where bfloat16 has steps of 0.125. The loss of a batch
without positive or without negative pairs is 0.

Shapes: M images, P listed pairs, D embedding dimensions.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss, TripletMarginLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor, nn


class GroupLoss(nn.Module):
    """Base class: computes in float32. Subclasses define ``_loss_of``.

    Attributes:
        capturable: whether a CUDA graph can contain the loss: it never reads a result back from the GPU.
    """

    capturable = False

    def forward(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z_MD: embeddings [M, D] of any float dtype.
            groups_M: int64 [M], equal for images of one person.
            label_P: labels of the listed pairs [P] (1 = same); pair p consists of the images p and P + p. Most losses
                ignore them.

        Returns:
            scalar float32.
        """
        with torch.autocast(z_MD.device.type, enabled=False):
            return self._loss_of(z_MD.float(), groups_M, label_P)

    @abstractmethod
    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """Compute the loss of float32 embeddings, outside autocast; arguments as in ``forward``."""


class NTXent(GroupLoss):
    """Supervised NT-Xent: each image has to find the images of its person among all others of the batch.

    The loss is the cross-entropy of a softmax over the cosines with all other images, divided by the temperature. It is
    averaged over the positives of an image, and then over the images that have positives (Khosla et al. 2020, eq. 2,
    "out"). Positives are the images of a group, and those of listed same pairs. With two views and no labels, this is
    NT-Xent (Chen et al. 2020). (``SupConLoss`` of pytorch-metric-learning leaves out images whose loss rounds to 0.)

    With ``pair_weight``, the binary cross-entropy of the listed pairs is added. It makes a listed different pair count
    for more than one of many negatives. The logit of a pair is ``scale * cosine + offset``; both are learned and start
    at 10 and -5.

    Args:
        temperature: above 0.
        negatives: ``batch``, all images that are not positives; or ``listed``, those of listed different pairs, in
            all views. Other images are then left out of the softmax, and images without a negative have no loss.
        pair_weight: weight of the cross-entropy of the listed pairs; 0 omits it.
    """

    capturable = True

    def __init__(self, temperature: float, pair_weight: float, negatives: str = "batch") -> None:
        super().__init__()
        self.temperature = temperature
        self.negatives = negatives
        self.pair_weight = pair_weight
        if pair_weight:
            self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
            self.offset = nn.Parameter(torch.tensor(-5.0))

    def _loss_of(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        total = self._softmax_loss(F.normalize(z_MD), groups_M, label_P)
        pairs = len(label_P)
        if self.pair_weight and pairs:
            cosine_P = F.cosine_similarity(z_MD[:pairs], z_MD[pairs : 2 * pairs])
            logit_P = self.log_scale.exp() * cosine_P + self.offset
            total = total + self.pair_weight * F.binary_cross_entropy_with_logits(logit_P, label_P)
        return total

    def _softmax_loss(self, unit_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        logit_MM = unit_MD @ unit_MD.T / self.temperature
        itself_MM = torch.eye(len(unit_MD), dtype=torch.bool, device=unit_MD.device)
        equal_MM = (groups_M[:, None] == groups_M) | _listed(label_P == 1, len(unit_MD))
        same_MM = equal_MM & ~itself_MM
        different_MM = ~equal_MM
        if self.negatives == "listed":
            different_MM &= _listed(label_P == 0, len(unit_MD))
        counts_M = same_MM.any(1) & different_MM.any(1)
        # An image that does not count gets a finite loss, so that its gradient of 0 is not NaN.
        compared_MM = same_MM | different_MM | (itself_MM & ~counts_M[:, None])
        log_share_MM = logit_MM - logit_MM.masked_fill(~compared_MM, -math.inf).logsumexp(1, keepdim=True)
        loss_M = -(log_share_MM * same_MM).sum(1) / same_MM.sum(1).clamp_min(1)
        return (loss_M * counts_M).sum() / counts_M.sum().clamp_min(1)


def _listed(chosen_P: Tensor, images: int) -> Tensor:
    """Mark the chosen pairs, bool [P], in the matrix of all images, bool [M, M], between all views of their images."""
    pairs = len(chosen_P)
    if not pairs:
        return torch.zeros(images, images, dtype=torch.bool, device=chosen_P.device)
    upper = torch.diag_embed(chosen_P, offset=pairs)
    views = images // (2 * pairs)
    return (upper | upper.T).tile(views, views)


class Triplet(GroupLoss):
    """Triplet loss (Schroff, Kalenichenko and Philbin 2015, eq. 1), with distances that are not squared.

    The loss is ``max(0, d(anchor, positive) - d(anchor, negative) + margin)``, averaged over the triplets of the batch
    for which it is above 0.

    Args:
        distance: ``euclidean``, of embeddings scaled to length 1; or ``cosine``, 1 - cosine.
        margin: above 0.
        mining: triplets to use: ``all`` within the margin; ``semihard``, those of them whose negative is farther from
            the anchor than the positive; or ``hard``, those whose negative is nearer.
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
    """Classification of the training people by the angle to a learned centre of each person, with a margin.

    The loss is a cross-entropy. The logit of the right person is ``scale * cos(angle + margin)`` (ArcFace, Deng et al.
    2019, eq. 3) or ``scale * (cos(angle) - margin)`` (CosFace, Wang et al. 2018, eq. 4). The logits of all others are
    ``scale * cos(angle)``.

    Args:
        kind: ``arcface`` or ``cosface``.
        people: number of training people; a group is a number below it.
        embedding_dim: D.
        margin: an angle in radians (arcface), or a difference of cosines (cosface).
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
    """Sum of one loss for each part of an embedding, so that every part learns as if it were trained alone.

    Args:
        losses: losses on groups, one for each part.
    """

    def __init__(self, losses: Sequence[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.capturable = all(getattr(loss, "capturable", False) for loss in losses)

    def forward(self, z_MD: Tensor, groups_M: Tensor, label_P: Tensor) -> Tensor:
        """Compute the loss of embeddings [M, D], made of parts of equal size; arguments as in `GroupLoss.forward`."""
        parts = z_MD.chunk(len(self.losses), dim=1)
        losses = [loss(part, groups_M, label_P) for loss, part in zip(self.losses, parts, strict=True)]
        return torch.stack(losses).sum()
