"""Embeddings drawn from the model that the back ends assume."""

from __future__ import annotations

import numpy as np
import torch

from siamese.models.backends import BACKENDS, covariances_by_groups

D = 6


def faces(people, photos, seed=0):
    """Embeddings [people * photos, D] and people, far from the origin: nearly normal after scaling to length 1.

    People differ in the first three dimensions; images of one person differ most in the last three.
    """
    rng = torch.Generator().manual_seed(seed)
    place = torch.randn(people, 1, D, generator=rng) * torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1])
    noise = torch.randn(people, photos, D, generator=rng) * torch.tensor([0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
    return (place + noise + 20).reshape(-1, D), torch.arange(people).repeat_interleave(photos)


def pairs(z, groups, number=4000, seed=1):
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(z), size=(40 * number, 2))
    rows = rows[rows[:, 0] != rows[:, 1]]
    label = (groups[rows[:, 0]] == groups[rows[:, 1]]).numpy()
    chosen = np.concatenate([np.flatnonzero(label)[: number // 2], np.flatnonzero(~label)[: number // 2]])
    return z[rows[chosen, 0]], z[rows[chosen, 1]], torch.from_numpy(label[chosen].astype(np.int64))


def fitted(name, shrinkage=1e-3):
    z, groups = faces(400, 5)
    head = BACKENDS[name](D)
    if name == "l1":
        head.fit(*pairs(z, groups), shrinkage)
    else:
        head.fit(*covariances_by_groups([(z, groups)]), shrinkage)
    return head
