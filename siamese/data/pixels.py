"""The images of a data set as an array that is read from disk, image by image, when it is indexed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese.data.shards import DamagedError, Shard

BLOCK = 1024
"""Images that are read at a time when all are moved to a device."""


class Pixels:
    """Images uint8 [N, C, H, W] on disk. Indexing by rows gives a tensor in memory, as indexing a tensor does.

    The checksum of an image is verified when it is first read.

    Args:
        shape: C, H, W.
        shards: the shards that hold the images; a damaged one is replaced in this list.
        place: int64 [N, 2], the number of the shard of each image, and its row there.
        repair: called with a damaged shard and the reason; returns the same shard rebuilt, or raises DataError.

    Attributes:
        shape: N, C, H, W.
        device: the CPU: where indexed images are.
    """

    device = torch.device("cpu")

    def __init__(
        self, shape: tuple[int, int, int], shards: list[Shard], place: NDArray[np.int64],
        repair: Callable[[Shard, str], Shard],
    ) -> None:  # fmt: skip
        self.shape = torch.Size((len(place), *shape))
        self._shards = shards
        self._place = place
        self._repair = repair
        self._checked = np.zeros(len(place), bool)

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return images uint8 [..., C, H, W] for rows int64 [...]; raises DataError if a shard cannot be rebuilt."""
        wanted = rows.reshape(-1).tolist()
        found = np.empty((len(wanted), self.shape[1:].numel()), np.uint8)
        for image, row in zip(found, wanted, strict=True):
            image[:] = self._read(row)[: len(image)]
        return torch.from_numpy(found).reshape(*rows.shape, *self.shape[1:])

    def to(self, device: torch.device | str) -> Tensor:
        """Return all images as a tensor on a device."""
        everything = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for rows in torch.arange(len(self)).split(BLOCK):
            everything[rows[0] : rows[-1] + 1] = self[rows].to(device)
        return everything

    def only(self, rows: Sequence[int]) -> Pixels:
        """Return the images of some rows, in their order."""
        _, channels, height, width = self.shape
        return Pixels((channels, height, width), self._shards, self._place[list(rows)], self._repair)

    def thumbnails(self) -> NDArray[np.uint8]:
        """Return the thumbnails of all images for `siamese.data.copies`, uint8 [N, SIDE * SIDE]."""
        start = self.shape[1:].numel()
        return np.stack([self._read(row)[start:] for row in range(len(self))])

    def _read(self, row: int) -> NDArray[np.uint8]:
        number, place = self._place[row].tolist()
        check = not self._checked[row]
        try:
            data: NDArray[np.uint8] = self._shards[number].read(place, check)
        except DamagedError as error:
            self._shards[number] = self._repair(self._shards[number], str(error))
            data = self._shards[number].read(place, check)
        self._checked[row] = True
        return data


Images = Pixels | Tensor
"""Images uint8 [N, C, H, W]: on disk, or in the memory of a device."""
