"""Runs in every protocol and setting, ensembles, and one-shot identification: whole, on the tiny faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, read_rows, run, without_times

from siamese.config.schema import EvalConfig, TrainConfig
from siamese.errors import ConfigError, DataError
from siamese.evaluation.calibration import fit_platt
from siamese.evaluation.metrics import sigmoid
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted
from siamese.scoring.networks import decision_of, load_network
from siamese.training.folds import train_folds
from siamese.training.train import train

Make = Callable[..., TrainConfig]
Result = dict[str, Any]

RESNET = {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 8}
NTXENT = {"name": "ntxent", "views": 2, "pair_weight": 1.0}


# --- objectives on groups, settings, calibration, thresholds -----------------------------------------------


@pytest.fixture
def embedding_config(tiny_config: Make) -> Make:
    """A run of a residual network with NT-Xent, two views and augmentation."""

    def make(**changes: Any) -> TrainConfig:
        augmentation = {"flip": True, "rotation": 5.0, "erase": 0.3}
        plain = {"model": RESNET, "objective": NTXENT, "augmentation": augmentation, "monitor": "val/auc"}
        return tiny_config(**{**plain, **changes})

    return make


def test_similarities_are_calibrated_and_the_threshold_chosen_on_validation(
    embedding_config: Make, tmp_path: Path
) -> None:
    result = run(embedding_config(threshold="accuracy"), tmp_path / "run")
    scored = read_rows(tmp_path / "run/predictions.csv")
    val = [row for row in scored if row["split"] == "val"]
    scores, labels = np.array([[float(row["score"]), float(row["label"])] for row in val]).T
    assert np.abs([float(row["score"]) for row in scored]).max() <= 1
    line = fit_platt(scores, labels)
    assert (result["calibration/slope"], result["calibration/intercept"]) == pytest.approx(line)
    probability = sigmoid(line.logits(scores))
    right = ((probability >= result["threshold"]) == labels).mean()
    assert right == result["val/acc"] == max(((probability >= t) == labels).mean() for t in [*probability, 1.1])
    assert result["threshold_origin"] == "chosen on the validation pairs, by accuracy"
    first = read_rows(tmp_path / "run/history.csv")[0]
    assert first["train/acc"] == ""  # nothing is decided in training
    assert 0 <= float(first["val/auc"]) <= 1
    page = (tmp_path / "run/report.html").read_text()
    assert "The training loss is that of the objective (ntxent)" in page
    assert "chosen on the validation pairs, by accuracy" in page


def test_the_bce_needs_no_calibration_and_can_have_one(tiny_config: Make, tmp_path: Path) -> None:
    plain = run(tiny_config(), tmp_path / "plain")
    scaled = run(tiny_config(calibration="temperature"), tmp_path / "scaled")
    assert (plain["calibration/slope"], plain["calibration/intercept"]) == (1.0, 0.0)
    assert scaled["calibration/slope"] != 1.0
    assert scaled["calibration/intercept"] == 0.0
    assert scaled["test/acc"] == plain["test/acc"]
    assert scaled["test/auc"] == plain["test/auc"]


@pytest.mark.parametrize("setting", ["restricted", "unrestricted"])
@pytest.mark.parametrize("objective", ["bce", "ntxent"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    embedding_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, objective: str
) -> None:
    """With random augmentation, pairs and groups by names among what must come back."""
    config = embedding_config(
        protocol={"name": "view1", "setting": setting}, objective={"name": objective}, checkpoint="all", max_epochs=3
    )
    undisturbed = run(config, tmp_path / "whole")
    from siamese.training import callbacks

    original, seen = callbacks.History.on_train_epoch_end, []

    def interrupt(self: callbacks.History, *arguments: Any) -> None:
        original(self, *arguments)
        seen.append(0)
        if len(seen) == 2:
            raise Interrupted(15)

    monkeypatch.setattr(callbacks.History, "on_train_epoch_end", interrupt)
    monkeypatch.setattr(callbacks.KeepLast, "EVERY", 0.0)
    with pytest.raises(Interrupted):
        run(config, tmp_path / "cut")
    monkeypatch.setattr(callbacks.History, "on_train_epoch_end", original)
    resumed = run(config.model_copy(update={"resume": True}), tmp_path / "cut")
    assert without_times(resumed) == without_times(undisturbed)
    assert (tmp_path / "cut/predictions.csv").read_bytes() == (tmp_path / "whole/predictions.csv").read_bytes()


def test_the_setting_and_what_was_seen_are_recorded(embedding_config: Make, tmp_path: Path) -> None:
    free = run(
        embedding_config(protocol={"name": "view1", "setting": "unrestricted"}, objective={"name": "ntxent"}),
        tmp_path / "a",
    )
    assert free["setting"] == "unrestricted"
    assert 2 < free["n_train_people"] <= TINY.train_people  # all images of somebody may be held out
    assert free["n_train_images"] > 0
    assert "n_train" not in free
    bound = run(embedding_config(), tmp_path / "b")
    assert (bound["setting"], bound["n_train"]) == ("restricted", 24)


# --- View 2 -------------------------------------------------------------------------------------------------


def view2(make: Make, **changes: Any) -> TrainConfig:
    protocol = {"name": "view2", "setting": "restricted"}
    return make(max_epochs=1, protocol=protocol, **changes)


def test_view_2_goes_on_with_the_fold_it_was_stopped_in(
    embedding_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = view2(embedding_config)
    undisturbed = train_folds(config, RunFolder(tmp_path / "whole"))
    from siamese.training import folds

    calls = []

    def stop_in_the_fourth(of_fold: TrainConfig, folder: RunFolder, label: str) -> Result:
        calls.append(folder.path.name)
        if len(calls) == 4:
            raise Interrupted(15)
        return train(of_fold, folder, label)

    monkeypatch.setattr(folds, "train", stop_in_the_fourth)
    with pytest.raises(Interrupted):
        train_folds(config, RunFolder(tmp_path / "cut"))
    trained = {file.parent.name: file.stat().st_mtime_ns for file in tmp_path.glob("cut/fold_*/predictions.csv")}
    assert sorted(trained) == ["fold_01", "fold_02", "fold_03"]
    assert json.loads((tmp_path / "cut/fold_04/result.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr(folds, "train", train)
    resumed = train_folds(config.model_copy(update={"resume": True}), RunFolder(tmp_path / "cut"))
    assert without_times(resumed) == without_times(undisturbed)
    assert {name: (tmp_path / "cut" / name / "predictions.csv").stat().st_mtime_ns for name in trained} == trained

    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("whole/fold_*/result.json"))]
    accuracies = [result["test/acc"] for result in results]
    assert len(results) == undisturbed["folds"] == 10
    assert undisturbed["test/acc"] == pytest.approx(np.mean(accuracies))
    assert undisturbed["test/acc_se"] == pytest.approx(np.std(accuracies, ddof=1) / 10**0.5)
    half = 2.262157 * undisturbed["test/acc_se"]  # Student's t of 9 degrees of freedom
    assert undisturbed["test/acc_ci"] == pytest.approx([undisturbed["test/acc"] - half, undisturbed["test/acc"] + half])
    assert not [key for key in undisturbed if key.startswith("test/") and key[5:] in ("tp", "fp", "tn", "fn")]
    assert undisturbed["n_test"] == sum(undisturbed[key] for key in ("tp", "fp", "tn", "fn")) == TINY.view2_pairs
    scored = read_rows(tmp_path / "whole/predictions.csv")
    same, different = ([float(row["score"]) for row in scored if row["label"] == label] for label in "10")
    assert undisturbed["test/tar@far=0.01"] == np.mean(np.array(same) > max(different))  # of ten, none may pass
    assert [float(row["test/acc"]) for row in read_rows(tmp_path / "whole/folds.csv")] == pytest.approx(accuracies)
    assert "View 2" in (tmp_path / "whole/report.html").read_text()


def test_one_fold_alone_is_a_run_like_any_other(embedding_config: Make, tmp_path: Path) -> None:
    config = embedding_config(max_epochs=1, protocol={"name": "view2", "fold": 3})
    result = run(config, tmp_path / "run")
    assert (result["protocol"], result["n_test"]) == ("view2", TINY.view2_pairs // 10)


# --- evaluation ---------------------------------------------------------------------------------------------


def evaluation(run_folders: Path | list[Path], folder: Path, **options: Any) -> Result:
    names = [str(path) for path in run_folders] if isinstance(run_folders, list) else str(run_folders)
    return evaluate(EvalConfig.model_validate({"run": names, **options}), RunFolder(folder))


def test_evaluation_keeps_calibration_and_threshold(embedding_config: Make, tmp_path: Path) -> None:
    trained = run(embedding_config(threshold="eer"), tmp_path / "run")
    again = evaluation(tmp_path / "run", tmp_path / "eval")
    same = [key for key in trained if key.startswith(("val/", "test/", "calibration/")) or key in ("threshold", "tp")]
    assert {key: again[key] for key in same} == {key: trained[key] for key in same}
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()


def test_other_images_are_scored_on_the_runs_own_validation_pairs(embedding_config: Make, tmp_path: Path) -> None:
    config = embedding_config(max_epochs=1)
    split = {"split": "people", "val_fraction": 0.3, "split_seed": 2}
    run(config.model_copy(update={"data": config.data.model_copy(update=split)}), tmp_path / "run")
    evaluation(tmp_path / "run", tmp_path / "eval", data=config.data.model_dump())
    pairs = [
        [(row["split"], row["image1"], row["image2"]) for row in read_rows(tmp_path / name / "predictions.csv")]
        for name in ("run", "eval")
    ]
    assert pairs[0] == pairs[1]


def test_other_images_become_input_as_the_runs_own_did(embedding_config: Make, tmp_path: Path) -> None:
    config = embedding_config(max_epochs=1)
    data = config.data.model_copy(update={"crop": 150, "image_size": 33, "interpolation": "bicubic"})
    run(config.model_copy(update={"data": data}), tmp_path / "run")
    plain = {**config.data.model_dump(), "image_size": 105}  # as data=synthetic gives it
    evaluation(tmp_path / "run", tmp_path / "eval", data=plain)
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"data\.crop=100: the run was trained with data\.crop=150; leave it out"):
        evaluation(tmp_path / "run", tmp_path / "other", data={**plain, "crop": 100})


def test_an_ensemble_scores_by_the_mean_of_its_members(embedding_config: Make, tmp_path: Path) -> None:
    """Also members of different kinds and image sizes."""
    first = run(embedding_config(), tmp_path / "a")
    other = embedding_config(
        seed=1, model={"name": "koch", "widths": [2, 2, 2, 2], "embedding_dim": 4}, objective={"name": "bce"}
    )
    second = run(other.model_copy(update={"data": other.data.model_copy(update={"image_size": 70})}), tmp_path / "b")
    both = evaluation([tmp_path / "a", tmp_path / "b"], tmp_path / "eval")
    scores = [
        decision_of(result).calibration.logits(
            [float(row["score"]) for row in read_rows(tmp_path / name / "predictions.csv")]
        )
        for name, result in (("a", first), ("b", second))
    ]
    found = [float(row["score"]) for row in read_rows(tmp_path / "eval/predictions.csv")]
    np.testing.assert_allclose(found, np.mean(scores, axis=0), rtol=1e-6)
    assert both["parameters"] == first["parameters"] + second["parameters"]
    assert both["run"] == [str((tmp_path / name).resolve()) for name in "ab"]
    assert str(tmp_path / "b") in (tmp_path / "eval/report.html").read_text()


def test_what_is_no_ensemble_is_told(embedding_config: Make, tmp_path: Path) -> None:
    run(embedding_config(), tmp_path / "a")
    config = embedding_config()
    run(config.model_copy(update={"data": config.data.model_copy(update={"split_seed": 1})}), tmp_path / "split")
    run(embedding_config(protocol={"name": "view2", "fold": 1}), tmp_path / "fold")
    for other, message in (("split", r"data\.split_seed=1.*same pairs"), ("fold", "another protocol or setting")):
        with pytest.raises(ConfigError, match=message):
            evaluation([tmp_path / "a", tmp_path / other], tmp_path / "eval")
    with pytest.raises(ConfigError, match="several different ones"):
        evaluation([tmp_path / "a", tmp_path / "a"], tmp_path / "eval")
    for protocol in ("view1", "oneshot"):
        with pytest.raises(ConfigError, match=r"trained in view2, on people that .* tests"):
            evaluation(tmp_path / "fold", tmp_path / "eval", protocol={"name": protocol})
    for protocol, other in (
        ({"name": "view2", "fold": 2}, "fold"),
        ({"name": "view1", "setting": "unrestricted"}, "a"),
    ):
        with pytest.raises(ConfigError, match=r"the run was trained with protocol\..*leave it out"):
            evaluation(tmp_path / other, tmp_path / "eval", protocol=protocol)
    with pytest.raises(ConfigError, match=r"trained in view1, on people that view2 tests"):
        evaluation(tmp_path / "a", tmp_path / "eval", protocol={"name": "view2"})


def test_one_shot_of_one_run_and_of_two(embedding_config: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        run(embedding_config(seed=seed), tmp_path / str(seed))
    protocol = {"name": "oneshot", "ways": [2, 5], "trials": 60}
    one = evaluation(tmp_path / "0", tmp_path / "eval", protocol=protocol)
    again = evaluation(tmp_path / "0", tmp_path / "again", protocol=protocol)
    two = evaluation([tmp_path / "0", tmp_path / "1"], tmp_path / "both", protocol=protocol)
    assert without_times(one) == without_times(again)
    assert one["oneshot/2/pixels"] == two["oneshot/2/pixels"]
    table = read_rows(tmp_path / "eval/oneshot.csv")
    assert [(row["ways"], row["trials"], float(row["chance"])) for row in table] == [("2", "60", 0.5), ("5", "60", 0.2)]
    for row in table:
        key = f"oneshot/{row['ways']}"
        assert float(row["low"]) <= one[f"{key}/acc"] == float(row["acc"]) <= float(row["high"])
    assert (one["protocol"], one["n_test_people"]) == ("oneshot", TINY.test_people)
    page = (tmp_path / "eval/report.html").read_text()
    assert "5-way" in page
    with pytest.raises(DataError, match=r"ways=50.*12 people only; give other protocol\.ways"):
        evaluation(tmp_path / "0", tmp_path / "many", protocol={**protocol, "ways": [50]})


def test_weights_of_the_objective_are_not_the_networks(embedding_config: Make, tmp_path: Path) -> None:
    """ArcFace's centres are in the checkpoint, and not needed to score."""
    objective = {"name": "arcface", "margin": 0.3, "scale": 16.0}
    config = embedding_config(objective=objective, protocol={"name": "view1", "setting": "unrestricted"}, max_epochs=1)
    run(config, tmp_path / "run")
    network = load_network(tmp_path / "run/checkpoints/best.ckpt", config)
    assert not [name for name, _ in network.named_parameters() if "loss" in name]


