"""Back ends written to a file and loaded again."""

from __future__ import annotations

import pytest
import torch
from configs import section
from embeddings import D, faces, fitted, pairs

from siamese.errors import DataError
from siamese.models.backends import BACKENDS, CohortHead
from siamese.scoring.networks import load_backend, save_backend


@pytest.mark.parametrize(("name", "cohort"), [*((name, 0) for name in BACKENDS), ("lda", 5), ("plda", 5)])
def test_a_back_end_comes_back_from_its_file(name, cohort, tmp_path):
    head, config = fitted(name), section("backend", name=name, cohort=cohort)
    if cohort:
        head = CohortHead(head, cohort)
        head.fit(faces(30, 1, seed=5)[0])
    save_backend(head, tmp_path / "checkpoints/backend.ckpt")
    again = load_backend(tmp_path / "checkpoints/backend.ckpt", config, D)
    z1, z2, _ = pairs(*faces(20, 3), number=20)
    assert torch.equal(again(z1, z2), head(z1, z2))
    with pytest.raises(DataError, match=f"not a fitted backend={name}"):
        load_backend(tmp_path / "checkpoints/backend.ckpt", config, D + 1)
    with pytest.raises(DataError, match="no such file"):
        load_backend(tmp_path / "other.ckpt", config, D)
    if name != "l1":
        other = section("backend", name=name, cohort=0 if cohort else 5)
        with pytest.raises(DataError, match=f"not a fitted backend={name}"):
            load_backend(tmp_path / "checkpoints/backend.ckpt", other, D)


@pytest.mark.parametrize(("name", "cohort", "message"), [("l1", 100, "not for l1"), ("plda", 1, "2 or more")])
def test_an_impossible_cohort_is_an_error(name, cohort, message):
    with pytest.raises(ValueError, match=message):
        section("backend", name=name, cohort=cohort)
