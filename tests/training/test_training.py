"""The main job in this process: what a run leaves behind, reproducibility, resuming, evaluation, learning."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from configs import eval_config, train_config
from conftest import read_rows, run, without_times
from PIL import Image

from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.errors import ConfigError, DataError
from siamese.models.build import network_of
from siamese.objectives.pairs import BinaryCrossEntropy
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_history
from siamese.runs.signals import Interrupted
from siamese.scoring.networks import load_network
from siamese.scoring.scores import score_pairs
from siamese.training import train as experiment
from siamese.training.build import build_optimizer, build_scheduler
from siamese.training.callbacks import History, KeepLast, best_epoch
from siamese.training.data_module import PairDataModule
from siamese.training.loggers import THUMBNAIL
from siamese.training.module import SiameseModule, averaged
from siamese.training.train import train

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> tuple[TrainConfig, Path, dict[str, Any]]:
    """One finished run with TensorBoard, shared by the tests that only look at it."""
    base = tmp_path_factory.mktemp("finished")
    config = train_config(
        **{
            "name": "shared", "seed": 0, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0,
            "max_epochs": 3, "patience": 5, "objective": {"name": "bce"}, "optimizer": {"name": "adam"},
            "model": {"name": "koch", "batchnorm": True, "widths": [4, 4, 8, 8], "embedding_dim": 16},
            "scheduler": {"name": "step"}, "trainer": {"accelerator": "cpu", "progress_bar": False},
            "precision": "32", "logger": {"name": "tensorboard"}, "protocol": {"name": "view1"},
            "data": {
                "name": "synthetic", "root": str(tiny_root), "cache": str(base / "cache"), "image_size": 65,
                "train_people": 16, "test_people": 12, "train_pairs": 30, "test_pairs": 20, "view2_pairs": 20,
            },
        }
    )  # fmt: skip
    return config, base / "run", run(config, base / "run")


Finished = tuple[TrainConfig, Path, dict[str, Any]]

# --- what a run leaves behind -----------------------------------------------------------------------------


def test_every_file_of_the_contract(finished: Finished) -> None:
    _, path, _ = finished
    for name in (
        "config.yaml", "result.json", "history.csv", "predictions.csv", "excluded.csv", "report.html",
        "checkpoints/best.ckpt", "roc.png", "curves.png",
    ):  # fmt: skip
        assert (path / name).is_file(), name
    assert [file.name for file in (path / "checkpoints").iterdir()] == ["best.ckpt"]
    assert len(list(path.glob("shared/events.out.tfevents.*"))) == 1
    assert not [file for file in path.rglob("*") if file.name.endswith(".tmp")]


def test_the_result_holds_what_the_contract_names(finished: Finished) -> None:
    config, path, result = finished
    assert json.loads((path / "result.json").read_text()) == result
    promised = [
        "status",
        "val/loss",
        "val/acc",
        "test/loss",
        "test/acc",
        "test/auc",
        "test/eer",
        "test/acc_ci",
        "tp",
        "fp",
        "tn",
        "fn",
        "threshold",
        "best_epoch",
        "epochs",
        "train_seconds",
        "total_seconds",
        "n_train",
        "n_val",
        "n_test",
        "n_excluded",
        "dataset",
        "protocol",
        "outside_data",
        "seed",
        "precision",
        "device",
        "parameters",
        "version/torch",
        "version/lightning",
    ]
    assert [key for key in promised if key not in result] == []
    assert all(not isinstance(value, dict) for value in result.values())
    assert result["status"] == "done"
    assert (result["n_train"], result["n_val"], result["n_test"], result["n_excluded"]) == (24, 6, 20, 0)
    assert (result["dataset"], result["protocol"], result["outside_data"]) == ("synthetic", "view1", False)
    assert result["tp"] + result["fp"] + result["tn"] + result["fn"] == 20
    assert result["test/acc"] == (result["tp"] + result["tn"]) / 20
    assert config.seed == result["seed"]


def test_predictions_are_the_figures(finished: Finished) -> None:
    _, path, result = finished
    rows = read_rows(path / "predictions.csv")
    assert list(rows[0]) == experiment.PREDICTION_COLUMNS
    test = [row for row in rows if row["split"] == "test"]
    assert (len(test), len(rows)) == (20, 26)
    for row in test:
        assert float(row["probability"]) == pytest.approx(1 / (1 + np.exp(-float(row["score"]))))
        assert int(row["predicted"]) == (float(row["probability"]) >= 0.5)
        right = row["predicted"] == row["label"]
        assert row["outcome"] == ("t" if right else "f") + ("p" if row["predicted"] == "1" else "n")
        assert (Path(result["image_root"]) / row["image1"]).is_file()
    assert sum(row["outcome"] == "fp" for row in test) == result["fp"]


def test_history_has_a_row_an_epoch_and_the_best_weights_are_those_tested(finished: Finished) -> None:
    _, path, result = finished
    rows = read_history(path / "history.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = rows[result["best_epoch"] - 1]
    assert best["val/loss"] == min(row["val/loss"] for row in rows)
    assert result["val/loss"] == pytest.approx(best["val/loss"], abs=1e-5)
    assert result["val/acc"] == pytest.approx(best["val/acc"], abs=1e-6)
    assert best_epoch(rows, "val/acc") == max(rows, key=lambda row: row["val/acc"])["epoch"]


def test_checkpoints_hold_plain_data_only(finished: Finished) -> None:
    config, path, _ = finished
    best = torch.load(path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["config"] == to_plain(config)
    assert "optimizer_states" not in best


def test_what_is_kept_of_a_finished_run(tiny_config: Make, tmp_path: Path) -> None:
    results = {}
    for checkpoint in ("best", "all", "none"):
        results[checkpoint] = run(tiny_config(checkpoint=checkpoint), tmp_path / checkpoint)
    assert {key: without_times(result) for key, result in results.items()} == dict.fromkeys(
        results, without_times(results["best"])
    )
    kept = {key: sorted(file.name for file in (tmp_path / key).rglob("*.ckpt")) for key in results}
    assert kept == {"best": ["best.ckpt"], "all": ["best.ckpt", "last.ckpt"], "none": []}
    last = torch.load(tmp_path / "all/checkpoints/last.ckpt", weights_only=True)
    assert (last["epoch"], len(last["optimizer_states"])) == (2, 1)
    assert (
        evaluate(
            eval_config(**{"run": str(tmp_path / "all"), "protocol": {"name": "view1"}}),
            RunFolder(tmp_path / "eval"),
        )["test/loss"]
        == results["none"]["test/loss"]
    )
    with pytest.raises(ConfigError, match="checkpoint=none"):
        evaluate(
            eval_config(**{"run": str(tmp_path / "none"), "protocol": {"name": "view1"}}),
            RunFolder(tmp_path / "eval2"),
        )
    again = run(tiny_config(checkpoint="none", resume=True), tmp_path / "none")
    assert again == results["none"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    linked = run(tiny_config(checkpoint="none"), tmp_path / "link/run")
    assert without_times(linked) == without_times(results["none"])


def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that writes must not keep the failure to itself."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(tiny_config(), tmp_path / "run")


def test_tensorboard_shows_curves_configuration_hparams_and_pictures(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, path, result = finished
    events = EventAccumulator(str(path / "shared")).Reload()
    tags = events.Tags()
    for split in ("train", "val"):
        for figure in ("loss", "acc"):
            points = events.Scalars(f"{split}/{figure}")
            assert [point.step for point in points] == [1, 2, 3]
    assert {"lr", "test/loss", "test/acc", "with_best_weights/test_acc", "with_best_weights/val_loss"} <= set(
        tags["scalars"]
    )
    assert events.Scalars("with_best_weights/test_acc")[-1].value == pytest.approx(result["test/acc"])
    assert {"report/roc", "report/gallery", "report/curves"} <= set(tags["images"])
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "batch_size: 8" in text
    assert any("_hparams_" in tag for tag in events.summary_metadata)
    assert {"val/precision_recall", "test/precision_recall"} <= set(tags["tensors"])


def test_the_projector_gets_each_test_image_once_with_its_thumbnail(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(logger={"name": "tensorboard", "projector": True}, max_epochs=1)
    train(config, RunFolder(tmp_path / "run"), label="seed=0,experiment=report/adam")
    folder = tmp_path / "run" / "seed=0,experiment=report-adam"
    with (tmp_path / "run" / "predictions.csv").open(newline="") as lines:
        tested = [row for row in csv.DictReader(lines) if row["split"] == "test"]
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


# --- reproducibility --------------------------------------------------------------------------------------


def test_equal_seeds_give_equal_results_and_others_do_not(tiny_config: Make, tmp_path: Path) -> None:
    model = {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True, "dropout": 0.2}
    first = run(tiny_config(model=model), tmp_path / "a")
    second = run(tiny_config(model=model), tmp_path / "b")
    other = run(tiny_config(model=model, seed=1), tmp_path / "c")
    assert without_times(first) == without_times(second)
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()
    assert first["test/loss"] != other["test/loss"]


@pytest.mark.parametrize("every", [0.0, 30.0])
@pytest.mark.parametrize("stopped_after", [0, 1, 2, 3])
def test_interrupted_and_resumed_equals_undisturbed(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: int, every: float
) -> None:
    """Interrupted in the epoch after ``stopped_after``; 3: between training and testing.

    ``last.ckpt`` is that of the last epoch, or (every 30 s) of the start.
    """
    monkeypatch.setattr(KeepLast, "EVERY", every)
    model = {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True, "dropout": 0.2}
    scheduler = {"name": "step", "step_size": 1, "gamma": 0.5}
    options = {"model": model, "max_epochs": 3, "scheduler": scheduler, "ema_decay": 0.0 if every else 0.9}
    expected = run(tiny_config(**options), tmp_path / "whole")

    class Interrupt(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.current_epoch == stopped_after and trainer.global_step % 3 == 2:
                raise Interrupted(15)

    def interrupt(*_: object) -> None:
        raise Interrupted(15)

    with monkeypatch.context() as patch:
        build = experiment.build_trainer

        def build_interrupted(*args: Any) -> L.Trainer:
            trainer = build(*args)
            trainer.callbacks.insert(0, Interrupt())
            return trainer

        patch.setattr(experiment, "build_trainer", build_interrupted)
        if stopped_after == 3:
            patch.setattr(experiment, "load_network", interrupt)
        with pytest.raises(Interrupted):
            run(tiny_config(**options), tmp_path / "cut")
    assert (tmp_path / "cut/checkpoints/last.ckpt").is_file()
    with pytest.raises(ConfigError, match="resume=true"):
        run(tiny_config(**options), tmp_path / "cut")

    resumed = run(tiny_config(**options, resume=True), tmp_path / "cut")
    assert without_times(resumed) == without_times(expected)
    for name in ("predictions.csv", "excluded.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    best = [torch.load(tmp_path / run / "checkpoints/best.ckpt", weights_only=True) for run in ("cut", "whole")]
    assert all(torch.equal(best[0]["state_dict"][key], value) for key, value in best[1]["state_dict"].items())
    histories = [read_history(tmp_path / run / "history.csv") for run in ("cut", "whole")]
    assert [without_times(row) for row in histories[0]] == [without_times(row) for row in histories[1]]


def test_a_run_that_stopped_early_is_not_trained_on_when_resumed(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Far too high a learning rate: the loss only grows.
    options = {
        "patience": 1, "max_epochs": 6, "learning_rate": 10.0,
        "model": {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16},
    }  # fmt: skip
    expected = run(tiny_config(**options), tmp_path / "whole")
    assert expected["epochs"] < 6

    def interrupt(*_: object) -> None:
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "load_network", interrupt)
        with pytest.raises(Interrupted):
            run(tiny_config(**options), tmp_path / "cut")
    assert without_times(run(tiny_config(**options, resume=True), tmp_path / "cut")) == without_times(expected)


def test_a_finished_run_is_returned_as_recorded(tiny_config: Make, tmp_path: Path) -> None:
    first = run(tiny_config(max_epochs=1), tmp_path / "a")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")}
    assert run(tiny_config(max_epochs=1, resume=True), tmp_path / "a") == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*")} == before
    page = (tmp_path / "a/report.html").read_bytes()
    (tmp_path / "a/report.html").unlink()  # stopped while it was drawn
    run(tiny_config(max_epochs=1, resume=True), tmp_path / "a")
    assert (tmp_path / "a/report.html").read_bytes() == page
    with pytest.raises(ConfigError, match="batch_size=8, not 4"):
        run(tiny_config(max_epochs=1, batch_size=4, resume=True), tmp_path / "a")
    (tmp_path / "a/result.json").unlink()
    with pytest.raises(ConfigError, match=r"checkpoints, but no result\.json"):
        run(tiny_config(max_epochs=1, resume=True), tmp_path / "a")


def test_a_folder_whose_configuration_was_refused_can_be_used_again(tiny_config: Make, tmp_path: Path) -> None:
    RunFolder(tmp_path / "a").record_failure(ConfigError("batch_size=0: too small"))
    with pytest.raises(ConfigError, match=r"already holds a run \(failed\)"):
        run(tiny_config(max_epochs=1), tmp_path / "a")
    result = run(tiny_config(max_epochs=1, resume=True), tmp_path / "a")
    assert result["status"] == "done"
    assert "error" not in result


# --- evaluation -------------------------------------------------------------------------------------------


def test_eval_gives_exactly_the_figures_of_training(finished: Finished, tmp_path: Path) -> None:
    _, path, result = finished
    config = eval_config(**{"run": str(path), "protocol": {"name": "view1"}})
    again = evaluate(config, RunFolder(tmp_path / "eval"))
    figures = [key for key in result if key.startswith(("val/", "test/", "n_")) or key in ("tp", "fp", "tn", "fn")]
    assert {key: again[key] for key in figures} == {key: result[key] for key in figures}
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (path / "predictions.csv").read_bytes()
    assert (tmp_path / "eval/report.html").is_file()


def test_weights_made_with_outside_data_stay_so_whatever_they_are_scored_on(
    tiny_config: Make, tiny_root: Path, tmp_path: Path
) -> None:
    images = ("lfw2", "lfw-deepfunneled")
    for file in [*tiny_root.glob("*.txt")]:
        (tmp_path / file.name).symlink_to(file)
    for folder in images:
        (tmp_path / folder).symlink_to(tiny_root / "lfw")
    options = {"root": str(tmp_path), "cache": str(tmp_path / "cache"), "image_size": 65}
    run(tiny_config(data={"name": "lfw_a", **options}, max_epochs=1), tmp_path / "run")
    config = eval_config(
        **{
            "run": str(tmp_path / "run"),
            "protocol": {"name": "view1"},
            "data": {"name": "lfw_deepfunneled", **options},
        }
    )
    result = evaluate(config, RunFolder(tmp_path / "eval"))
    assert (result["dataset"], result["trained_on"], result["outside_data"]) == ("lfw_deepfunneled", "lfw_a", True)


def test_trainer_test_and_scoring_agree(finished: Finished, tmp_path: Path) -> None:
    """Lightning's own test loop over pairs, and scores from images embedded once."""
    config, path, result = finished
    network = load_network(path / "checkpoints/best.ckpt", config)
    data = PairDataModule(config.data, config.batch_size, config.seed)
    module = SiameseModule(network, BinaryCrossEntropy(), lambda p: build_optimizer(config, p), lambda _: None)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, barebones=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    (figures,) = trainer.test(module, datamodule=data, verbose=False)
    assert figures["test/acc"] == pytest.approx(result["test/acc"], abs=1e-6)
    assert figures["test/loss"] == pytest.approx(result["test/loss"], abs=1e-5)