def test_eval_tries_other_views_as_if_trained_with_them(embedding_config: Make, tmp_path: Path) -> None:
    options = {"objective": {"name": "ntxent"}, "max_epochs": 1, "backend": {"name": "plda"}}
    views = {"flip_average": True, "crop_average": 0.9}
    trained = run(embedding_config(**options, **views), tmp_path / "many")
    plain = run(embedding_config(**options), tmp_path / "one")
    tried = evaluation(tmp_path / "one", tmp_path / "tried", **views)
    assert {key: tried[key] for key in trained if "/" in key} == {key: trained[key] for key in trained if "/" in key}
    assert tried["calibration/slope"] != plain["calibration/slope"]
    back = evaluation(tmp_path / "many", tmp_path / "back", flip_average=False, crop_average=1.0)
    assert back["test/loss"] == plain["test/loss"]


@pytest.mark.parametrize("setting", ["restricted", "unrestricted"])
@pytest.mark.parametrize(("name", "cohort"), [("l1", 0), ("lda", 7), ("plda", 0), ("plda", 7)])
def test_a_back_end_is_fitted_saved_and_used_again(
    embedding_config: Make, tmp_path: Path, setting: str, name: str, cohort: int
) -> None:
    protocol, backend = {"name": "view1", "setting": setting}, {"name": name, "cohort": cohort}
    config = embedding_config(protocol=protocol, objective={"name": "ntxent"}, max_epochs=1)
    plain = run(config, tmp_path / "plain")
    fitted = run(
        embedding_config(protocol=protocol, objective={"name": "ntxent"}, max_epochs=1, backend=backend),
        tmp_path / "fit",
    )
    assert fitted["calibration/slope"] != plain["calibration/slope"]
    again = evaluation(tmp_path / "fit", tmp_path / "again")
    assert (tmp_path / "again/predictions.csv").read_bytes() == (tmp_path / "fit/predictions.csv").read_bytes()
    assert again["calibration/slope"] == fitted["calibration/slope"]
    tried = evaluation(tmp_path / "plain", tmp_path / "tried", backend=backend)
    same = [key for key in fitted if key.startswith(("val/", "test/", "calibration/"))]
    figures = {key: value for key, value in fitted.items() if key in same}
    assert {key: tried[key] for key in same} == figures
    trials = {"name": "oneshot", "ways": [3], "trials": 20}
    shots = [
        evaluation(tmp_path / "fit", tmp_path / "a", protocol=trials),
        evaluation(tmp_path / "plain", tmp_path / "b", protocol=trials, backend=backend),
    ]
    assert shots[0]["oneshot/3/acc"] == shots[1]["oneshot/3/acc"]
    (tmp_path / "fit/checkpoints/backend.ckpt").unlink()
    with pytest.raises(DataError, match=f"give backend={name} to eval.py"):
        evaluation(tmp_path / "fit", tmp_path / "lost")
