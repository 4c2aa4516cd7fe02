"""Heads that are fitted to the embeddings of a trained network, in place of the one it was trained with.

Speaker verification calls them back ends. All of them scale embeddings to length 1 first (Garcia-Romero and Espy-Wilson
2011) and compute in float64.

Shapes: B pairs, N images, P pairs to fit to, C images of a cohort, D embedding dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WeightedL1Head(nn.Module):
    """Koch's head on its own: a logistic regression on \\|z1 - z2\\|, fitted to labelled pairs."""

    weight: Tensor
    bias: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def fit(self, z1_PD: Tensor, z2_PD: Tensor, label_P: Tensor, shrinkage: float) -> None:
        """Minimise the mean cross-entropy plus ``shrinkage / 2`` times the squared weights of the scaled differences.

        Each dimension's differences are divided by their standard deviation, so that the penalty weighs on all alike.

        Args:
            z1_PD, z2_PD: [P, D].
            label_P: [P], 1 = same.
            shrinkage: above 0, or separable pairs make the weights grow without bound.
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
        """Embeddings of both images [B, D] -> logits [B]."""
        return (normalized(z1_BD) - normalized(z2_BD)).abs() @ self.weight + self.bias


class LdaHead(nn.Module):
    """The cosine after a projection that makes people round and sets them apart (Fisher 1936).

    The embeddings are whitened by the covariance within people (within-class covariance normalization, Hatch et al.
    2006) and turned to the directions in which people differ most, each of which is weighted by its share of difference
    between people.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim, dtype=torch.float64))
        self.register_buffer("projection", torch.eye(embedding_dim, dtype=torch.float64))

    def fit(self, mean_D: Tensor, within_DD: Tensor, total_DD: Tensor, shrinkage: float) -> None:
        """Take mean and covariances (`covariances_by_groups`, `covariances_by_pairs`), that within people shrunk."""
        values, vectors = torch.linalg.eigh(shrunk(within_DD, shrinkage))
        whiten = vectors / values.sqrt()
        spread, turn = torch.linalg.eigh(whiten.T @ total_DD @ whiten)
        between = (spread - 1).clamp_min(0)  # of the total spread, 1 is within people
        projection_DD = whiten @ turn * (between / (between + 1)).sqrt()
        # As they come back from a file, to the last bit of what is computed with them.
        self.mean, self.projection = mean_D, projection_DD.contiguous()

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B] in [-1, 1]."""
        a, b = ((normalized(z) - self.mean) @ self.projection for z in (z1_BD, z2_BD))
        return F.cosine_similarity(a, b)

    def factors(self, z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As of `PldaHead.factors`; the bias is 0."""
        unit_ND = F.normalize((normalized(z_ND) - self.mean) @ self.projection)
        return unit_ND, unit_ND, unit_ND.new_zeros(len(unit_ND))


