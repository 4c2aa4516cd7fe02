"""Pairs as batches: the LightningDataModule over one uint8 array of all images.

Shapes: N images, P pairs, B pairs in a batch, C channels, H = W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from siamese.config import DataConfig
from siamese.data.images import ImageArray, load_images
from siamese.data.lists import Pair
from siamese.data.sources import TEST_LIST, TRAIN_LIST, image_root, prepare_data, read_view1
from siamese.data.split import stratified_split
from siamese.errors import DataError

log = logging.getLogger(__name__)


IndexBatch = tuple[Tensor, Tensor]


class PairBatch(NamedTuple):
    """A batch as the network takes it: images float32 [B, C, H, W] in [0, 1], labels float32 [B] (1 = same)."""

    image1: Tensor
    image2: Tensor
    label: Tensor


@dataclass(frozen=True, eq=False)
class PairSet(Dataset[IndexBatch]):
    """The usable pairs of one split: indices int64 [P, 2] into the images, labels int64 [P], names kept beside."""

    pairs: list[Pair]
    indices: Tensor
    labels: Tensor

    @classmethod
    def of(cls, pairs: Sequence[Pair], row: dict[str, int]) -> PairSet:
        """Look the images of each pair up in ``row`` (image name -> index)."""
        indices = [[row[pair.image1], row[pair.image2]] for pair in pairs]
        return cls(
            pairs=list(pairs),
            indices=torch.tensor(indices, dtype=torch.int64).reshape(-1, 2),
            labels=torch.tensor([pair.label for pair in pairs], dtype=torch.int64),
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: Tensor) -> IndexBatch:
        return self.indices[rows], self.labels[rows]


class PairBatchSampler(Sampler[Tensor]):
    """Rows of a `PairSet`, a batch at a time.

    The order of an epoch depends on the seed and the epoch alone, so a resumed run sees what an undisturbed one
    sees; Lightning calls ``set_epoch``. A last batch of a single pair joins the one before it: batch
    normalization has no statistics of one.
    """

    def __init__(self, pairs: int, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        self.pairs = pairs
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        full, rest = divmod(pairs, batch_size)
        self.sizes = [batch_size] * full + [rest] * (rest > 0)
        if rest == 1 and full:
            self.sizes[-2:] = [batch_size + 1]

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield int64 [B]."""
        rows = np.arange(self.pairs)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(rows)
        yield from torch.from_numpy(rows).split(self.sizes)


def pair_loader(pairs: PairSet, batch_size: int, shuffle: bool = False, seed: int = 0) -> DataLoader[IndexBatch]:
    """Batches of a `PairSet`: (image indices int64 [B, 2], labels int64 [B])."""
    sampler = PairBatchSampler(len(pairs), batch_size, shuffle, seed)
    # batch_size=None: the sampler's batches are taken as they are. No workers: there is nothing to wait for.
    return DataLoader(pairs, sampler=sampler, batch_size=None)


class PairDataModule(L.LightningDataModule):
    """View 1 of a data set in LFW's layout: pairs for training, validation and test.

    All images are decoded once into a uint8 array (`siamese.data.images`); batches carry indices into it, and
    the images are gathered and turned into floats on the device of the trainer.

    Attributes (after ``setup``):
        images: the decoded images and the excluded files; there even when ``setup`` finds nothing usable.
        train, val, test: `PairSet`.
    """

    def __init__(self, data: DataConfig, batch_size: int, seed: int, progress: bool = False) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self.images = ImageArray([], np.empty((0, 0, 0, 0), np.uint8), {})
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._is_set_up = False

    def prepare_data(self) -> None:
        """Render or download what is missing."""
        prepare_data(self.data, self.progress)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists, decode the images, drop unusable pairs, split; later calls do nothing.

        Raises:
            DataError: a list is malformed, or nothing usable is left of a split.
        """
        if self._is_set_up:
            return
        listed = dict(zip((TRAIN_LIST, TEST_LIST), read_view1(self.data), strict=True))
        names = [name for pairs in listed.values() for pair in pairs for name in (pair.image1, pair.image2)]
        root = image_root(self.data)
        self.images = images = load_images(root, names, self.data, self.progress)
        usable = {name: _usable(pairs, images) for name, pairs in listed.items()}
        if images.excluded:
            dropped = ", ".join(f"{len(listed[n]) - len(usable[n])} of {len(listed[n])} in {n}" for n in listed)
            log.warning(
                "%d image files unusable, pairs dropped: %s; files and reasons in excluded.csv",
                len(images.excluded),
                dropped,
            )
        for name, pairs in usable.items():
            if len({pair.label for pair in pairs}) < 2:
                raise DataError(
                    f"{root}: after dropping unusable images {len(pairs)} of {len(listed[name])} pairs of {name} "
                    "are left, and not both of a same and a different pair; check data.root (excluded.csv has "
                    "the reason for each file)" + _example(images)
                )
        row = {name: index for index, name in enumerate(images.names)}
        train_pairs = usable[TRAIN_LIST]
        labels = np.array([pair.label for pair in train_pairs])
        kept, held_out = stratified_split(labels, self.data.val_fraction, self.data.split_seed)
        self.train = PairSet.of([train_pairs[i] for i in kept], row)
        self.val = PairSet.of([train_pairs[i] for i in held_out], row)
        self.test = PairSet.of(usable[TEST_LIST], row)
        self._pixels = torch.from_numpy(images.pixels)
        self._is_set_up = True

    @property
    def pixels(self) -> Tensor:
        """All images, uint8 [N, C, H, W], on the device last used."""
        return self._pixels

    def train_dataloader(self) -> DataLoader[IndexBatch]:
        """Training pairs in a new order every epoch."""
        return pair_loader(self.train, self.batch_size, shuffle=True, seed=self.seed)

    def val_dataloader(self) -> DataLoader[IndexBatch]:
        """Validation pairs in order."""
        return pair_loader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[IndexBatch]:
        """Test pairs in order."""
        return pair_loader(self.test, self.batch_size)

    def transfer_batch_to_device(self, batch: IndexBatch, device: torch.device, dataloader_idx: int) -> PairBatch:
        """Gather the images of a batch of indices on ``device``; the array is moved there at first use."""
        if self._pixels.device != device:
            self._pixels = self._pixels.to(device)
        indices, labels = (part.to(device, non_blocking=True) for part in batch)
        return PairBatch(to_float(self._pixels[indices[:, 0]]), to_float(self._pixels[indices[:, 1]]), labels.float())


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def _usable(pairs: list[Pair], images: ImageArray) -> list[Pair]:
    return [p for p in pairs if p.image1 not in images.excluded and p.image2 not in images.excluded]


def _example(images: ImageArray) -> str:
    for name, reason in images.excluded.items():
        return f"; for example {name}: {reason}"
    return ""
