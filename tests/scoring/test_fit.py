"""Back ends fitted in blocks of images or pairs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configs import section
from embeddings import D, faces, pairs
from networks import SMALL_KOCH, make_network

from siamese.models.backends import CohortHead
from siamese.scoring import fit

Z, GROUPS = faces(40, 3)


@pytest.mark.parametrize("setting", ["people", "pairs"])
@pytest.mark.parametrize(("name", "cohort"), [("lda", 0), ("plda", 0), ("plda", 10)])
def test_blocks_change_no_score(setting, name, cohort, monkeypatch):
    monkeypatch.setattr(fit, "embed_images", lambda network, pixels, rows, device, bf16, with_crops: Z[rows])
    config = SimpleNamespace(backend=section("backend", name=name, cohort=cohort))
    network = SimpleNamespace(encoder=SimpleNamespace(embedding_dim=D))
    people = [np.flatnonzero(GROUPS.numpy() == person) for person in range(40)]
    different = np.random.default_rng(0).integers(len(Z), size=(80, 2))
    same = np.stack([np.arange(0, 120, 3), np.arange(0, 120, 3) + 1], 1)
    rows = torch.from_numpy(np.concatenate([different, same]))
    train = SimpleNamespace(indices=rows, labels=(GROUPS[rows[:, 0]] == GROUPS[rows[:, 1]]).long())
    data = SimpleNamespace(
        pixels=None, people=people if setting == "people" else None, train=train, cohort=np.arange(0, 120, 3)
    )
    z1, z2, _ = pairs(*faces(20, 3, seed=9), number=50)
    scores = []
    for block in (1000, 8):
        monkeypatch.setattr(fit, "BLOCK", block)
        head = fit.fit_backend(config, network, data, torch.device("cpu"))
        scores.append(head(z1, z2))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-8, atol=1e-8)


def test_a_person_is_in_one_block(monkeypatch):
    monkeypatch.setattr(fit, "BLOCK", 5)
    people = [np.arange(number) for number in (2, 3, 1, 9, 4, 1)]
    found = [[len(images) for images in block] for block in fit._blocks_of_people(people)]
    assert found == [[2, 3], [1], [9], [4, 1]]


@pytest.mark.parametrize("setting", ["people", "pairs"])
def test_an_image_of_the_cohort_and_of_training_is_embedded_once(setting, monkeypatch):
    embedded = []

    def embed_images(network, pixels, rows, device, bf16, with_crops):
        embedded.extend(rows.tolist())
        return Z[rows]

    monkeypatch.setattr(fit, "embed_images", embed_images)
    monkeypatch.setattr(fit, "BLOCK", 8)
    indices = torch.randperm(90, generator=torch.Generator().manual_seed(0)).reshape(-1, 2)
    indices = torch.cat([indices, torch.tensor([[0, 1], [3, 4]])])
    data = SimpleNamespace(
        pixels=None, people=list(np.arange(90).reshape(30, 3)) if setting == "people" else None,
        train=SimpleNamespace(indices=indices, labels=(GROUPS[indices[:, 0]] == GROUPS[indices[:, 1]]).long()),
        cohort=np.arange(1, 120, 3),
    )  # fmt: skip
    config = SimpleNamespace(backend=section("backend", name="plda", cohort=5))
    network = SimpleNamespace(encoder=SimpleNamespace(embedding_dim=D))
    head = fit.fit_backend(config, network, data, torch.device("cpu"))
    assert sorted(embedded) == sorted({*range(90), *range(1, 120, 3)})
    separately = CohortHead(head.head, 5)
    separately.fit([Z[data.cohort]])
    z1, z2, _ = pairs(*faces(20, 3, seed=9), number=50)
    torch.testing.assert_close(head(z1, z2), separately(z1, z2))


def test_a_back_end_is_fitted_without_the_crops_of_crop_average():
    data = SimpleNamespace(
        pixels=torch.randint(256, (24, 1, 65, 65), dtype=torch.uint8), cohort=np.arange(0, 24, 3),
        people=list(np.arange(24).reshape(8, 3)),
    )  # fmt: skip
    config = SimpleNamespace(backend=section("backend", name="plda", cohort=4))
    network = make_network(SMALL_KOCH, 1, 65, objective="ntxent", flip_average=True, crop_average=0.9)

    def fitted(flip_average, crop_average):
        network.flip_average, network.crop_average = flip_average, crop_average
        return fit.fit_backend(config, network, data, torch.device("cpu")).key

    torch.testing.assert_close(fitted(True, 0.9), fitted(True, 1.0), rtol=0, atol=0)
    torch.testing.assert_close(fitted(False, 0.9), fitted(False, 1.0), rtol=0, atol=0)
    assert not torch.allclose(fitted(True, 0.9), fitted(False, 0.9))
