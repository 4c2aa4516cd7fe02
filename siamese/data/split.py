"""The split of labelled pairs into training and validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from siamese.errors import DataError


def stratified_split(
    labels: NDArray[np.integer], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of (training, validation), each label divided in the same proportion.

    Args:
        labels: [N], any integers.
        fraction: share that goes to validation, in (0, 1); rounded for each label.
        seed: of the choice alone; the same seed and labels give the same split on every machine.

    Returns:
        Two sorted int64 arrays that together hold 0..N-1 once.

    Raises:
        DataError: a part would stay without any pair of a label.
    """
    rng = np.random.default_rng(seed)
    train, validation = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out = round(fraction * len(members))
        if not 0 < held_out < len(members):
            raise DataError(
                f"data.val_fraction={fraction} leaves no pair of label {label} for training or for validation "
                f"({len(members)} usable); give more pairs or another fraction"
            )
        validation.append(members[:held_out])
        train.append(members[held_out:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(validation))
