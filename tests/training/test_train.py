"""A run in this process: the files it leaves, its figures, what a second start does, and evaluation with eval.py."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from configs import eval_config
from conftest import read_rows, run, without_times
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.data.dataset import load_dataset
from siamese.errors import ConfigError
from siamese.models.build import network_of
from siamese.objectives.pairs import BinaryCrossEntropy
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder
from siamese.runs.tables import PREDICTION_COLUMNS, read_history
from siamese.scoring.networks import load_network
from siamese.scoring.scores import score_pairs
from siamese.training.build import build_data_module, build_optimizer
from siamese.training.epochs import best_epoch
from siamese.training.loggers import THUMBNAIL
from siamese.training.module import SiameseModule

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]
Trained = tuple[TrainConfig, Path, dict[str, Any]]

PROMISED = (
    "status", "val/loss", "val/acc", "test/loss", "test/acc", "test/auc", "test/eer", "test/acc_ci", "tp", "fp", "tn",
    "fn", "threshold", "best_epoch", "epochs", "train_seconds", "total_seconds", "n_train", "n_val", "n_test",
    "n_excluded", "dataset", "protocol", "outside_data", "seed", "precision", "device", "parameters", "version/torch",
    "version/lightning",
)  # fmt: skip
"""Keys of result.json that others rely on."""


# --- the files of a run -----------------------------------------------------------------------------------


def test_every_promised_file_is_written(trained: Trained) -> None:
    _, path, _ = trained
    for name in (
        "config.yaml", "result.json", "history.csv", "predictions.csv", "excluded.csv", "report.html",
        "checkpoints/best.ckpt", "roc.png", "curves.png",
    ):  # fmt: skip
        assert (path / name).is_file(), name
    assert sorted(file.name for file in (path / "checkpoints").iterdir()) == ["best.ckpt", "domain.npz"]
    assert len(list(path.glob("seed=0,experiment=report-adam/events.out.tfevents.*"))) == 1
    assert not [file for file in path.rglob("*") if file.name.endswith(".tmp")]


def test_the_result_has_every_promised_key(trained: Trained) -> None:
    config, path, result = trained
    assert json.loads((path / "result.json").read_text()) == result
    assert [key for key in PROMISED if key not in result] == []
    assert all(not isinstance(value, dict) for value in result.values())
    assert result["status"] == "done"
    assert (result["n_train"], result["n_val"], result["n_test"], result["n_excluded"]) == (24, 6, 20, 0)
    assert (result["dataset"], result["protocol"], result["outside_data"]) == ("synthetic", "view1", False)
    assert result["tp"] + result["fp"] + result["tn"] + result["fn"] == 20
    assert result["test/acc"] == (result["tp"] + result["tn"]) / 20
    assert config.seed == result["seed"]


def test_predictions_agree_with_the_figures(trained: Trained) -> None:
    _, path, result = trained
    rows = read_rows(path / "predictions.csv")
    assert tuple(rows[0]) == PREDICTION_COLUMNS
    test = [row for row in rows if row["split"] == "test"]
    assert (len(test), len(rows)) == (20, 26)
    for row in test:
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-float(row["score"]))))
        assert int(row["predicted"]) == (float(row["probability"]) >= 0.5)
        right = row["predicted"] == row["label"]
        assert row["outcome"] == ("t" if right else "f") + ("p" if row["predicted"] == "1" else "n")
        assert (Path(result["image_root"]) / row["image1"]).is_file()
    assert sum(row["outcome"] == "fp" for row in test) == result["fp"]


def test_history_has_a_row_per_epoch_and_the_best_weights_are_tested(trained: Trained) -> None:
    _, path, result = trained
    rows = read_history(path / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = rows[result["best_epoch"] - 1]
    assert best["val/loss"] == min(row["val/loss"] for row in rows)
    assert result["val/loss"] == pytest.approx(best["val/loss"], abs=1e-5)
    assert result["val/acc"] == pytest.approx(best["val/acc"], abs=1e-6)
    assert best_epoch(rows, "val/acc") == max(rows, key=lambda row: row["val/acc"])["epoch"]


def test_checkpoints_hold_only_plain_data(trained: Trained) -> None:
    config, path, _ = trained
    best = torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["config"] == to_plain(config)
    assert "optimizer_states" not in best


def test_tensorboard_shows_curves_configuration_hparams_and_pictures(trained: Trained) -> None:
    _, path, result = trained
    events = EventAccumulator(str(path / "seed=0,experiment=report-adam")).Reload()
    tags = events.Tags()
    for tag in (
        "1 loss/train/loss",
        "1 loss/val/loss",
        "2 accuracy/train/acc",
        "2 accuracy/val/acc",
        "3 learning rate/lr",
    ):
        assert [point.step for point in events.Scalars(tag)] == [1, 2, 3]
    for tag, key in (("best/val_loss", "val/loss"), ("best/epoch", "best_epoch"), ("test/acc", "test/acc")):
        (point,) = events.Scalars(tag)
        assert point.value == pytest.approx(result[key])
    # TensorBoard sorts sections by name and opens the first two.
    sections = dict.fromkeys(tag.split("/")[0] for tag in sorted([*tags["scalars"], *tags["images"]]))
    assert list(sections)[:3] == ["1 loss", "2 accuracy", "3 learning rate"]
    assert {"report/roc", "report/gallery", "report/curves"} <= set(tags["images"])
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "batch_size: 8" in text
    assert any("_hparams_" in tag for tag in events.summary_metadata)
    assert {"val/precision_recall", "test/precision_recall"} <= set(tags["tensors"])


def test_the_projector_gets_each_test_image_once_with_its_thumbnail(trained: Trained) -> None:
    config, path, _ = trained
    folder = path / "seed=0,experiment=report-adam"
    tested = [row for row in read_rows(path / "predictions.csv") if row["split"] == "test"]
    (metadata,) = folder.rglob("metadata.tsv")
    head, *rows = metadata.read_text().splitlines()
    assert head == "person\timage"
    images = {row[key] for row in tested for key in ("image1", "image2")}
    assert sorted(row.split("\t")[1] for row in rows) == sorted(images)
    vectors = metadata.with_name("tensors.tsv").read_text().splitlines()
    assert len(vectors) == len(rows)
    assert {len(line.split("\t")) for line in vectors} == {config.model.embedding_dim}
    with Image.open(metadata.with_name("sprite.png")) as sprite:
        per_row = math.ceil(math.sqrt(len(rows)))
        assert sprite.width == per_row * THUMBNAIL
    assert (folder / "projector_config.pbtxt").is_file()


def test_what_is_kept_of_a_finished_run(tiny_config: Make, trained: Trained, tmp_path: Path) -> None:
    """Of checkpoint=all and none, the latter in a folder with a symbolic link; `trained` is checkpoint=best."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    paths = {"all": tmp_path / "all", "none": tmp_path / "link/none"}
    results = {kept: run(tiny_config(max_epochs=3, checkpoint=kept), path) for kept, path in paths.items()}
    expected = without_times(trained[2]) | {"label": "tiny"}
    assert [without_times(result) for result in results.values()] == [expected, expected]
    files = {kept: sorted(file.name for file in path.rglob("*.ckpt")) for kept, path in paths.items()}
    assert files == {"all": ["best.ckpt", "last.ckpt"], "none": []}
    last = torch.load(paths["all"] / "checkpoints/last.ckpt", weights_only=True)
    assert (last["epoch"], len(last["optimizer_states"])) == (3, 1)
    with pytest.raises(ConfigError, match="checkpoint=none"):
        evaluate(eval_config(run=str(paths["none"])), RunFolder(tmp_path / "eval"))
    assert run(tiny_config(max_epochs=3, checkpoint="none", resume=True), paths["none"]) == results["none"]


