"""Back ends: heads fitted to the embeddings of a trained network, which replace the head it was trained with.

The term comes from speaker verification. All back ends scale embeddings to length 1 first (Garcia-Romero and
Espy-Wilson 2011) and compute in float64.

Shapes: B pairs, N images, P training pairs, C images of a cohort, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedL1Head(nn.Module):
    """Koch's head, fitted separately: a logistic regression of labels on \\|z1 - z2\\|."""

    weight: Tensor
    bias: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def fit(self, z1_PD: Tensor, z2_PD: Tensor, label_P: Tensor, shrinkage: float) -> None:
        """Minimize the mean cross-entropy plus ``shrinkage / 2`` times the sum of the squared weights.

        The differences are divided by their standard deviation in each dimension, so that the penalty treats all
        dimensions equally.

        Args:
            z1_PD, z2_PD: embeddings of both images of each pair [P, D].
            label_P: 1 = same, 0 = different [P].
            shrinkage: above 0; with 0, the weights would grow without bound on separable pairs.
        """
        x_PD = (normalized(z1_PD) - normalized(z2_PD)).abs()
        scale_D = x_PD.std(0).clamp_min(1e-12)
        x_PD, y_P = x_PD / scale_D, label_P.double()
        weight = torch.zeros(x_PD.shape[1], dtype=torch.float64, device=x_PD.device, requires_grad=True)
        bias = torch.zeros((), dtype=torch.float64, device=x_PD.device, requires_grad=True)
        lbfgs = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            lbfgs.zero_grad()
            value = F.binary_cross_entropy_with_logits(x_PD @ weight + bias, y_P)
            value = value + shrinkage / 2 * weight.square().sum()
            value.backward()
            return value

        lbfgs.step(loss)
        self.weight, self.bias = weight.detach() / scale_D, bias.detach()

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Score the embeddings of both images [B, D] -> logits [B]."""
        return (normalized(z1_BD) - normalized(z2_BD)).abs() @ self.weight + self.bias


class LdaHead(nn.Module):
    """Linear discriminant analysis (Fisher 1936): the cosine after a projection that separates people.

    The projection whitens the covariance within people (within-class covariance normalization, Hatch et al. 2006). It
    then rotates to the directions in which people differ most, and weights each direction by the share of its variance
    that lies between people.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("projection", torch.eye(embedding_dim, dtype=torch.float64))

    def fit(self, mean_D: Tensor, within_DD: Tensor, total_DD: Tensor, shrinkage: float) -> None:
        """Compute the projection from the statistics of training embeddings.

        Args:
            mean_D, within_DD, total_DD: results of `covariances_by_groups` or `covariances_by_pairs`.
            shrinkage: strength in [0, 1] with which the covariance within people is shrunk, see `shrunk`.
        """
        values, vectors = torch.linalg.eigh(shrunk(within_DD, shrinkage))
        whiten = vectors / values.sqrt()
        spread, turn = torch.linalg.eigh(whiten.T @ total_DD @ whiten)
        between = (spread - 1).clamp_min(0)  # whitening made the variance within people 1
        projection_DD = whiten @ turn * (between / (between + 1)).sqrt()
        # A contiguous tensor gives the same bits as one loaded from a file.
        self.mean, self.projection = mean_D, projection_DD.contiguous()

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Score the embeddings of both images [B, D] -> cosines [B]."""
        a, b = ((normalized(z) - self.mean) @ self.projection for z in (z1_BD, z2_BD))
        return F.cosine_similarity(a, b)

    def factors(self, z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the factors of the scores of many pairs, as `PldaHead.factors`; the bias is 0."""
        unit_ND = F.normalize((normalized(z_ND) - self.mean) @ self.projection)
        return unit_ND, unit_ND, unit_ND.new_zeros(len(unit_ND))


