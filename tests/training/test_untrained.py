"""Local binary patterns: a run without epochs, and principal components that training starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run
from torch import Tensor

from siamese.config.schema import TrainConfig
from siamese.models.lbp import LbpEncoder
from siamese.runs.finished import find_run
from siamese.scoring.networks import load_network

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]
OPTIONS: dict[str, Any] = {
    "model": {"name": "lbp", "scales": [1.0], "radii": [1], "cell": 13, "embedding_dim": 8},
    "objective": {"name": "ntxent"}, "backend": {"name": "plda"}, "protocol": {"setting": "unrestricted"},
}  # fmt: skip


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of `LbpEncoder.prepare`."""
    calls: list[int] = []
    prepare = LbpEncoder.prepare

    def count(self: LbpEncoder, images: Iterable[Tensor]) -> None:
        blocks = list(images)
        calls.append(sum(map(len, blocks)))
        prepare(self, blocks)

    monkeypatch.setattr(LbpEncoder, "prepare", count)
    return calls


def weights(path: Path) -> Tensor:
    encoder = load_network(path / "checkpoints/best.ckpt", find_run(path).config).encoder
    assert isinstance(encoder, LbpEncoder)
    return encoder.linear.weight.detach()


def test_training_starts_from_the_components_of_the_training_images(
    tiny_config: Make, tmp_path: Path, prepared: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    plain = run(tiny_config(**OPTIONS, max_epochs=0), tmp_path / "plain")
    assert prepared == [plain["n_train_images"]]
    assert (plain["epochs"], plain["status"]) == (0, "done")
    assert "trained_on" not in plain
    components = weights(tmp_path / "plain")
    torch.testing.assert_close(components @ components.T, torch.eye(8), atol=1e-4, rtol=0)

    kept = {"checkpoint": {"keep": "all"}, "learning_rate": 1e-3}
    run(tiny_config(**OPTIONS, **kept, max_epochs=1), tmp_path / "trained")
    trained = weights(tmp_path / "trained")
    assert 0 < (trained - components).abs().max() < 0.1
    run(tiny_config(**OPTIONS, **kept, max_epochs=2, resume=True), tmp_path / "trained")
    start = {"start_from": str(tmp_path / "plain"), "max_epochs": 0}
    config = tiny_config(**OPTIONS)
    other = config.model_copy(update={**start, "data": config.data.model_copy(update={"split_seed": 3})})
    run(other, tmp_path / "again")
    assert "validation images had been used for training in" in caplog.text  # they shaped the components
    assert torch.equal(weights(tmp_path / "again"), components)
    assert len(prepared) == 2  # neither when resumed nor when started from another run