def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(tiny_config(), tmp_path / "run")


def test_a_finished_run_is_returned_as_recorded(trained: Trained, tmp_path: Path) -> None:
    config, original, result = trained
    path = tmp_path / "run"
    shutil.copytree(original, path)
    again = config.model_copy(update={"resume": True})
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert run(again, path) == result
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    (path / "report.html").unlink()  # the process was stopped while it wrote the page
    assert run(again, path) == result
    assert (path / "report.html").read_bytes() == (original / "report.html").read_bytes()
    with pytest.raises(ConfigError, match="batch_size=8, not 4"):
        run(again.model_copy(update={"batch_size": 4}), path)


def test_the_settings_of_the_process_are_as_before(tiny_config: Make, tmp_path: Path) -> None:
    import logging
    import warnings

    def settings() -> tuple[object, ...]:
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
            logging.getLogger("lightning.pytorch").level,
            list(warnings.filters),
        )

    before = settings()
    run(tiny_config(max_epochs=1), tmp_path / "run")
    assert settings() == before


# --- evaluation and scoring -------------------------------------------------------------------------------


def test_eval_gives_exactly_the_figures_of_training(trained: Trained, tmp_path: Path) -> None:
    _, path, result = trained
    again = evaluate(eval_config(run=str(path), protocol={"name": "view1"}), RunFolder(tmp_path / "eval")).as_dict()
    figures = [key for key in result if key.startswith(("val/", "test/", "n_")) or key in ("tp", "fp", "tn", "fn")]
    assert {key: again[key] for key in figures} == {key: result[key] for key in figures}
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (path / "predictions.csv").read_bytes()
    assert (tmp_path / "eval/report.html").is_file()