class PldaHead(nn.Module):
    """Two-covariance PLDA (probabilistic linear discriminant analysis; Bruemmer and de Villiers 2010, section 2).

    The score is the log-likelihood ratio of "same person" against "different people". The model is that of Joint
    Bayesian (Chen et al. 2012): an embedding is the mean of a person plus the deviation of an image, both normally
    distributed. The covariances are sample covariances, not estimated by EM.
    """

    mean: Tensor
    own: Tensor
    cross: Tensor
    constant: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        zeros = torch.zeros(embedding_dim, embedding_dim, dtype=torch.float64)
        self.register_buffer("mean", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("own", zeros)
        self.register_buffer("cross", zeros.clone())
        self.register_buffer("constant", torch.zeros((), dtype=torch.float64))

    def fit(self, mean_D: Tensor, within_DD: Tensor, total_DD: Tensor, shrinkage: float) -> None:
        """Compute the matrices of the score from the statistics of training embeddings.

        The covariance between people is the total covariance minus that within people, with negative eigenvalues set
        to 0.

        Args:
            mean_D, within_DD, total_DD: results of `covariances_by_groups` or `covariances_by_pairs`.
            shrinkage: strength in [0, 1] with which the covariance within people is shrunk, see `shrunk`.
        """
        within_DD = shrunk(within_DD, shrinkage)
        values, vectors = torch.linalg.eigh(total_DD - within_DD)
        between_DD = vectors * values.clamp_min(0) @ vectors.T
        total_DD = between_DD + within_DD
        inverse = torch.linalg.inv(total_DD)
        schur = total_DD - between_DD @ inverse @ between_DD
        schur_inverse = torch.linalg.inv(schur)
        self.mean = mean_D
        self.own = (inverse - schur_inverse).contiguous()
        self.cross = (inverse @ between_DD @ schur_inverse).contiguous()
        self.constant = (torch.linalg.slogdet(total_DD)[1] - torch.linalg.slogdet(schur)[1]) / 2

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Score the embeddings of both images [B, D] -> log-likelihood ratios [B], natural logarithm."""
        a, b = (normalized(z) - self.mean for z in (z1_BD, z2_BD))
        squares = ((a @ self.own) * a).sum(1) + ((b @ self.own) * b).sum(1)
        return squares / 2 + ((a @ self.cross) * b).sum(1) + self.constant

    def factors(self, z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the factors of the scores of many pairs.

        The score of the images i and j is ``query[i] @ key[j] + bias[i] + bias[j]``.

        Args:
            z_ND: embeddings [N, D].

        Returns:
            query [N, D], key [N, D], bias [N].
        """
        a = normalized(z_ND) - self.mean
        return a @ self.cross, a, (((a @ self.own) * a).sum(1) + self.constant) / 2


class CohortHead(nn.Module):
    """Normalize the scores of a head by those with a cohort of other people (adaptive s-norm).

    Some faces resemble many others, and score high with strangers too. A score is therefore expressed in standard
    deviations above the mean of an image's scores with the most similar images of the cohort. The result is averaged
    over both images of the pair (Karam et al. 2011; Matejka et al. 2017).

    Args:
        head: fitted head.
        nearest: number of most similar images of the cohort used for each image, at least 2; a smaller cohort is used
            entirely.
        size: number of images in the cohort whose state will be loaded; 0 if `fit` is called instead.
    """

    key: Tensor
    bias: Tensor

    def __init__(self, head: LdaHead | PldaHead, nearest: int, size: int = 0) -> None:
        super().__init__()
        self.head = head
        self.nearest = nearest
        self.register_buffer("key", torch.zeros(size, len(head.mean), dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(size, dtype=torch.float64))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Set the cohort: blocks of embeddings [B, D] of one image each of many people who are not scored."""
        factors = (self.head.factors(z_BD)[1:] for z_BD in blocks)
        self.key, self.bias = map(torch.cat, zip(*factors, strict=True))

    def statistics(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation [N] of the scores of images [N, D] with the nearest of the cohort."""
        query_ND, _, bias_N = self.head.factors(z_ND)
        score_NC = query_ND @ self.key.T + bias_N[:, None] + self.bias
        nearest = score_NC.topk(min(self.nearest, len(self.bias)), dim=1).values
        return nearest.mean(1), nearest.std(1).clamp_min(1e-12)

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Score the embeddings of both images [B, D] -> normalized scores [B]."""
        return self.relative(self.head(z1_BD, z2_BD), self.statistics(z1_BD), self.statistics(z2_BD))

    @staticmethod
    def relative(score_B: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """Normalize the scores [B] of the head with the `statistics` of both images -> scores [B]."""
        return ((score_B - one[0]) / one[1] + (score_B - other[0]) / other[1]) / 2


BACKENDS: dict[str, type[WeightedL1Head | LdaHead | PldaHead]] = {
    "l1": WeightedL1Head,
    "lda": LdaHead,
    "plda": PldaHead,
}


def normalized(z_BD: Tensor) -> Tensor:
    """Scale embeddings to length 1, in float64."""
    return F.normalize(z_BD.double())


def shrunk(covariance_DD: Tensor, shrinkage: float) -> Tensor:
    """Average a covariance with the multiple of the identity of the same trace (Ledoit and Wolf 2004, eq. 14).

    Args:
        covariance_DD: [D, D].
        shrinkage: weight of the identity, in [0, 1].
    """
    dim = len(covariance_DD)
    target = covariance_DD.diagonal().mean() * torch.eye(dim, dtype=covariance_DD.dtype, device=covariance_DD.device)
    return (1 - shrinkage) * covariance_DD + shrinkage * target


class _Moments:
    """Mean and total covariance of rows, accumulated in blocks, each centred on its own mean.

    The blocks are combined as by Chan, Golub and LeVeque (1983). A single block gives the bits of the plain formula.
    """

    mean: Tensor
    squares: Tensor
    number = 0

    def add(self, rows_BD: Tensor) -> None:
        """Add a block of rows; overwrites them."""
        number, mean_D = len(rows_BD), rows_BD.mean(0)
        rows_BD -= mean_D
        squares_DD = rows_BD.T @ rows_BD
        if self.number:
            shift_D = mean_D - self.mean
            both = self.number + number
            self.mean += shift_D * (number / both)
            self.squares += squares_DD + torch.outer(shift_D, shift_D) * (self.number * number / both)
        else:
            self.mean, self.squares = mean_D, squares_DD
        self.number += number

    def covariance(self) -> Tensor:
        return self.squares / self.number


def covariances_by_groups(blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the statistics of embeddings, scaled to length 1, of identified people.

    Needs memory for one block: about 30 bytes for each of its values.

    Args:
        blocks: embeddings [B, D], and int64 [B] that are equal for images of one person. All images of a person are in
            one block. People with one image only contribute to mean and total covariance.

    Returns:
        mean [D], covariance within people [D, D], total covariance [D, D]; float64.

    Raises:
        ValueError: no person has two images.
    """
    moments, within_DD, freedom = _Moments(), None, 0
    for z_BD, groups_B in blocks:
        z_BD = normalized(z_BD)
        _, person, counts = torch.unique(groups_B.to(z_BD.device), return_inverse=True, return_counts=True)
        means = torch.zeros(len(counts), z_BD.shape[1], dtype=z_BD.dtype, device=z_BD.device)
        means = means.index_add(0, person, z_BD) / counts[:, None]
        inner_BD = means[person]
        torch.sub(z_BD, inner_BD, out=inner_BD)
        squares_DD = inner_BD.T @ inner_BD
        within_DD = squares_DD if within_DD is None else within_DD.add_(squares_DD)
        freedom += len(z_BD) - len(counts)
        del inner_BD
        moments.add(z_BD)
    if within_DD is None or not freedom:
        raise ValueError("no person has two images, which the covariance within people needs")
    return moments.mean, within_DD / freedom, moments.covariance()


def covariances_by_pairs(blocks: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the statistics of `covariances_by_groups` from labelled pairs, without identities.

    The covariance within people is half the mean outer product of the differences in same pairs.

    Args:
        blocks: embeddings of both images of each pair [B, D], and labels [B]: 1 = same, 0 = different.

    Returns:
        mean [D], covariance within people [D, D], total covariance [D, D]; float64.

    Raises:
        ValueError: there is no same pair.
    """
    moments, within_DD, same = _Moments(), None, 0
    for z1_BD, z2_BD, label_B in blocks:
        z1_BD, z2_BD = normalized(z1_BD), normalized(z2_BD)
        difference = (z1_BD - z2_BD)[label_B.to(z1_BD.device) == 1]
        squares_DD = difference.T @ difference
        within_DD = squares_DD if within_DD is None else within_DD.add_(squares_DD)
        same += len(difference)
        moments.add(torch.cat([z1_BD, z2_BD]))
    if within_DD is None or not same:
        raise ValueError("there is no same pair, which the covariance within people needs")
    return moments.mean, within_DD / same / 2, moments.covariance()


def widened(mean_D: Tensor, within_DD: Tensor, total_DD: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Multiply the covariance within people by ``factor``; the covariance between people stays the same.

    A factor above 1 corrects for images that the network was trained on: their embeddings of one person lie closer
    together than those of a person it never saw.

    Args:
        mean_D, within_DD, total_DD: results of `covariances_by_groups` or `covariances_by_pairs`.
        factor: above 0.

    Returns:
        the same statistics, with the new covariances.
    """
    return mean_D, within_DD * factor, total_DD + within_DD * (factor - 1)
