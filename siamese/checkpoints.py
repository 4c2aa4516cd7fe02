"""Checkpoint files: written atomically, read without running code in them."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from torch import nn

from siamese.config import BackendConfig, TrainConfig
from siamese.errors import DataError
from siamese.files import replacing
from siamese.models.backends import BACKENDS, CohortHead, WeightedL1Head
from siamese.models.build import network_of
from siamese.models.siamese import SiameseNetwork

UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError
)  # fmt: skip
"""What reading a checkpoint raises that is none, is cut short, or holds code."""


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
                f"{path}: training cannot go on from it ({_first_line(error)}); delete it to start anew"
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


def load_network(source: Path | dict[str, Any], config: TrainConfig, dft: bool = False) -> SiameseNetwork:
    """The network of a run with the weights of a checkpoint, on the CPU, in evaluation mode.

    Where the checkpoint has an average of the weights, that is it.

    Args:
        source: a checkpoint file, or what was read from one.
        config: of the run.
        dft: compute costly convolutions through spectra.

    Raises:
        DataError: the file is missing, is no checkpoint, holds more than plain data, or has other weights than
            the configuration describes.
    """
    try:
        checkpoint = source if isinstance(source, dict) else torch.load(source, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
    except FileNotFoundError:
        raise DataError(f"{source}: no such checkpoint; name the folder of a run that kept its weights") from None
    except UNREADABLE as error:
        raise DataError(f"{source}: is no checkpoint that can be loaded safely ({_first_line(error)})") from None
    prefix = "average.module." if "average.n_averaged" in state else "network."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    with torch.device("meta"):  # nothing is allocated or drawn: the checkpoint's tensors become the parameters
        network = network_of(config, dft, pretrained=False)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{source}: its weights do not fit the run's config.yaml ({_first_line(error)})") from None
    return network.eval()


def save_backend(head: nn.Module, file: Path) -> None:
    """Write a fitted head (`siamese.models.backends`) all or nothing; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        torch.save(head.state_dict(), temporary)


def load_backend(file: Path, config: BackendConfig, embedding_dim: int) -> nn.Module:
    """The head that `save_backend` wrote.

    Raises:
        DataError: the file is missing, damaged, or of another kind or size.
    """
    name, bare = config.name, BACKENDS[config.name](embedding_dim)
    head: nn.Module = bare
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        if config.cohort:
            assert not isinstance(bare, WeightedL1Head)
            head = CohortHead(bare, config.cohort, size=len(state["key"]))
        head.load_state_dict(state)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; give backend={name} to eval.py, which fits it anew") from None
    except UNREADABLE as error:
        raise DataError(f"{file}: is no fitted backend={name} ({_first_line(error)}); give it to eval.py") from None
    return head


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split(". ")[0].split())[:300] or type(error).__name__
