"""Networks and back ends loaded from their files; damaged files and code in them are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from configs import section
from embeddings import D, faces, fitted, pairs

from siamese.errors import DataError
from siamese.models.backends import BACKENDS, CohortHead
from siamese.scoring.networks import load_backend, load_network, save_backend


@pytest.mark.parametrize(("name", "cohort"), [*((name, 0) for name in BACKENDS), ("lda", 5), ("plda", 5)])
def test_a_back_end_comes_back_from_its_file(name, cohort, tmp_path):
    head, config = fitted(name), section("backend", name=name, cohort=cohort)
    if cohort:
        head = CohortHead(head, cohort)
        head.fit([faces(30, 1, seed=5)[0]])
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


class Payload:
    """Pickled, it creates a file when it is read with code allowed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint"),
        (b"", "is not a checkpoint that can be loaded safely"),
        (b"PK\x03\x04 not a zip", "is not a checkpoint that can be loaded safely"),
        ({"state_dict": {"network.head.linear.bias": torch.zeros(1)}}, "do not fit the run's config.yaml"),
        ({"weights": 1}, "is not a checkpoint that can be loaded safely"),
    ],
)
def test_bad_checkpoints_are_refused(tiny_config, tmp_path, content, message):
    file = tmp_path / "best.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(DataError, match=message):
        load_network(file, tiny_config())


def test_code_in_a_checkpoint_is_not_run(tiny_config, tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "best.ckpt")
    with pytest.raises(DataError, match="is not a checkpoint that can be loaded safely"):
        load_network(tmp_path / "best.ckpt", tiny_config())
    assert not (tmp_path / "ran").exists()
