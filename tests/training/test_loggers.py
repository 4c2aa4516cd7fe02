"""MLflow and Weights & Biases get the curves, figures and pictures that TensorBoard gets, under the same names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.training.train import train

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]

CURVES = {"train/loss", "train/acc", "val/loss", "val/acc", "val/auc", "lr", "seconds"}


def run(config: TrainConfig, path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    folder.check(config)
    return train(config, folder, "label=1").as_dict()


@pytest.fixture(scope="module")
def in_tensorboard(trained: tuple[TrainConfig, Path, dict[str, Any]]) -> tuple[set[str], set[str]]:
    """The names of the curves and figures, and those of the pictures."""
    _, path, _ = trained
    (events,) = path.rglob("events.out.tfevents.*")
    tags = EventAccumulator(str(events)).Reload().Tags()
    names = {re.sub(r"^\d [a-z ]+/", "", tag) for tag in tags["scalars"]}  # without its section
    return names, set(tags["images"])


@pytest.mark.slow
def test_mlflow(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_tensorboard: tuple[set[str], set[str]]
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="an extra")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'kept.db'}"
    config = tiny_config(max_epochs=1, logger={"name": "mlflow", "uri": uri, "project": "faces"})
    result = run(config, tmp_path / "run")
    client = mlflow.MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'faces'")
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.run_id == result["logger_id"]
    assert kept.info.run_name == "label=1"
    assert kept.data.metrics.keys() == in_tensorboard[0] | CURVES
    assert kept.data.metrics["best/val_loss"] == pytest.approx(result["val/loss"])
    assert kept.data.metrics["test/acc"] == pytest.approx(result["test/acc"])
    assert kept.data.params["model/name" if "model/name" in kept.data.params else "model.name"] == "koch"
    pictures = {Path(file.path).stem for file in client.list_artifacts(kept.info.run_id, "report")}
    assert {f"report/{name}" for name in pictures} == in_tensorboard[1]
    # A resumed run keeps its id.
    RunFolder(tmp_path / "run").record(status="interrupted")
    run(config.model_copy(update={"resume": True, "print_config": True}), tmp_path / "run")
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.slow
def test_weights_and_biases(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_tensorboard: tuple[set[str], set[str]]
) -> None:
    pytest.importorskip("wandb", reason="an extra")
    logged: dict[str, float] = {}
    log = WandbLogger.log_metrics

    def spy(self: WandbLogger, metrics: dict[str, float], step: int | None = None) -> None:
        logged.update(metrics)
        log(self, metrics, step)

    monkeypatch.setattr(WandbLogger, "log_metrics", spy)
    for name in ("first", "second"):  # in one process, as jobs of a sweep
        logged.clear()
        result = run(tiny_config(max_epochs=1, logger={"name": "wandb"}), tmp_path / name)
        (kept,) = (tmp_path / name / "wandb").glob("offline-run-*")
        assert kept.name.endswith(result["logger_id"])
        assert logged.keys() - in_tensorboard[1] == in_tensorboard[0] | CURVES
        assert logged["test/acc"] == pytest.approx(result["test/acc"])
        pictures = {file.name.partition("_")[0] for file in (kept / "files/media/images/report").iterdir()}
        assert {f"report/{name}" for name in pictures} == in_tensorboard[1]


def test_a_store_that_cannot_be_used(tiny_config: Make, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="an extra")
    from siamese.errors import ConfigError

    config = tiny_config(logger={"name": "mlflow", "uri": "nonsense://here"})
    with pytest.raises(ConfigError, match="logger=mlflow: nonsense://here cannot be used"):
        run(config, tmp_path / "run")


def test_a_missing_package(run_script: Callable[..., Any], tiny_overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'wandb' else find(name, *rest)\n"
    )
    done = run_script("train.py", *tiny_overrides, "logger=wandb", PYTHONPATH=str(tmp_path / "hidden"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: logger=wandb needs wandb, which is not installed")