def test_scores_do_not_depend_on_what_else_is_scored(finished: Finished) -> None:
    config, path, _ = finished
    network = load_network(path / "checkpoints/best.ckpt", config)
    data = PairDataModule(config.data, config.batch_size, config.seed)
    data.setup()
    indices = data.test.indices
    all_scores = score_pairs(network, data.pixels, indices, torch.device("cpu"))
    few = score_pairs(network, data.pixels, indices[:3], torch.device("cpu"))
    np.testing.assert_allclose(few, all_scores[:3], atol=1e-5)
    assert score_pairs(network, data.pixels, indices[:0], torch.device("cpu")).shape == (0,)


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
def test_bad_checkpoints_are_refused(
    tiny_config: Make, tmp_path: Path, content: bytes | dict[str, object] | None, message: str
) -> None:
    file = tmp_path / "best.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(DataError, match=message):
        load_network(file, tiny_config())


class _Payload:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (Path.touch, (Path("/tmp/siamese-payload-ran"),))  # type: ignore[return-value]


def test_code_in_a_checkpoint_is_not_run(tiny_config: Make, tmp_path: Path) -> None:
    torch.save({"state_dict": _Payload()}, tmp_path / "best.ckpt")
    with pytest.raises(DataError, match="is not a checkpoint that can be loaded safely"):
        load_network(tmp_path / "best.ckpt", tiny_config())
    assert not Path("/tmp/siamese-payload-ran").exists()


