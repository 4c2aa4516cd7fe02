"""Images as batches: the LightningDataModule over one uint8 array of all images.

Shapes: N images, P pairs, B pairs in a batch, M images in a batch, C channels, H = W pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from siamese.collective import processes, share
from siamese.config import DataConfig, SamplingConfig, TrainProtocol
from siamese.data.images import ImageArray, load_images
from siamese.data.lists import Pair, People, identities, people_of
from siamese.data.photos import OwnPairs
from siamese.data.sampling import (
    GroupBatchSampler,
    Ints,
    NamedPairSampler,
    PairBatchSampler,
    PeopleSampler,
    groups_of_pairs,
)
from siamese.data.sources import VIEW1, image_root, prepare_data, read_listed
from siamese.data.split import validation_split
from siamese.errors import DataError

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
    """A batch as the network takes it: images float32 [B, C, H, W] in [0, 1], labels float32 [B] (1 = same)."""

    image1: Tensor
    image2: Tensor
    label: Tensor


class GroupBatch(NamedTuple):
    """Images float32 [M, C, H, W] in [0, 1] and their groups int64 [M]: equal ones are the same person.

    ``label``, float32 [P], has the labels of listed pairs, of images p and P + p: P is M / 2 when the batch was made of
    listed pairs, and 0 when it was made by names.
    """

    images: Tensor
    groups: Tensor
    label: Tensor


@dataclass(frozen=True, eq=False)
class PairSet(Dataset[PairIndices]):
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

    def __getitem__(self, rows: Tensor) -> PairIndices:
        return PairIndices(self.indices[rows], self.labels[rows])


class PairsAsGroups(Dataset[GroupIndices]):
    """A `PairSet` whose batches are groups of images of one person, as far as the pairs' labels tell."""

    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, rows: Tensor) -> GroupIndices:
        indices, labels = self.pairs[rows]
        return GroupIndices(indices.T.reshape(-1), groups_of_pairs(indices, labels), labels)


class DrawnPairs(Dataset[PairIndices]):
    """Hands through the pairs that a `NamedPairSampler` draws."""

    def __getitem__(self, drawn: tuple[Tensor, Tensor]) -> PairIndices:
        return PairIndices(*drawn)


class DrawnGroups(Dataset[GroupIndices]):
    """Hands through the groups that a `GroupBatchSampler` draws."""

    def __getitem__(self, drawn: tuple[Tensor, Tensor]) -> GroupIndices:
        return GroupIndices(*drawn, torch.empty(0, dtype=torch.int64))