def test_weights_trained_with_outside_data_stay_so_whatever_they_are_scored_on(
    tiny_config: Make, tiny_root: Path, tmp_path: Path
) -> None:
    for file in tiny_root.glob("*.txt"):
        (tmp_path / file.name).symlink_to(file)
    for folder in ("lfw2", "lfw-deepfunneled"):
        (tmp_path / folder).symlink_to(tiny_root / "lfw")
    options = {"root": str(tmp_path), "cache": str(tmp_path / "cache"), "image_size": 65}
    run(tiny_config(data={"name": "lfw_a", **options}, max_epochs=1), tmp_path / "run")
    config = eval_config(run=str(tmp_path / "run"), data={"name": "lfw_deepfunneled", **options})
    result = evaluate(config, RunFolder(tmp_path / "eval"))
    assert (result.dataset, result.trained_on, result.outside_data) == ("lfw_deepfunneled", "lfw_a", True)


def test_lightnings_test_loop_agrees_with_scoring(trained: Trained, tmp_path: Path) -> None:
    """Lightning scores pairs; `score_pairs` embeds each image once."""
    config, path, result = trained
    network = load_network(path / "checkpoints/best.ckpt", config)
    data = build_data_module(config, load_dataset(config.data, config.protocol, config.sampling))
    module = SiameseModule(network, BinaryCrossEntropy(), lambda p: build_optimizer(config, p), lambda _: None)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, barebones=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    (figures,) = trainer.test(module, datamodule=data, verbose=False)
    assert figures["test/acc"] == pytest.approx(result["test/acc"], abs=1e-6)
    assert figures["test/loss"] == pytest.approx(result["test/loss"], abs=1e-5)


def test_scores_do_not_depend_on_what_else_is_scored(trained: Trained) -> None:
    config, path, _ = trained
    network = load_network(path / "checkpoints/best.ckpt", config)
    data = load_dataset(config.data, config.protocol, config.sampling)
    indices = data.test.indices
    all_scores = score_pairs(network, data.pixels, indices, torch.device("cpu"))
    few = score_pairs(network, data.pixels, indices[:3], torch.device("cpu"))
    np.testing.assert_allclose(few, all_scores[:3], atol=1e-5)
    assert score_pairs(network, data.pixels, indices[:0], torch.device("cpu")).shape == (0,)


def test_bf16_trains_and_scores(tiny_config: Make, tmp_path: Path) -> None:
    result = run(tiny_config(precision="bf16"), tmp_path / "run")
    assert result["precision"] == "bf16"
    assert np.isfinite(result["test/loss"])
    again = evaluate(eval_config(run=str(tmp_path / "run")), RunFolder(tmp_path / "eval"))
    assert again.test_loss == result["test/loss"]


# --- learning ---------------------------------------------------------------------------------------------


def test_training_equals_a_plain_loop(tiny_config: Make, tmp_path: Path) -> None:
    """Loss and accuracy of three epochs against a textbook loop: sigmoid, BCELoss, Adam with L2."""
    config = tiny_config(max_epochs=3, weight_decay=1e-3, scheduler={"name": "step", "step_size": 2, "gamma": 0.5})
    run(config, tmp_path / "run")
    rows = read_history(tmp_path / "run/history.csv")

    L.seed_everything(config.seed, verbose=False)
    data = load_dataset(config.data, config.protocol, config.sampling)
    batches = build_data_module(config, data)
    network = network_of(config)
    adam = torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)

    def epoch(loader: Any, train: bool) -> tuple[float, float]:
        losses, right, pairs = 0.0, 0, 0
        for image1, image2, labels in loader:
            probability = torch.sigmoid(network(image1.float() / 255, image2.float() / 255))
            loss = torch.nn.BCELoss()(probability, labels.float())
            if train:
                adam.zero_grad()
                loss.backward()
                adam.step()
            losses += loss.item() * len(labels)
            right += int(((probability >= 0.5) == labels.bool()).sum())
            pairs += len(labels)
        return losses / pairs, right / pairs

    for number, row in enumerate(rows):
        adam.param_groups[0]["lr"] = config.learning_rate * (0.5 if number == 2 else 1.0)
        loader: Any = batches.train_dataloader()
        loader.sampler.set_epoch(number)
        network.train()
        trained_figures = epoch(loader, train=True)
        network.eval()
        with torch.no_grad():
            validated = epoch(batches.val_dataloader(), train=False)
        assert (row["train/loss"], row["train/acc"]) == pytest.approx(trained_figures, abs=1e-5)
        assert (row["val/loss"], row["val/acc"]) == pytest.approx(validated, abs=1e-5)


def test_the_average_is_validated_kept_and_scored(tiny_config: Make, trained: Trained, tmp_path: Path) -> None:
    config = tiny_config(ema_decay=0.9, max_epochs=3)
    result = run(config, tmp_path / "run")
    checkpoint = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    network = load_network(tmp_path / "run/checkpoints/best.ckpt", config)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, checkpoint[f"average.module.{name}"])
    assert any(not torch.equal(w, checkpoint[f"network.{n}"]) for n, w in network.named_parameters())
    rows = read_history(tmp_path / "run/history.csv")
    assert rows[int(result["best_epoch"]) - 1]["val/loss"] == pytest.approx(result["val/loss"], rel=1e-5)
    assert result["val/loss"] != trained[2]["val/loss"]
