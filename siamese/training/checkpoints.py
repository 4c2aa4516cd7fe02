"""Checkpoint files: written atomically, read without running code in them."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO

from siamese.errors import DataError
from siamese.files import replacing
from siamese.scoring.networks import UNREADABLE, first_line


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written all or nothing and straight to disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint; its folder is made.

        Raises:
            OSError: it cannot be written; the one before is left as it was.
        """
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, temporary.open("xb") as out:
            try:
                torch.save(checkpoint, out)
            except RuntimeError as error:  # torch tells of a full disk as of positions in a file
                cause = error.__context__
                if not isinstance(cause, OSError):
                    raise
                raise OSError(cause.errno, cause.strerror, str(file)) from None

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A checkpoint to go on from.

        Raises:
            DataError: it is damaged, holds more than plain data, or lacks what going on takes.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            missing = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"} - checkpoint.keys()
        except UNREADABLE as error:
            raise DataError(
                f"{path}: training cannot go on from it ({first_line(error)}); delete it to start anew"
            ) from None
        if missing:
            raise DataError(f"{path}: training cannot go on from it (no {min(missing)}); delete it to start anew")
        return dict(checkpoint)


class WaitingCheckpointIO(AsyncCheckpointIO):
    """Lightning's thread that writes beside the training, one checkpoint at a time.

    A disk that is slower than the training holds it up, instead of filling the memory with what is still to be written.
    """

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the checkpoint before, then hand this one to the thread."""
        if self._executor is not None:
            self._executor.submit(lambda: None).result()
        super().save_checkpoint(*args, **kwargs)


class MemoryCheckpointIO(CheckpointIO):
    """Keeps checkpoints in memory, under the names of files that are never written, links in them resolved."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Keep a copy."""
        self._kept[os.path.realpath(path)] = copy.deepcopy(checkpoint)

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint kept under this name."""
        return self._kept[os.path.realpath(path)]

    def remove_checkpoint(self, path: _PATH) -> None:
        """Forget it."""
        self._kept.pop(os.path.realpath(path), None)
