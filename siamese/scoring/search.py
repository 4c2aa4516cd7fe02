"""Score images against a whole gallery: what a score needs of each image is computed once, the rest is a product.

Nearly every head compares embeddings by a dot product, apart from a few numbers of each image (its terms), such as the
length of its embedding. Only the weighted L1 distance needs the difference of each pair.

Shapes: Q images to find, B or N images of the gallery, D embedding dimensions, T terms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.models.backends import CohortHead, LdaHead, PldaHead, normalized
from siamese.models.siamese import CosineHead, EuclideanHead
from siamese.scoring.scores import CHUNK


class Queries(NamedTuple):
    """Images to find, prepared by `prepare_queries`.

    Attributes:
        embeddings: [Q, D].
        direction: float32 [D, Q], by which embeddings of the gallery are multiplied; None: weighted L1 distance.
        offset: float64 [Q], to be added to the product, since back ends subtract a mean from embeddings.
        bias: float64 [Q], the part of the score that depends on the image to find alone.
        statistics: mean and standard deviation of the scores with a cohort, float64 [Q].
    """

    embeddings: Tensor
    direction: Tensor | None = None
    offset: Tensor | float = 0.0
    bias: Tensor | float = 0.0
    statistics: tuple[Tensor, Tensor] | None = None


@torch.inference_mode()
def image_terms(head: nn.Module, z_BD: Tensor) -> Tensor:
    """Compute the terms of images of the gallery, for `score_queries` -> float32 [B, T].

    Args:
        head: head or back end of a run.
        z_BD: embeddings.
    """
    match head:
        case CohortHead():
            statistics = map(torch.cat, zip(*map(head.statistics, z_BD.split(CHUNK)), strict=True))
            return torch.cat([image_terms(head.head, z_BD), torch.stack([*statistics], 1)], 1).float()
        case LdaHead():
            projected_BD = (normalized(z_BD) - head.mean) @ head.projection
            return torch.stack([_one_over_length(z_BD), _one_over_length(projected_BD)], 1).float()
        case PldaHead():
            return torch.stack([_one_over_length(z_BD), head.factors(z_BD)[2]], 1).float()
        case CosineHead() | EuclideanHead():
            return _one_over_length(z_BD)[:, None].float()
    return z_BD.new_zeros(len(z_BD), 0, dtype=torch.float32)


@torch.inference_mode()
def prepare_queries(head: nn.Module, z_QD: Tensor) -> Queries:
    """Prepare images to find, embeddings [Q, D], for `score_queries`."""
    match head:
        case CohortHead():
            return prepare_queries(head.head, z_QD)._replace(statistics=head.statistics(z_QD))
        case LdaHead() | PldaHead():
            query_QD, _, bias_Q = head.factors(z_QD)
            direction_QD = query_QD @ head.projection.T if isinstance(head, LdaHead) else query_QD
            return Queries(z_QD, direction_QD.T.float(), -direction_QD @ head.mean, bias_Q)
        case CosineHead() | EuclideanHead():
            return Queries(z_QD, F.normalize(z_QD.float()).T)
    return Queries(z_QD)


@torch.inference_mode()
def score_queries(head: nn.Module, queries: Queries, z_BD: Tensor, terms_BT: Tensor) -> Tensor:
    """Score each image to find against each of a block of the gallery -> float32 [B, Q].

    Products are computed in float32: the scores are those of the head up to rounding.

    Args:
        head: head or back end of a run.
        queries: result of `prepare_queries`.
        z_BD: embeddings of the gallery, float32.
        terms_BT: result of `image_terms`.
    """
    if queries.direction is None:
        columns = [head(z_D.to(z_BD.dtype).expand_as(z_BD), z_BD) for z_D in queries.embeddings]
        return torch.stack(columns, 1).float()
    score_BQ = z_BD @ queries.direction * terms_BT[:, :1]
    match head:
        case EuclideanHead():
            return -(2 - 2 * score_BQ).clamp_min(0).sqrt()
        case CohortHead():
            score_BQ = _with_mean(head.head, queries, score_BQ, terms_BT)
            mean_B1, std_B1 = terms_BT[:, -2, None], terms_BT[:, -1, None]
            assert queries.statistics is not None
            return head.relative(score_BQ, queries.statistics, (mean_B1, std_B1)).float()
        case LdaHead() | PldaHead():
            return _with_mean(head, queries, score_BQ, terms_BT).float()
    return score_BQ


def _with_mean(head: LdaHead | PldaHead, queries: Queries, score_BQ: Tensor, terms_BT: Tensor) -> Tensor:
    score_BQ = score_BQ + queries.offset
    return score_BQ * terms_BT[:, 1:2] if isinstance(head, LdaHead) else score_BQ + queries.bias + terms_BT[:, 1:2]


@torch.inference_mode()
def index_vectors(head: nn.Module, z_BD: Tensor, queries: bool = False) -> Tensor:
    """Map embeddings to vectors whose Euclidean distance orders images as the score does -> float32 [B, V].

    Exactly so for the cosine, the Euclidean distance, LDA and PLDA. With a cohort, the order is that of the head
    without it, and with a weighted L1 distance that of the cosine.

    Args:
        head: head or back end of a run.
        z_BD: embeddings.
        queries: whether they are images to find, or of the gallery.
    """
    match head:
        case CohortHead():
            return index_vectors(head.head, z_BD, queries)
        case LdaHead():
            return head.factors(z_BD)[0].float()
        case PldaHead():
            # score = x1 . x2 + bias1 + bias2. The bias of an image of the gallery becomes a further coordinate, which
            # adds largest - 2 bias - |x|^2 to the squared distance (Bachrach et al. 2014).
            values, vectors = torch.linalg.eigh(head.cross)
            a_BD = normalized(z_BD) - head.mean
            x_BD = a_BD @ (vectors * values.clamp_min(0).sqrt())
            if queries:
                return torch.cat([x_BD, x_BD.new_zeros(len(x_BD), 1)], 1).float()
            largest = torch.linalg.eigvalsh(head.own + head.cross)[-1].clamp_min(0) * (1 + head.mean.norm()) ** 2
            rest_B = largest - ((a_BD @ head.own) * a_BD).sum(1) - x_BD.square().sum(1)
            return torch.cat([x_BD, rest_B.clamp_min(0).sqrt()[:, None]], 1).float()
    return F.normalize(z_BD.float())


def _one_over_length(z_BD: Tensor) -> Tensor:
    length_B: Tensor = torch.linalg.vector_norm(z_BD.double(), dim=1)
    return length_B.clamp_min(1e-12).reciprocal()