# --- learning ---------------------------------------------------------------------------------------------


def test_training_is_that_of_a_plain_loop(tiny_config: Make, tmp_path: Path) -> None:
    """Loss and accuracy of three epochs against the loop a textbook would write: sigmoid, BCELoss, Adam with L2."""
    config = tiny_config(max_epochs=3, weight_decay=1e-3, scheduler={"name": "step", "step_size": 2, "gamma": 0.5})
    run(config, tmp_path / "run")
    rows = read_history(tmp_path / "run/history.csv")

    L.seed_everything(config.seed, verbose=False)
    data = PairDataModule(config.data, config.batch_size, config.seed)
    data.setup()
    network = network_of(config)
    adam = torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)

    def epoch(loader: Any, train: bool) -> tuple[float, float]:
        losses, right, pairs = 0.0, 0, 0
        for indices, labels in loader:
            image1, image2 = (torch.from_numpy(data.images.pixels[rows]).float() / 255 for rows in indices.T)
            probability = torch.sigmoid(network(image1, image2))
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
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        network.train()
        trained = epoch(loader, train=True)
        network.eval()
        with torch.no_grad():
            validated = epoch(data.val_dataloader(), train=False)
        assert (row["train/loss"], row["train/acc"]) == pytest.approx(trained, abs=1e-5)
        assert (row["val/loss"], row["val/acc"]) == pytest.approx(validated, abs=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_overfits_eight_pairs(tiny_config: Make, tmp_path: Path, optimizer: str) -> None:
    config = tiny_config(
        optimizer={"name": optimizer}, learning_rate=0.05 if optimizer == "sgd" else 3e-3,
        model={"name": "koch", "widths": [8, 8, 8, 16], "embedding_dim": 32, "batchnorm": True},
        scheduler={"name": "constant"},
    )  # fmt: skip
    torch.manual_seed(0)
    data = PairDataModule(config.data, 8, 0)
    data.setup()
    network = network_of(config)
    module = SiameseModule(
        network, BinaryCrossEntropy(), lambda p: build_optimizer(config, p), lambda o: build_scheduler(config, o)
    )
    rows = torch.tensor([0, 1, 2, 3, -1, -2, -3, -4])
    batch = data.transfer_batch_to_device(data.train[rows], torch.device("cpu"), 0)
    assert sorted(batch.label.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    loader = torch.utils.data.DataLoader([data.train[rows]] * 60, batch_size=None)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data.train_dataloader = lambda: loader  # type: ignore[method-assign]
    data.val_dataloader = lambda: []  # type: ignore[method-assign, assignment, return-value]
    trainer.fit(module, datamodule=data)
    with torch.no_grad():
        logits = network.train()(batch.image1, batch.image2)
    assert ((logits > 0) == batch.label.bool()).all()
    assert float(BinaryCrossEntropy()(logits, batch.label)) < 0.1


def test_schedules(tiny_config: Make) -> None:
    def rates(**scheduler: object) -> list[float]:
        config = tiny_config(scheduler=scheduler, max_epochs=20, learning_rate=1.0, optimizer={"name": "sgd"})
        optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
        schedule = build_scheduler(config, optimizer)
        values = []
        for _ in range(21):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return values

    assert rates(name="constant") == [1.0] * 21
    assert rates(name="step") == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01])
    cosine = rates(name="cosine", final_fraction=0.1)
    assert cosine[0] == 1.0
    assert cosine[10] == pytest.approx(0.55)
    assert cosine[20] == pytest.approx(0.1)
    warm = rates(name="cosine", final_fraction=0.1, warmup_epochs=3)
    assert warm[:4] == pytest.approx([cosine[epoch] * (epoch + 1) / 4 for epoch in range(4)])
    assert warm[4:] == cosine[4:]