class PldaHead(nn.Module):
    """Two-covariance PLDA: the log-likelihood ratio of one person against two (Bruemmer and de Villiers 2010, sec. 2).

    An embedding is a person's place plus a photo's deviation, both normal: the model of Joint Bayesian (Chen et al.
    2012), here with the covariances of the sample instead of those of an EM.
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
        """Take mean and covariances (`covariances_by_groups`, `covariances_by_pairs`), that within people shrunk.

        The covariance between people is what is left of the total one, negative directions of it set to 0.
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
        """Embeddings of both images [B, D] -> log-likelihood ratios [B], natural logarithm."""
        a, b = (normalized(z) - self.mean for z in (z1_BD, z2_BD))
        squares = ((a @ self.own) * a).sum(1) + ((b @ self.own) * b).sum(1)
        return squares / 2 + ((a @ self.cross) * b).sum(1) + self.constant

    def factors(self, z_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What scores of many pairs are made of: that of images i and j is ``query[i] @ key[j] + bias[i] + bias[j]``.

        Args:
            z_ND: embeddings [N, D].

        Returns:
            query [N, D], key [N, D], bias [N].
        """
        a = normalized(z_ND) - self.mean
        return a @ self.cross, a, (((a @ self.own) * a).sum(1) + self.constant) / 2


class CohortHead(nn.Module):
    """Scores of a head relative to those that both images have with a cohort of other people: adaptive s-norm.

    A score is expressed in standard deviations above the mean of the image's scores with the photos of the cohort that
    are most like it, once for each image of the pair, and both are averaged (Karam et al. 2011; Matejka et al. 2017):
    faces that resemble everybody score high with strangers too.

    Args:
        head: fitted.
        nearest: photos of the cohort that count for an image, at least 2; all of it where it has no more.
        size: of the cohort, before `fit` or the loading of a state.
    """

    key: Tensor
    bias: Tensor

    def __init__(self, head: LdaHead | PldaHead, nearest: int, size: int = 0) -> None:
        super().__init__()
        self.head = head
        self.nearest = nearest
        self.register_buffer("key", torch.zeros(size, len(head.mean), dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(size, dtype=torch.float64))

    def fit(self, z_CD: Tensor) -> None:
        """Take the cohort's embeddings [C, D]: one photo of each of many people, none of whom will be scored."""
        _, self.key, self.bias = self.head.factors(z_CD)

    def statistics(self, z_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [N] and standard deviation [N] of the scores of images [N, D] with the nearest of the cohort."""
        query_ND, _, bias_N = self.head.factors(z_ND)
        score_NC = query_ND @ self.key.T + bias_N[:, None] + self.bias
        nearest = score_NC.topk(min(self.nearest, len(self.bias)), dim=1).values
        return nearest.mean(1), nearest.std(1).clamp_min(1e-12)

    def forward(self, z1_BD: Tensor, z2_BD: Tensor) -> Tensor:
        """Embeddings of both images [B, D] -> scores [B]."""
        return self.relative(self.head(z1_BD, z2_BD), self.statistics(z1_BD), self.statistics(z2_BD))

    @staticmethod
    def relative(score_B: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
        """Scores [B] of the bare head and the `statistics` of both images -> scores [B]."""
        return ((score_B - one[0]) / one[1] + (score_B - other[0]) / other[1]) / 2


BACKENDS: dict[str, type[WeightedL1Head | LdaHead | PldaHead]] = {
    "l1": WeightedL1Head,
    "lda": LdaHead,
    "plda": PldaHead,
}


def normalized(z_BD: Tensor) -> Tensor:
    """Embeddings scaled to length 1, float64."""
    return F.normalize(z_BD.double())


def shrunk(covariance_DD: Tensor, shrinkage: float) -> Tensor:
    """The covariance drawn towards a multiple of the identity with the same trace (Ledoit and Wolf 2004, eq. 14)."""
    dim = len(covariance_DD)
    target = covariance_DD.diagonal().mean() * torch.eye(dim, dtype=covariance_DD.dtype, device=covariance_DD.device)
    return (1 - shrinkage) * covariance_DD + shrinkage * target


def covariances_by_groups(z_ND: Tensor, groups_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D], covariance within people and in total [D, D] of embeddings scaled to length 1.

    Args:
        z_ND: [N, D].
        groups_N: int64 [N], equal for images of one person; people with one image count in mean and total alone.

    Raises:
        ValueError: nobody has two images.
    """
    z_ND = normalized(z_ND)
    _, person, counts = torch.unique(groups_N.to(z_ND.device), return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts), z_ND.shape[1], dtype=z_ND.dtype, device=z_ND.device)
    means = means.index_add(0, person, z_ND) / counts[:, None]
    freedom = len(z_ND) - len(counts)
    if not freedom:
        raise ValueError("nobody has two images to tell how much a person's embeddings differ")
    inner_ND, centred_ND = z_ND - means[person], z_ND - z_ND.mean(0)
    return z_ND.mean(0), inner_ND.T @ inner_ND / freedom, centred_ND.T @ centred_ND / len(z_ND)


def covariances_by_pairs(z1_PD: Tensor, z2_PD: Tensor, label_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from labelled pairs, no name needed: within people, half the mean square of the same pairs' differences.

    Args:
        z1_PD, z2_PD: [P, D].
        label_P: [P], 1 = same.

    Raises:
        ValueError: there is no same pair.
    """
    z1_PD, z2_PD = normalized(z1_PD), normalized(z2_PD)
    difference = (z1_PD - z2_PD)[label_P.to(z1_PD.device) == 1]
    if not len(difference):
        raise ValueError("there is no pair of one person to tell how much a person's embeddings differ")
    everything = torch.cat([z1_PD, z2_PD])
    centred = everything - everything.mean(0)
    return everything.mean(0), difference.T @ difference / len(difference) / 2, centred.T @ centred / len(everything)


def widened(mean_D: Tensor, within_DD: Tensor, total_DD: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """The covariance within people times ``factor``, that between people as it is.

    Above 1 it makes up for a network that has seen the photos it is fitted to: it sets those of one person closer
    together than it will those of a stranger.
    """
    return mean_D, within_DD * factor, total_DD + within_DD * (factor - 1)
