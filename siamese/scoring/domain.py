"""The file of a run by which photos are compared with its training images (`siamese.evaluation.domain`)."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import torch

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.errors import DataError, reason_of
from siamese.evaluation.domain import FORMAT, Domain, features, fit_domain
from siamese.files import replacing, write_bytes_atomically
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder

log = logging.getLogger(__name__)

IMAGES = 1000
"""Training images that are described. More take longer and change little (docs/using-a-model.md)."""

BLOCK = 8
"""Images that are described at once: faster than one by one, while their edges fit into the processor's cache."""


def record_domain(config: TrainConfig, data: PairDataset, folder: RunFolder, start: FinishedRun | None = None) -> None:
    """Write ``checkpoints/domain.npz`` from the training images, unless the run keeps no weights.

    If nothing is trained, they are those of ``start``, the run of ``start_from``.
    """
    if config.checkpoint.keep == "none":
        return
    try:
        if start is None or config.max_epochs > 0:
            _record(data, folder)
        elif start.folder.domain.is_file():
            write_bytes_atomically(folder.domain, start.folder.domain.read_bytes())
    except Exception:  # a failure must not cost the result of a trained network
        log.exception("could not describe the training images: verify will not notice photos that are unlike them")


def _record(data: PairDataset, folder: RunFolder) -> None:
    rows, person_N = data.training_images(IMAGES)
    blocks = torch.from_numpy(rows).split(BLOCK)
    described = np.concatenate([features(data.pixels[block].cpu().numpy()) for block in blocks])
    domain = fit_domain(described, person_N)
    folder.domain.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder.domain) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, format=np.array(FORMAT), **domain._asdict())


def load_domain(file: Path) -> Domain | None:
    """Load what `record_domain` wrote; None if there is no such file, or if another version wrote it.

    Raises:
        DataError: the file is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Domain(*(arrays[name] for name in Domain._fields)) if arrays["format"] == FORMAT else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{file}: cannot be read ({reason_of(error)}); restore it, or delete it to verify without checking whether "
            "photos are like the training images"
        ) from None