def test_the_average_forgets_the_start_and_then_follows_with_the_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    average = averaged(network, decay=0.25)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in average.parameters())
    expected = None
    for n in range(6):
        value = float(n * n)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data.fill_(value)
        average.update_parameters(network)  # type: ignore[arg-type]
        keep = min(0.25, (1 + n) / (10 + n))
        expected = value if expected is None else keep * expected + (1 - keep) * value
        for tensor in (average.module[0].weight, average.module[1].running_var):
            assert tensor.flatten().tolist() == pytest.approx([expected] * tensor.numel())
        assert int(average.module[1].num_batches_tracked) == n * n


def test_the_average_is_what_is_validated_kept_and_scored(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(ema_decay=0.9, max_epochs=2)
    result = run(config, tmp_path / "a")
    checkpoint = torch.load(tmp_path / "a/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    network = load_network(tmp_path / "a/checkpoints/best.ckpt", config)
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, checkpoint[f"average.module.{name}"])
    assert any(not torch.equal(w, checkpoint[f"network.{n}"]) for n, w in network.named_parameters())
    rows = read_history(tmp_path / "a/history.csv")
    assert rows[int(result["best_epoch"]) - 1]["val/loss"] == pytest.approx(result["val/loss"], rel=1e-5)
    assert result["val/loss"] != run(tiny_config(max_epochs=2), tmp_path / "b")["val/loss"]


def test_optimizer_gets_its_options(tiny_config: Make) -> None:
    config = tiny_config(
        optimizer={"name": "sgd", "momentum": 0.5, "nesterov": True}, weight_decay=1e-3, learning_rate=0.2
    )
    optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    expected = {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 1e-3}
    assert {key: optimizer.defaults[key] for key in expected} == expected


def test_bf16_trains_and_scores(tiny_config: Make, tmp_path: Path) -> None:
    result = run(tiny_config(precision="bf16"), tmp_path / "run")
    assert result["precision"] == "bf16"
    assert np.isfinite(result["test/loss"])
    config = eval_config(**{"run": str(tmp_path / "run"), "protocol": {"name": "view1"}})
    assert evaluate(config, RunFolder(tmp_path / "eval"))["test/loss"] == result["test/loss"]


def test_history_state_is_plain(tmp_path: Path) -> None:
    history = History(tmp_path / "history.csv", "val/loss")
    state = {"rows": [{"epoch": 1.0, "val/loss": 2.0}], "seconds": 0.0}
    history.load_state_dict(state)
    assert history.state_dict() == state
