"""The file of a run that says what its training images look like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run

from siamese.config.schema import TrainConfig
from siamese.data.dataset import load_dataset
from siamese.errors import DataError
from siamese.evaluation.domain import features
from siamese.runs.folder import RunFolder
from siamese.scoring import domain
from siamese.scoring.domain import load_domain, record_domain

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]


def test_a_run_records_its_training_images(trained: tuple[TrainConfig, Path, dict[str, Any]], tmp_path: Path) -> None:
    config, path, _ = trained
    folder = RunFolder(path)
    assert folder.domain.stat().st_size < 1_000_000
    again = RunFolder(tmp_path)
    data = load_dataset(config.data, config.protocol)
    record_domain(config, data, again)
    assert again.domain.read_bytes() == folder.domain.read_bytes()
    found = load_domain(folder.domain)
    assert found is not None
    rows = np.unique(data.train.indices.numpy())
    unusual = [found.unusual(row) for row in features(data.pixels[rows].numpy())]
    assert np.mean(unusual) < 0.1
    noise = np.random.default_rng(0).integers(0, 256, data.pixels.shape[1:], dtype=np.uint8)
    assert found.unusual(features(noise[None])[0])


def test_the_people_of_the_unrestricted_setting_are_described(
    embedding_run: Callable[..., tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(embedding_run(setting="unrestricted")[0])
    found = load_domain(folder.domain)
    assert found is not None
    from siamese.runs.records import read_config

    config = read_config(folder.config)
    data = load_dataset(config.data, config.protocol, config.sampling)
    assert data.people is not None
    described: list[np.ndarray] = []
    monkeypatch.setattr(domain, "features", lambda images: described.extend(images) or features(images))
    monkeypatch.setattr(domain, "IMAGES", 10)
    record_domain(config, data, RunFolder(tmp_path))
    assert len(described) == 10
    rows = np.concatenate(data.people)
    assert all(any(np.array_equal(image, data.pixels[row]) for row in rows) for image in described)


def test_a_run_without_weights_records_nothing(tiny_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    run(tiny_config(max_epochs=1, checkpoint={"keep": "none"}), tmp_path)
    assert not RunFolder(tmp_path).checkpoints.exists()


def test_missing_old_and_damaged_files(
    trained: tuple[TrainConfig, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RunFolder(trained[1]).domain
    assert load_domain(tmp_path / "none.npz") is None
    damaged = tmp_path / "damaged.npz"
    for content in (b"", b"no archive", file.read_bytes()[:-100], file.read_bytes()[:1000]):
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged.npz: cannot be read .*; restore it, or delete it") as raised:
            load_domain(damaged)
        assert "\n" not in str(raised.value)
    np.savez(damaged, format=1)
    with pytest.raises(DataError, match="cannot be read"):
        load_domain(damaged)
    monkeypatch.setattr(domain, "FORMAT", domain.FORMAT + 1)
    assert load_domain(file) is None


def test_a_failure_does_not_cost_the_result(
    trained: tuple[TrainConfig, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(domain, "fit_domain", fail)
    config = trained[0]
    record_domain(config, load_dataset(config.data, config.protocol), RunFolder(tmp_path))
    assert "could not describe the training images" in caplog.text
    assert load_domain(RunFolder(tmp_path).domain) is None
