"""What a batch holds: listed pairs, pairs formed by names, or several images of many people.

Every order depends on the seed and the epoch alone, so a resumed run sees what an undisturbed one sees; Lightning calls
``set_epoch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from siamese.config.schema import SamplingConfig
from siamese.data.connected import connected

Ints = NDArray[np.int64]


class PairBatchSampler(Sampler[tuple[Tensor, Tensor]]):
    """Batches of listed pairs: (indices int64 [B, 2], labels int64 [B]).

    A last batch of fewer than ``least`` pairs is merged into the one before it, because batch normalization needs at
    least two images.

    Args:
        indices: int64 [P, 2], rows of the image array.
        labels: int64 [P], 1 = same.
        batch_size: pairs per batch.
        shuffle: in a new order every epoch.
        seed: with the epoch decides the order.
        least: pairs of the smallest batch.
    """

    def __init__(
        self, indices: Tensor, labels: Tensor, batch_size: int, shuffle: bool = False, seed: int = 0, least: int = 2
    ) -> None:
        self.indices = indices
        self.labels = labels
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        full, rest = divmod(len(labels), batch_size)
        self.sizes = [batch_size] * full + [rest] * (rest > 0)
        if 0 < rest < least and full:
            self.sizes[-2:] = [batch_size + rest]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches."""
        rows = np.arange(len(self.labels))
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(rows)
        for chosen in torch.from_numpy(rows).split(self.sizes):
            yield self.indices[chosen], self.labels[chosen]


class PeopleSampler(Sampler[tuple[Tensor, Tensor]]):
    """What samplers by name share: an epoch shows about each image once, those of much photographed people less often.

    Args:
        people: the images of each person, int64 [n] each, rows of the image array.
        batch_size: pairs in a batch, which is half of its images.
        sampling: what an epoch shows of each person.
        seed: with the epoch decides the order.
    """

    def __init__(self, people: Sequence[Ints], batch_size: int, sampling: SamplingConfig, seed: int) -> None:
        self.people = people
        self.batch_size = batch_size
        self.sampling = sampling
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration draws."""
        self.epoch = epoch

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


class GroupBatchSampler(PeopleSampler):
    """Batches of (rows int64 [M], groups int64 [M]): ``images_per_person`` images of each of many people.

    A person's images, at most ``max_images`` of them and in random order, are dealt into groups of that size; the last
    group is filled up with others of the person, or where there are too few with the same ones again, which
    augmentation then makes different. Equal groups mean the same person.
    """

    @property
    def _per_batch(self) -> int:
        return max(2, 2 * self.batch_size // self.sampling.images_per_person)

    def __len__(self) -> int:
        size = self.sampling.images_per_person
        groups = sum(-(-min(len(images), self.sampling.max_images) // size) for images in self.people)
        return max(1, groups // self._per_batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches; groups that do not fill one more are left to other epochs."""
        rng, size = self._rng(), self.sampling.images_per_person
        rows, owners = [], []
        for person, images in enumerate(self.people):
            shown = rng.permutation(images)[: self.sampling.max_images]
            chunks = -(-len(shown) // size)
            rows.append(np.resize(shown, (chunks, size)))
            owners += [person] * chunks
        dealt, owner = np.concatenate(rows), np.array(owners)
        order = rng.permutation(len(dealt))
        for batch in range(len(self)):
            chosen = order[batch * self._per_batch : (batch + 1) * self._per_batch]
            yield torch.from_numpy(dealt[chosen].ravel()), torch.from_numpy(owner[chosen].repeat(size))


class NamedPairSampler(PeopleSampler):
    """Batches of (indices int64 [B, 2], labels int64 [B]) of pairs formed by names, new ones every epoch.

    The same pairs are two images of a person, each image in one pair at most; the different ones, as many, are images
    of two people, drawn at random from those that the epoch shows.
    """

    def __len__(self) -> int:
        same = sum(min(len(images), self.sampling.max_images) // 2 for images in self.people)
        return max(1, -(-2 * same // self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, both labels mixed; sizes differ by one at most."""
        rng = self._rng()
        shown = [rng.permutation(images)[: self.sampling.max_images] for images in self.people]
        same = np.concatenate([images[: len(images) // 2 * 2].reshape(-1, 2) for images in shown])
        rows = np.concatenate(shown)
        owner = np.repeat(np.arange(len(shown)), [len(images) for images in shown])
        different = np.empty((0, 2), np.int64)
        while len(different) < len(same):
            drawn = rng.integers(len(rows), size=(len(same), 2))
            different = np.concatenate([different, rows[drawn[owner[drawn[:, 0]] != owner[drawn[:, 1]]]]])
        pairs = np.concatenate([same, different[: len(same)]])
        labels = np.repeat([1, 0], len(same))
        order = rng.permutation(len(pairs))
        for chosen in np.array_split(order, len(self)):
            yield torch.from_numpy(pairs[chosen]), torch.from_numpy(labels[chosen])


def groups_of_pairs(indices: Tensor, labels: Tensor) -> Tensor:
    """Which images of a batch of labelled pairs are of one person as far as the labels tell.

    Images are of one person when a same pair of the batch says so, or a chain of them; no name is looked at.

    Args:
        indices: int64 [B, 2], rows of the image array.
        labels: int64 [B], 1 = same.

    Returns:
        int64 [2 B]: the groups of the first images of all pairs, then of the second ones.
    """
    pairs = zip(indices.tolist(), labels.tolist(), strict=True)
    group_of = connected((first, second) for (first, second), label in pairs if label == 1)
    return torch.tensor([group_of.get(image, image) for image in indices.T.reshape(-1).tolist()])
