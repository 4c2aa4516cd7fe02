"""Checkpoint files: written atomically in the background, and read without running code in them."""

from __future__ import annotations

import copy
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO

from siamese.errors import DataError
from siamese.files import replacing
from siamese.scoring.networks import UNREADABLE, first_sentence

NEEDED_TO_RESUME = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"}
"""Keys of a checkpoint without which training cannot be resumed."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, each replaced as a whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint; create its folder if necessary.

        Raises:
            OSError: the file cannot be written; the previous one is unchanged.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("xb") as out:
            try:
                torch.save(checkpoint, out)
            except RuntimeError as error:  # torch hides the reason, such as a full disk, behind an error of its own
                cause = error.__context__
                if not isinstance(cause, OSError):
                    raise
                raise OSError(cause.errno, cause.strerror, str(file)) from None

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to resume from.

        Raises:
            DataError: the file is damaged, holds more than plain data, or lacks one of `NEEDED_TO_RESUME`.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            missing = NEEDED_TO_RESUME - checkpoint.keys()
        except UNREADABLE as error:
            raise DataError(
                f"{path}: cannot resume from this file ({first_sentence(error)}); delete it to start again"
            ) from None
        if missing:
            raise DataError(f"{path}: cannot resume from this file (no {min(missing)}); delete it to start again")
        return dict(checkpoint)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """Writes checkpoints in a thread while training continues, one at a time.

    If the disk is slower than the training, training waits, so that checkpoints do not fill the memory. An error while
    writing is raised by the next `save_checkpoint` or by `teardown`, which Lightning calls when training ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Wait for the previous checkpoint, then start to write this one."""
        self._wait()
        copied = copy.deepcopy(checkpoint)  # training changes the tensors before they are written
        self._pending = self._thread.submit(super().save_checkpoint, copied, path)

    def teardown(self) -> None:
        """Wait for the last checkpoint, and end the thread."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class MemoryCheckpointIO(CheckpointIO):
    """Keeps checkpoints in memory, by the path of a file that is never written (with symbolic links resolved)."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Keep a copy of the checkpoint."""
        self._kept[os.path.realpath(path)] = copy.deepcopy(checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the checkpoint kept under this path."""
        return self._kept[os.path.realpath(path)]

    def remove_checkpoint(self, path: str | Path) -> None:
        """Forget the checkpoint kept under this path."""
        self._kept.pop(os.path.realpath(path), None)
