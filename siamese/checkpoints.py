"""Checkpoint files: written atomically, read without running code in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from siamese.config import TrainConfig, to_plain
from siamese.errors import DataError
from siamese.files import replacing
from siamese.models.build import build_network
from siamese.models.siamese import SiameseNetwork


def save_atomically(checkpoint: dict[str, Any], file: Path) -> None:
    """Write a checkpoint all or nothing."""
    with replacing(file) as temporary:
        torch.save(checkpoint, temporary)


def load_network(file: Path, config: TrainConfig) -> SiameseNetwork:
    """The network of a run with the weights of a checkpoint, on the CPU, in evaluation mode.

    Raises:
        DataError: the file is missing, is no checkpoint, holds more than plain data, or has other weights than
            the configuration describes.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except FileNotFoundError:
        raise DataError(f"{file}: no such checkpoint; name the folder of a finished run") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is no checkpoint that can be loaded safely ({_first_line(error)})") from None
    prefix = "network."
    weights = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    network = build_network(to_plain(config.model), config.data.channels, config.data.image_size)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{file}: its weights do not fit the run's config.yaml ({_first_line(error)})") from None
    return network.eval()


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split(". ")[0].split())[:300] or type(error).__name__
