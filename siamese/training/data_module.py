"""Batches for Lightning: the samplers give rows of the image array; then the images are gathered.

If all images fit on the trainer's GPU, they are moved there once, and gathered there. Otherwise a thread reads those of
the next batches from disk.

Shapes: B pairs in a batch, M images in a batch, P listed pairs in a batch of groups, C channels, H = W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice, starmap
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from siamese.config.sampling import SamplingConfig
from siamese.data.dataset import PairDataset, PairSet, to_float
from siamese.data.pixels import Images, Pixels
from siamese.data.sampling import GroupBatchSampler, NamedPairSampler, PairBatchSampler, groups_of_pairs
from siamese.parallel import in_order
from siamese.training.processes.collective import processes, share

log = logging.getLogger(__name__)


class PairIndices(NamedTuple):
    """A batch of pairs before its images are gathered: int64 [B, 2] rows of the image array, labels int64 [B]."""

    indices: Tensor
    labels: Tensor


class GroupIndices(NamedTuple):
    """A batch of groups before its images are gathered: rows int64 [M], groups int64 [M], labels as in `GroupBatch`."""

    rows: Tensor
    groups: Tensor
    labels: Tensor


class PairBatch(NamedTuple):
    """A batch of pairs: images float32 [B, C, H, W] in [0, 1], labels float32 [B] (1 = same).

    Until it is on the device, the images are uint8, and the labels int64. So it is for `GroupBatch`.
    """

    image1: Tensor
    image2: Tensor
    label: Tensor


class GroupBatch(NamedTuple):
    """Images float32 [M, C, H, W] in [0, 1] and their groups int64 [M]; images of one group show the same person.

    ``label``, float32 [P], holds the labels of the listed pairs; pair p consists of images p and P + p. P is M / 2 if
    the batch was made of listed pairs, and 0 if it was made by names.
    """

    images: Tensor
    groups: Tensor
    label: Tensor


Indices = PairIndices | GroupIndices
Batch = PairBatch | GroupBatch

ON_GPU = 0.5
"""Largest share of a GPU's free memory that the images may take."""

ON_GPU_PAIRS = 512
"""Validation pairs in a batch on a GPU, where a smaller batch takes as long; at most four times ``batch_size``."""


class BatchLoader:
    """Yields an epoch's batches of indices; can be resumed within an epoch, as Lightning saves its state.

    It is not a ``DataLoader``: the samplers yield whole batches of indices, so nothing is collated.

    Args:
        sampler: yields the tensors of each batch; Lightning calls its ``set_epoch``.
        as_batch: makes the batch from these tensors.
        limit: batches per epoch, as a number or as a fraction (at least one batch); None for all.
        gather: reads the images of a batch, in a thread, a few batches ahead; None: yield indices.
    """

    def __init__(
        self, sampler: Iterable[Any], as_batch: Callable[..., Indices], limit: int | float | None = None,
        gather: Callable[[Indices], Batch] | None = None,
    ) -> None:  # fmt: skip
        self.sampler = sampler
        self.batch_sampler = None  # Lightning reads this attribute of a DataLoader
        self._as_batch = as_batch
        self._gather = gather
        whole = len(sampler)  # type: ignore[arg-type]
        if isinstance(limit, float):
            self._length = max(1, round(limit * whole))
        else:
            self._length = whole if limit is None else min(whole, limit)
        self._given = 0  # batches given in this epoch
        self._skip = 0  # batches to skip in the next epoch

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._length

    def __iter__(self) -> Iterator[Indices | Batch]:
        """Yield the batches of an epoch, or the remaining ones of an interrupted epoch."""
        self._given, self._skip = self._skip, 0
        batches: Iterator[Any] = starmap(self._as_batch, islice(self.sampler, self._given, self._length))
        if self._gather is not None:
            batches = in_order(self._gather, batches, workers=1)
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been given."""
        return {"given": self._given % len(self)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Skip the batches given before in the next epoch."""
        self._skip = state_dict["given"]