class BatchLoader(DataLoader[Any]):
    """One item of the data set for each item of the sampler, which is a whole batch already.

    It goes on in the middle of an epoch: Lightning keeps its state in checkpoints.

    Args:
        batches: gives the batch that an item of the sampler stands for.
        sampler: of an epoch.
        limit: batches of an epoch that are given: a number, or a share of them, at least one; None: all.
    """

    def __init__(self, batches: Dataset[Any], sampler: Iterable[Any], limit: int | float | None = None) -> None:
        self._limit = limit
        # batch_size=None: the sampler's batches are taken as they are. No workers: there is nothing to wait for.
        super().__init__(batches, sampler=sampler, batch_size=None)
        self._given = 0  # batches of this epoch
        self._skip = 0  # of the next

    def __len__(self) -> int:
        """The batches of an epoch."""
        whole = super().__len__()
        if self._limit is None:
            return whole
        return min(whole, self._limit) if isinstance(self._limit, int) else max(1, round(self._limit * whole))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of an epoch, or what is left of one."""
        self._given, self._skip = self._skip, 0
        for batch in islice(super().__iter__(), self._given, len(self)):
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch have been given."""
        return {"given": self._given % len(self)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Give only the batches after these, the next time."""
        self._skip = state_dict["given"]


def pair_loader(pairs: PairSet, batch_size: int, shuffle: bool = False, seed: int = 0) -> BatchLoader:
    """Batches of a `PairSet`: (image indices int64 [B, 2], labels int64 [B])."""
    return BatchLoader(pairs, PairBatchSampler(len(pairs), batch_size, shuffle, seed, least=2 * processes()))


class PairDataModule(L.LightningDataModule):
    """A protocol of a data set: pairs for training, validation and test.

    All images are decoded once into a uint8 array (`siamese.data.images`); batches carry indices into it, and
    the images are gathered and turned into floats on the device of the trainer.

    In the restricted setting training sees the listed pairs and their labels, and the names of people are not looked at
    but to keep those of validation apart (``data.split=people``). In the unrestricted one it sees the people that the
    protocol lists, without those of validation, or under ``data.split=pairs`` without the images of validation.

    Args:
        data: which images, and how.
        batch_size: pairs in a batch; a batch of groups has twice as many images.
        seed: of the order.
        progress: show bars while decoding.
        protocol: View 1, a fold of View 2, or what one's own data set holds out.
        groups: give training batches as groups of images of one person instead of as pairs.
        sampling: what an epoch shows of each person in the unrestricted setting.
        test_only: all of one's own data is for the test: ``train`` and ``val`` stay empty.
        limit_batches: of training in an epoch, as of `BatchLoader`.
        overfit_batches: train on so many batches alone, again and again in every epoch.

    Attributes (after ``setup``):
        images: the decoded images and the excluded files; there even when ``setup`` finds nothing usable.
        train, val, test: `PairSet`, of listed pairs.
        people: the rows of the images of each training person; None in the restricted setting.
        cohort: a row of each person that may be trained on, those with too few images too; in the restricted setting
            all rows of the training pairs.
        own: who of one's own photos is in which set; None of LFW's.
    """

    def __init__(
        self,
        data: DataConfig,
        batch_size: int,
        seed: int,
        progress: bool = False,
        protocol: TrainProtocol = VIEW1,
        groups: bool = False,
        sampling: SamplingConfig | None = None,
        test_only: bool = False,
        limit_batches: int | float | None = None,
        overfit_batches: int | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self.protocol = protocol
        self.groups = groups
        self.sampling = sampling or SamplingConfig()
        self.test_only = test_only
        self.limit_batches = limit_batches
        self.overfit_batches = overfit_batches
        self.images = ImageArray([], np.empty((0, 0, 0, 0), np.uint8), {})
        self.people: list[Ints] | None = None
        self.cohort: Ints = np.empty(0, np.int64)
        self.own: OwnPairs | None = None
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._is_set_up = False

    def prepare_data(self) -> None:
        """Render or download what is missing."""
        if not self.test_only:  # what is one's own is there, or is missed below
            prepare_data(self.data, self.progress, self.protocol)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists, decode the images, drop unusable pairs, split; later calls do nothing.

        Raises:
            DataError: a list is malformed, or nothing usable is left of a split.
        """
        if self._is_set_up:
            return
        listed = read_listed(self.data, self.protocol, self.test_only)
        self.own = listed.own
        pairs = {listed.train_list: listed.train, listed.test_list: listed.test}
        if listed.val is not None:
            pairs["validation"] = listed.val
        person = identities([pair for part in pairs.values() for pair in part])
        trained, *others = ({person[name] for pair in part for name in pair[:2]} for part in pairs.values())
        for people, name in zip(others, list(pairs)[1:], strict=True):
            if both := trained & people:
                log.warning(
                    "%d people are in %s and in %s (%s): figures on the latter are too good for strangers",
                    len(both),
                    listed.train_list,
                    name,
                    min(both),
                )
        names = [name for part in pairs.values() for pair in part for name in (pair.image1, pair.image2)]
        names += [name for images_of in (listed.people or {}).values() for name in images_of]
        root = image_root(self.data)
        self.images = images = load_images(root, names, self.data, self.progress)
        usable = {name: _usable(part, images) for name, part in pairs.items()}
        if images.excluded:
            dropped = ", ".join(f"{len(pairs[n]) - len(usable[n])} of {len(pairs[n])} in {n}" for n in pairs)
            log.warning(
                "%d image files unusable, pairs dropped: %s; files and reasons in excluded.csv",
                len(images.excluded),
                dropped,
            )
        for name, part in usable.items():
            if len({pair.label for pair in part}) < 2 and (pairs[name] or name == listed.test_list):
                raise DataError(
                    f"{root}: after dropping unusable images {len(part)} of {len(pairs[name])} pairs of {name} "
                    "are left, and not both of a same and a different pair; check data.root (excluded.csv has "
                    "the reason for each file)" + _example(images)
                )
        row = {name: index for index, name in enumerate(images.names)}
        train_pairs = usable[listed.train_list]
        if listed.val is None:
            kept, held_out = validation_split(train_pairs, self.data)
            val_pairs, train_pairs = [train_pairs[i] for i in held_out], [train_pairs[i] for i in kept]
        else:
            val_pairs = usable["validation"]
        self.train = PairSet.of(train_pairs, row)
        self.val = PairSet.of(val_pairs, row)
        self.test = PairSet.of(usable[listed.test_list], row)
        if listed.people is not None and not self.test_only:
            everybody = self._training_people(listed.people, row)
            self.people = self._with_enough_images(everybody)
            self.cohort = np.array([rows[0] for rows in everybody])
        else:
            self.cohort = np.unique(self.train.indices.numpy())
        self._pixels = torch.from_numpy(images.pixels)
        self._is_set_up = True

    def _training_people(self, people: People, row: dict[str, int]) -> list[Ints]:
        """The rows of the usable images of each person, without what belongs to validation."""
        held_out = {name for pair in self.val.pairs for name in (pair.image1, pair.image2)}
        names = people_of(self.val.pairs) if self.data.split == "people" else set()
        found = [
            np.array([row[image] for image in images if image in row and image not in held_out], dtype=np.int64)
            for name, images in people.items()
            if name not in names
        ]
        return [rows for rows in found if len(rows)]

    def _with_enough_images(self, people: list[Ints]) -> list[Ints]:
        enough = [rows for rows in people if len(rows) >= self.sampling.min_images]
        if len(enough) < 2 or max(map(len, enough)) < 2:
            raise DataError(
                f"{image_root(self.data)}: {len(enough)} people with at least sampling.min_images="
                f"{self.sampling.min_images} usable images are left for training, and there must be two people, one "
                "of them with two images; check data.root (excluded.csv has the reason for each file)"
            )
        return enough

    @property
    def pixels(self) -> Tensor:
        """All images, uint8 [N, C, H, W], on the device last used."""
        return self._pixels

    def train_dataloader(self) -> BatchLoader:
        """Training pairs, or groups, in a new order every epoch."""
        batches: Dataset[Any]
        sampler: Iterable[Any]
        if self.people is not None:
            by_name: type[PeopleSampler] = GroupBatchSampler if self.groups else NamedPairSampler
            sampler = by_name(self.people, self.batch_size, self.sampling, self.seed)
            batches = DrawnGroups() if self.groups else DrawnPairs()
        else:
            batches = PairsAsGroups(self.train) if self.groups else self.train
            least = 2 * processes()
            sampler = PairBatchSampler(len(self.train), self.batch_size, shuffle=True, seed=self.seed, least=least)
        if self.overfit_batches is not None:
            length = len(sampler)  # type: ignore[arg-type]
            sampler = list(islice(cycle(list(islice(sampler, self.overfit_batches))), length))
        return BatchLoader(batches, sampler, self.limit_batches)

    def val_dataloader(self) -> BatchLoader:
        """Validation pairs in order."""
        return pair_loader(self.val, self.batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Test pairs in order."""
        return pair_loader(self.test, self.batch_size)

    def transfer_batch_to_device(
        self, batch: PairIndices | GroupIndices, device: torch.device, dataloader_idx: int
    ) -> PairBatch | GroupBatch:
        """Gather the images of a batch of indices on ``device``; the array is moved there at first use.

        Of several processes that train together each gathers its share of the images; labels and groups are of all.
        """
        if self._pixels.device != device:
            self._pixels = self._pixels.to(device)
        first, *rest = (part.to(device, non_blocking=True) for part in batch)
        first = share(first)
        if isinstance(batch, GroupIndices):
            groups, labels = rest
            return GroupBatch(to_float(self._pixels[first]), groups, labels.float())
        (labels,) = rest
        return PairBatch(to_float(self._pixels[first[:, 0]]), to_float(self._pixels[first[:, 1]]), labels.float())


def to_float(pixels: Tensor) -> Tensor:
    """uint8 in 0..255 -> float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def _usable(pairs: list[Pair], images: ImageArray) -> list[Pair]:
    return [p for p in pairs if p.image1 not in images.excluded and p.image2 not in images.excluded]


def _example(images: ImageArray) -> str:
    for name, reason in images.excluded.items():
        return f"; for example {name}: {reason}"
    return ""
