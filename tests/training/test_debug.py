"""The debugging modes, and the options of Lightning's Trainer that they set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_rows, run

from siamese.config.schema import TrainConfig
from siamese.training.module import SiameseModule

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]


def trainer(**options: Any) -> dict[str, Any]:
    return {"accelerator": "cpu", "progress_bar": False, **options}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The sums of the pixels of every first image that the network was trained on."""
    seen: list[torch.Tensor] = []
    step = SiameseModule.training_step

    def spy(self: SiameseModule, batch: Any, index: int) -> Any:
        seen.append(batch.image1.sum((1, 2, 3)).clone())
        return step(self, batch, index)

    monkeypatch.setattr(SiameseModule, "training_step", spy)
    return seen


def test_a_limited_run(tiny_config: Make, tmp_path: Path, batches: list[torch.Tensor]) -> None:
    """See test_data_module.py for other limits."""
    run(tiny_config(max_epochs=2, trainer=trainer(limit_train_batches=2)), tmp_path / "run")
    assert len(batches) == 2 * 2  # of 24 pairs in batches of 8
    assert len(read_rows(tmp_path / "run/history.csv")) == 2


def test_overfitting_shows_one_batch_until_it_is_learned(
    tiny_config: Make, tmp_path: Path, batches: list[torch.Tensor]
) -> None:
    options = {"scheduler": {"name": "constant"}, "trainer": trainer(overfit_batches=1)}
    run(tiny_config(max_epochs=20, patience=20, learning_rate=1e-2, **options), tmp_path / "run")
    assert len(batches) == 60  # as many as without the option
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    losses = [float(row["train/loss"]) for row in read_rows(tmp_path / "run/history.csv")]
    assert losses[-1] < 0.05 < losses[0]


def test_a_profile_and_the_configuration_are_logged(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(tiny_config(max_epochs=1, trainer=trainer(profiler="simple"), print_config=True), tmp_path / "run")
    assert "configuration:\nname: tiny\nseed: 0\n" in caplog.text
    assert "ms each  run_training_epoch" in caplog.text
    assert any("run_training_epoch" in file.read_text() for file in (tmp_path / "run/profile").iterdir())


def test_operators_are_profiled(tiny_config: Make, tmp_path: Path) -> None:
    run(tiny_config(max_epochs=1, trainer=trainer(profiler="pytorch", limit_train_batches=1)), tmp_path / "run")
    profiles = [file.read_text() for file in (tmp_path / "run/profile").glob("*.txt")]
    assert any("aten::" in text for text in profiles)


def test_the_operation_that_gives_nan_is_named(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SiameseModule.training_step

    def broken(self: SiameseModule, batch: Any, index: int) -> Any:
        return step(self, batch, index) + (batch.image1.sum() * 0 * next(self.network.parameters()).sum()).sqrt()

    monkeypatch.setattr(SiameseModule, "training_step", broken)
    with pytest.raises(RuntimeError, match=r"Function '.*Backward0' returned nan values"):
        run(tiny_config(trainer=trainer(detect_anomaly=True)), tmp_path / "run")


def test_gradients_are_clipped_by_value_and_time_is_limited(tiny_config: Make, tmp_path: Path) -> None:
    clipped = trainer(gradient_clip_val=1e-6, gradient_clip_algorithm="value")
    slow = run(tiny_config(max_epochs=1, trainer=clipped), tmp_path / "clipped")
    free = run(tiny_config(max_epochs=1, trainer=trainer()), tmp_path / "free")
    assert slow["test/loss"] != free["test/loss"]
    short = run(tiny_config(max_epochs=500, patience=500, trainer=trainer(max_time="00:00:00:01")), tmp_path / "short")
    assert 0 < short["epochs"] < 500


def test_the_word_nan_is_a_mode_and_not_a_number(run_script: Callable[..., Any]) -> None:
    done = run_script("train.py", "debug=nan", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "name: debug-nan" in done.stdout


@pytest.mark.parametrize("limit", [0, -1, 1.5, 0.0, True, "all"])
def test_impossible_limits(limit: Any, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="neither a number of batches"):
        tiny_config(trainer=trainer(limit_train_batches=limit))


@pytest.mark.parametrize("time", ["00:00:00:00", "1h", "00:01:00"])
def test_impossible_times(time: str, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="is not a duration DD:HH:MM:SS"):
        tiny_config(trainer=trainer(max_time=time))
