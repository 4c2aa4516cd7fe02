"""Fit a back end to the embeddings of the training images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.data.sampling import NamedPairSampler
from siamese.models.backends import (
    BACKENDS,
    CohortHead,
    LdaHead,
    PldaHead,
    WeightedL1Head,
    covariances_by_groups,
    covariances_by_pairs,
    widened,
)
from siamese.models.siamese import SiameseNetwork
from siamese.scoring.scores import embed_images

Ints = NDArray[np.int64]

BLOCK = 16_384
"""Images, or pairs, whose statistics are computed at once. All of LFW is one block."""


def fit_backend(
    config: TrainConfig, network: SiameseNetwork, data: PairDataset, device: torch.device, bf16: bool = False
) -> nn.Module:
    """Return a head fitted to the embeddings of the training images.

    It is fitted to the listed pairs in the restricted setting, and to the people in the unrestricted one. With
    ``backend.cohort`` its scores are normalized by those with the images of ``data.cohort``.

    ``crop_average`` does not apply here. The embeddings of images that the network was trained on vary too little
    within a person, and a mean over fewer views varies more. It also embeds fewer views.

    Args:
        config: configuration of the run; ``backend`` chooses the head.
        network: left in evaluation mode, on ``device``.
        data: the training images.
        device: device to compute on.
        bf16: compute embeddings under bf16 autocast.

    Returns:
        the head, on ``device``.
    """
    cohort = torch.from_numpy(data.cohort)
    known: list[tuple[Tensor, Tensor]] = []  # rows of the cohort among the training images, and their embeddings

    def embed(rows_B: Tensor) -> Tensor:
        z_BD = embed_images(network, data.pixels, rows_B, device, bf16, with_crops=False)
        if config.backend.cohort:
            inside_B = torch.isin(rows_B, cohort)
            known.append((rows_B[inside_B], z_BD[inside_B.to(device)]))
        return z_BD

    head = _fit_head(config, network.encoder.embedding_dim, data, embed, device)
    if not config.backend.cohort:
        return head
    assert not isinstance(head, WeightedL1Head)
    relative = CohortHead(head, config.backend.cohort).to(device)
    others = cohort[~torch.isin(cohort, torch.cat([rows_B for rows_B, _ in known]))]
    relative.fit(chain([z_BD for _, z_BD in known], map(embed, others.split(BLOCK))))
    return relative


def _fit_head(
    config: TrainConfig, embedding_dim: int, data: PairDataset, embed: Callable[[Tensor], Tensor], device: torch.device
) -> WeightedL1Head | LdaHead | PldaHead:
    backend = config.backend
    head = BACKENDS[backend.name](embedding_dim)

    def fitted(statistics: tuple[Tensor, Tensor, Tensor]) -> LdaHead | PldaHead:
        # On the CPU: for the decompositions of a few matrices, a GPU would load its library for a second.
        assert not isinstance(head, WeightedL1Head)
        mean_D, within_DD, total_DD = (some.cpu() for some in widened(*statistics, backend.within))
        head.fit(mean_D, within_DD, total_DD, backend.shrinkage)
        return head.to(device)

    if data.people is not None and not isinstance(head, WeightedL1Head):
        embedded = (
            (embed(torch.from_numpy(np.concatenate(people))),
             torch.repeat_interleave(torch.tensor([len(images) for images in people])))
            for people in _blocks_of_people(data.people)
        )  # fmt: skip
        return fitted(covariances_by_groups(embedded))
    indices, labels = data.train.indices, data.train.labels
    if data.people is not None:
        # All pairs of an epoch as one batch.
        ((indices, labels),) = NamedPairSampler(data.people, 2 * len(data.pixels), config.sampling, config.seed)
    distinct, position = torch.unique(indices, return_inverse=True)
    z_ND = embed(distinct).clone()  # inference tensors cannot be trained on
    position, labels = position.to(device), labels.to(device)
    if isinstance(head, WeightedL1Head):
        head.fit(z_ND[position[:, 0]], z_ND[position[:, 1]], labels, backend.shrinkage)
        return head.to(device)
    pairs = zip(position.split(BLOCK), labels.split(BLOCK), strict=True)
    embedded_pairs = ((z_ND[rows[:, 0]], z_ND[rows[:, 1]], label) for rows, label in pairs)
    return fitted(covariances_by_pairs(embedded_pairs))


def _blocks_of_people(people: Sequence[Ints]) -> Iterator[list[Ints]]:
    """Divide people into blocks of about `BLOCK` images, without dividing a person."""
    block: list[Ints] = []
    number = 0
    for images in people:
        if block and number + len(images) > BLOCK:
            yield block
            block, number = [], 0
        block.append(images)
        number += len(images)
    yield block
