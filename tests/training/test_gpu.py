"""On a GPU: the same results as on the CPU, and a resumed run that ends like an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import read_rows, run
from resuming import KINDS, assert_equal, die

from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted
from siamese.runs.tables import read_history
from siamese.training.module import SiameseModule
from siamese.training.train import train

pytestmark = [pytest.mark.integration, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

Make = Callable[..., TrainConfig]

GPU = {"accelerator": "gpu", "progress_bar": False}
MULTICROP = {
    "model": {"name": "multicrop", "crops": [1.0, 0.6], "crop_size": 32, "widths": [8, 16], "blocks": [1, 1],
              "embedding_dim": 16},
    "protocol": {"name": "view1", "setting": "unrestricted"}, "objective": {"name": "ntxent"}, "ema_decay": 0.9,
    "augmentation": {"flip": True, "rotation": 5.0, "scale": 1.1, "translation": 0.05, "brightness": 0.1, "erase": 0.5},
    "backend": {"name": "plda"}, "flip_average": True, "crop_average": 0.93, "optimizer": {"name": "muon"},
}  # fmt: skip
ALL = {**KINDS, "multicrop, as best/unrestricted": MULTICROP}


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("kind", ALL)
def test_a_run_stopped_between_steps_ends_like_an_undisturbed_one(
    tiny_config: Make, tmp_path: Path, at_step: Callable[[int, Callable[[], None]], None], kind: str, precision: str,
    graphs: bool,
) -> None:  # fmt: skip
    options = {
        "batch_size": 4, "max_epochs": 3, "checkpoint": {"every": 2}, "trainer": {**GPU, "cuda_graphs": graphs},
        **ALL[kind], "precision": precision,
    }  # fmt: skip
    result = train(tiny_config(**options), RunFolder(tmp_path / "whole"))
    assert (result.device or "").startswith("cuda: ")
    for step in (1, 4, 6, 7):
        at_step(step, die)
        with pytest.raises(Interrupted):
            train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    at_step(0, die)
    train(tiny_config(**options, resume=True), RunFolder(tmp_path / "cut"))
    assert_equal(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("kind", ALL)
def test_a_cuda_graph_trains_like_single_kernels(tiny_config: Make, tmp_path: Path, kind: str, optimizer: str) -> None:
    """Bit for bit, with learning rates that float32 represents exactly."""
    for graphs in (False, True):
        options = {"batch_size": 4, "max_epochs": 3, "precision": "bf16", **ALL[kind], "learning_rate": 2.0**-10}
        options |= {"scheduler": {"name": "step", "step_size": 1, "gamma": 0.5}, "optimizer": {"name": optimizer}}
        run(tiny_config(**options, trainer={**GPU, "cuda_graphs": graphs}), tmp_path / str(graphs))
    assert_equal(tmp_path / "True", tmp_path / "False")


@pytest.mark.parametrize("kind", ALL)
def test_the_cpu_does_not_wait_for_a_step(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Once its graph is recorded: torch raises an error where the CPU would wait for the GPU."""
    checked = []

    def step(self: SiameseModule, *args: Any) -> torch.Tensor:
        recorded = self._graphs is not None and bool(self._graphs._recorded) and self.trainer.global_step < 8
        torch.cuda.set_sync_debug_mode("error" if recorded else "default")
        checked.append(recorded)
        try:
            return original(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    original = SiameseModule.training_step
    monkeypatch.setattr(SiameseModule, "training_step", step)
    options = {"batch_size": 4, "max_epochs": 1, **ALL[kind], "trainer": {**GPU, "cuda_graphs": True}}
    run(tiny_config(**options), tmp_path)
    assert any(checked)


@pytest.mark.parametrize("kind", ALL)
def test_a_gpu_gives_the_results_of_the_cpu(tiny_config: Make, tmp_path: Path, kind: str) -> None:
    """Batches, augmentation and initial weights are the same. Dropout is off: a GPU draws other random numbers."""
    for accelerator in ("cpu", "gpu"):
        options = {"max_epochs": 1, "optimizer": {"name": "sgd"}, "learning_rate": 1e-3, **ALL[kind]}
        options |= {"precision": "32", "model": {**options["model"], "dropout": 0.0}}
        run(tiny_config(**options, trainer={**GPU, "accelerator": accelerator}), tmp_path / accelerator)
    one, other = (read_history(tmp_path / name / "history.csv")[0] for name in ("cpu", "gpu"))
    assert other["train/loss"] == pytest.approx(one["train/loss"], rel=2e-3)
    scores = [
        np.array([float(row["score"]) for row in read_rows(tmp_path / name / "predictions.csv")])
        for name in ("cpu", "gpu")
    ]
    assert np.corrcoef(*scores)[0, 1] > 0.999


def test_a_run_trained_on_a_gpu_is_scored_without_one(
    run_script: Callable[..., subprocess.CompletedProcess[str]], tiny_overrides: list[str], tmp_path: Path
) -> None:
    gpu = [*(word for word in tiny_overrides if not word.startswith("trainer")), "trainer=gpu"]
    assert run_script("train.py", *gpu, "hydra.run.dir=run").returncode == 0
    without = {"CUDA_VISIBLE_DEVICES": ""}
    done = run_script("eval.py", "run=run", "hydra.run.dir=scored", **without)
    assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / "work" / name / "result.json").read_text()) for name in ("run", "scored")]
    assert results[0]["device"].startswith("cuda: ")
    assert results[1]["device"].startswith("cpu: ")
    assert results[1]["test/loss"] == pytest.approx(results[0]["test/loss"], rel=1e-3)
