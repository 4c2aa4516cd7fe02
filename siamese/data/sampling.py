"""Which images are in each training batch: listed pairs, pairs formed from names, or groups of images of a person.

The order depends only on the seed and the epoch, so a resumed run gets the same batches as an uninterrupted one.
Lightning calls ``set_epoch``.

Shapes: B pairs in a batch, M images in a batch, P listed pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from siamese.config.sampling import SamplingConfig
from siamese.data.union_find import connected_components

Ints = NDArray[np.int64]


class PairBatchSampler(Sampler[tuple[Tensor, Tensor]]):
    """Batches of listed pairs: (indices int64 [B, 2], labels int64 [B]).

    A last batch of fewer than ``least`` pairs is merged into the one before it, because batch normalization needs at
    least two images.

    Args:
        indices: int64 [P, 2], rows of the image array.
        labels: int64 [P], 1 = same.
        batch_size: pairs per batch.
        shuffle: draw a new order in every epoch.
        seed: seed of the order, together with the epoch.
        least: pairs in the smallest batch.
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
        """Set the epoch, which determines the order of the next iteration."""
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
    """Base class for batches formed from names: an epoch uses each image about once, with a limit per person.

    Args:
        people: the images of each person, int64 [n] each, rows of the image array.
        batch_size: pairs in a batch; a batch of groups has twice as many images.
        sampling: how many images of each person an epoch uses.
        seed: seed of the order, together with the epoch.
    """

    def __init__(self, people: Sequence[Ints], batch_size: int, sampling: SamplingConfig, seed: int) -> None:
        self.people = people
        self.batch_size = batch_size
        self.sampling = sampling
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines what the next iteration draws."""
        self.epoch = epoch

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])


class GroupBatchSampler(PeopleSampler):
    """Batches of groups of ``images_per_person`` images of one person: (rows int64 [M], groups int64 [M]).

    Images with the same group number show the same person. A person's images, at most ``max_images`` in random order,
    are divided into groups. The last group is filled up with images that are already in another group, or in this one
    if there are no others; augmentation then makes the copies different.
    """

    @property
    def _per_batch(self) -> int:
        return max(2, 2 * self.batch_size // self.sampling.images_per_person)

    def __len__(self) -> int:
        size = self.sampling.images_per_person
        groups = sum(-(-min(len(images), self.sampling.max_images) // size) for images in self.people)
        return max(1, groups // self._per_batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches; surplus groups that do not fill a batch are not used in this epoch."""
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
    """Batches of pairs formed from names, new ones in every epoch: (indices int64 [B, 2], labels int64 [B]).

    A same pair consists of two images of a person; each image is in at most one. Different pairs, as many as same
    pairs, consist of images of two people, drawn at random from the images of the epoch.
    """

    def __len__(self) -> int:
        same = sum(min(len(images), self.sampling.max_images) // 2 for images in self.people)
        return max(1, -(-2 * same // self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, both labels mixed; their sizes differ by at most one."""
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
    """Group the images of a batch of labelled pairs by person, using only the labels.

    Images are in one group if a same pair of the batch, or a chain of same pairs, connects them. Names are not used.

    Args:
        indices: int64 [B, 2], rows of the image array.
        labels: int64 [B], 1 = same.

    Returns:
        int64 [2 B]: group numbers of the first images of all pairs, then of the second images.
    """
    pairs = zip(indices.tolist(), labels.tolist(), strict=True)
    group_of = connected_components((first, second) for (first, second), label in pairs if label == 1)
    return torch.tensor([group_of.get(image, image) for image in indices.T.reshape(-1).tolist()])