class PairDataModule(L.LightningDataModule):
    """The training and validation batches of a `PairDataset`.

    Args:
        dataset: images and pairs.
        batch_size: pairs per batch; a batch of groups has twice as many images.
        seed: seed of the order of the training batches.
        groups: make training batches of images grouped by person instead of pairs.
        chain_pairs: group the images of listed pairs by `groups_of_pairs`; False: each image is a group.
        sampling: how an epoch samples images of each person; needed only in the unrestricted setting.
        limit_batches: training batches per epoch, as ``limit`` of `BatchLoader`.
        overfit_batches: train on this many batches only, repeated until the epoch has its usual length.
    """

    def __init__(
        self,
        dataset: PairDataset,
        batch_size: int,
        seed: int,
        groups: bool = False,
        chain_pairs: bool = True,
        sampling: SamplingConfig | None = None,
        limit_batches: int | float | None = None,
        overfit_batches: int | None = None,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.groups = groups
        self.chain_pairs = chain_pairs
        self.sampling = sampling
        self.limit_batches = limit_batches
        self.overfit_batches = overfit_batches

    def setup(self, stage: str) -> None:
        """Move the images to the trainer's GPU if they fit."""
        if self.trainer is not None:
            self.dataset.pixels = on_device(self.dataset.pixels, self.trainer.strategy.root_device)

    def train_dataloader(self) -> BatchLoader:
        """Return the loader of training batches, in a new order every epoch."""
        sampler: Iterable[Any]
        if self.dataset.people is None:
            train, least = self.dataset.train, 2 * processes()
            sampler = PairBatchSampler(train.indices, train.labels, self.batch_size, True, self.seed, least)
            of_listed = _listed_groups if self.chain_pairs else _listed_images
            as_batch: Callable[..., Indices] = of_listed if self.groups else PairIndices
        else:
            assert self.sampling is not None
            by_name = GroupBatchSampler if self.groups else NamedPairSampler
            sampler = by_name(self.dataset.people, self.batch_size, self.sampling, self.seed)
            as_batch = _named_groups if self.groups else PairIndices
        if self.overfit_batches is not None:
            length = len(sampler)
            sampler = list(islice(cycle(list(islice(sampler, self.overfit_batches))), length))
        return BatchLoader(sampler, as_batch, self.limit_batches, self._reader())

    def val_dataloader(self) -> BatchLoader:
        """Return the loader of validation pairs, in order."""
        return self._in_order(self.dataset.val)

    def test_dataloader(self) -> BatchLoader:
        """Return the loader of test pairs, in order."""
        return self._in_order(self.dataset.test)

    def transfer_batch_to_device(
        self, batch: Indices | Batch, device: torch.device, dataloader_idx: int
    ) -> PairBatch | GroupBatch:
        """Move a batch to ``device``, and gather its images there if they have not been read before."""
        moved = _moved(batch, device)
        gathered = self._gather(moved) if isinstance(moved, Indices) else moved
        if isinstance(gathered, GroupBatch):
            return GroupBatch(to_float(gathered.images), gathered.groups, gathered.label.float())
        return PairBatch(to_float(gathered.image1), to_float(gathered.image2), gathered.label.float())

    def _gather(self, batch: Indices) -> Batch:
        """Gather the images of a batch.

        If several processes train together, each gathers only its share of the images, but all labels and groups.
        """
        pixels = self.dataset.pixels
        if isinstance(batch, GroupIndices):
            return GroupBatch(pixels[share(batch.rows)], batch.groups, batch.labels)
        indices = share(batch.indices)
        return PairBatch(pixels[indices[:, 0]], pixels[indices[:, 1]], batch.labels)

    def _reader(self) -> Callable[[Indices], Batch] | None:
        """What reads the images of a batch ahead; None if they are on the device."""
        if not isinstance(self.dataset.pixels, Pixels):
            return None
        if self.trainer is None or self.trainer.strategy.root_device.type != "cuda":
            return self._gather
        return lambda batch: _pinned(self._gather(batch))

    def _in_order(self, pairs: PairSet) -> BatchLoader:
        gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        size = max(self.batch_size, min(ON_GPU_PAIRS, 4 * self.batch_size)) if gpu else self.batch_size
        sampler = PairBatchSampler(pairs.indices, pairs.labels, size, least=2 * processes())
        return BatchLoader(sampler, PairIndices, gather=self._reader())


def _listed_groups(indices: Tensor, labels: Tensor) -> GroupIndices:
    return GroupIndices(indices.T.reshape(-1), groups_of_pairs(indices, labels), labels)


def _listed_images(indices: Tensor, labels: Tensor) -> GroupIndices:
    """A batch in which only the labels say which images show the same person."""
    rows = indices.T.reshape(-1)
    return GroupIndices(rows, rows, labels)


def _named_groups(rows: Tensor, groups: Tensor) -> GroupIndices:
    return GroupIndices(rows, groups, torch.empty(0, dtype=torch.int64))


def on_device(pixels: Images, device: torch.device) -> Images:
    """Return images where training gathers its batches: on ``device``, or on disk if they would not fit."""
    if device.type != "cuda" or not isinstance(pixels, Pixels):
        return pixels
    size, free = math.prod(pixels.shape), torch.cuda.mem_get_info(device)[0]
    fits = size <= ON_GPU * free
    log.info(
        "images: %.1f GB, %s (free on the GPU: %.1f GB)", size / 1e9,
        "all on the GPU" if fits else "read from the cache batch by batch", free / 1e9,
    )  # fmt: skip
    return pixels.to(device) if fits else pixels


def _moved(batch: Indices | Batch, device: torch.device) -> Indices | Batch:
    return type(batch)(*(part.to(device, non_blocking=True) for part in batch))


def _pinned(batch: Batch) -> Batch:
    return type(batch)(*(part.pin_memory() for part in batch))
