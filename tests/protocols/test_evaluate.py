"""Scoring finished runs again: calibration, threshold, back ends, views, other images, ensembles."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import eval_config
from conftest import ROOT, TINY, read_rows, run
from PIL import Image
from pydantic import ValidationError

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, DataError
from siamese.evaluation.calibration import Calibration, fit_fusion, fit_platt
from siamese.evaluation.metrics import sigmoid
from siamese.protocols.evaluate import evaluate
from siamese.report.run_page import write_run_page
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_config
from siamese.scoring.networks import load_network
from siamese.training.folds import train_folds

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]
EmbeddingRun = Callable[..., tuple[Path, dict[str, Any]]]


def evaluation(runs: Path | list[Path], folder: Path, **options: Any) -> dict[str, Any]:
    names = [str(path) for path in runs] if isinstance(runs, list) else str(runs)
    return evaluate(eval_config(run=names, **options), RunFolder(folder)).as_dict()


# --- what training records and an evaluation repeats ------------------------------------------------------


def test_similarities_are_calibrated_and_the_threshold_chosen_on_validation(embedding_run: EmbeddingRun) -> None:
    path, result = embedding_run()
    scored = read_rows(path / "predictions.csv")
    val = [row for row in scored if row["split"] == "val"]
    scores, labels = np.array([[float(row["score"]), float(row["label"])] for row in val]).T
    assert np.abs([float(row["score"]) for row in scored]).max() <= 1
    line = fit_platt(scores, labels)
    assert (result["calibration/slope"], result["calibration/intercept"]) == pytest.approx(line)
    probability = sigmoid(line.logits(scores))
    right = ((probability >= result["threshold"]) == labels).mean()
    assert right == result["val/acc"] == max(((probability >= t) == labels).mean() for t in [*probability, 1.1])
    assert result["threshold_origin"] == "chosen on the validation pairs, by accuracy"
    first = read_rows(path / "history.csv")[0]
    assert first["train/acc"] == ""  # training with this objective decides nothing
    assert 0 <= float(first["val/auc"]) <= 1


def test_bce_needs_no_calibration_and_can_have_one(
    tiny_config: Make, trained: tuple[TrainConfig, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, _, plain = trained
    scaled = run(tiny_config(max_epochs=3, calibration="temperature"), tmp_path / "scaled")
    assert (plain["calibration/slope"], plain["calibration/intercept"]) == (1.0, 0.0)
    assert scaled["calibration/slope"] != 1.0
    assert scaled["calibration/intercept"] == 0.0
    assert scaled["test/acc"] == plain["test/acc"]
    assert scaled["test/auc"] == plain["test/auc"]


def test_the_setting_and_the_training_data_are_recorded(embedding_run: EmbeddingRun) -> None:
    _, free = embedding_run(setting="unrestricted")
    assert free["setting"] == "unrestricted"
    assert 2 < free["n_train_people"] <= TINY.train_people  # all images of a person may be held out
    assert free["n_train_images"] > 0
    assert "n_train" not in free
    _, bound = embedding_run()
    assert (bound["setting"], bound["n_train"]) == ("restricted", 24)


def test_evaluation_keeps_calibration_and_threshold(embedding_run: EmbeddingRun, tmp_path: Path) -> None:
    path, result = embedding_run()
    again = evaluation(path, tmp_path / "eval")
    same = [key for key in result if key.startswith(("val/", "test/", "calibration/")) or key in ("threshold", "tp")]
    assert {key: again[key] for key in same} == {key: result[key] for key in same}
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (path / "predictions.csv").read_bytes()


def test_weights_of_the_objective_are_not_part_of_the_network(embedding_config: Make, tmp_path: Path) -> None:
    """ArcFace's class centres are in the checkpoint and not needed for scoring."""
    config = embedding_config("unrestricted", objective={"name": "arcface", "margin": 0.3, "scale": 16.0})
    run(config, tmp_path / "run")
    network = load_network(tmp_path / "run/checkpoints/best.ckpt", config)
    assert not [name for name, _ in network.named_parameters() if "loss" in name]


# --- what an evaluation changes ---------------------------------------------------------------------------


def test_other_images_are_preprocessed_and_split_as_the_runs_own(embedding_config: Make, tmp_path: Path) -> None:
    config = embedding_config()
    own = {
        "crop": 150, "image_size": 33, "interpolation": "bicubic", "split": "people", "val_fraction": 0.3,
        "split_seed": 2,
    }  # fmt: skip
    run(config.model_copy(update={"data": config.data.model_copy(update=own)}), tmp_path / "run")
    plain = {**config.data.model_dump(), "image_size": 105}  # as in conf/data/synthetic.yaml
    evaluation(tmp_path / "run", tmp_path / "eval", data=plain)
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (tmp_path / "run/predictions.csv").read_bytes()


def test_lists_that_test_people_of_the_training_set_are_refused(
    embedding_run: EmbeddingRun, tiny_root: Path, tmp_path: Path
) -> None:
    path, _ = embedding_run()
    other = shutil.copytree(tiny_root, tmp_path / "other")
    for kind in ("pairs", "people"):
        shutil.copy(tiny_root / f"{kind}DevTrain.txt", other / f"{kind}DevTest.txt")
        shutil.copy(tiny_root / f"{kind}DevTest.txt", other / f"{kind}DevTrain.txt")
    data = {**read_config(path / "config.yaml").data.model_dump(), "root": str(other)}
    trials: dict[str, dict[str, Any]] = {"view1": {}, "oneshot": {"ways": [2], "trials": 9}, "identification": {}}
    for protocol, options in trials.items():
        with pytest.raises(
            DataError, match=r"is in the test data and was used for training or validation in .*; leave"
        ):
            evaluation(path, tmp_path / protocol, data=data, protocol={"name": protocol, **options})


def test_an_ensemble_scores_by_the_mean_of_its_members(
    tiny_config: Make, embedding_run: EmbeddingRun, tmp_path: Path
) -> None:
    """The members have different kinds of networks and image sizes."""
    model = {"name": "koch", "widths": [2, 2, 2, 2], "embedding_dim": 4}
    other = tiny_config(seed=1, model=model, max_epochs=1)
    other = other.model_copy(update={"data": other.data.model_copy(update={"image_size": 70})})
    members = [embedding_run(), (tmp_path / "b", run(other, tmp_path / "b"))]
    both = evaluation([path for path, _ in members], tmp_path / "eval")
    logits = [
        Calibration(result["calibration/slope"], result["calibration/intercept"]).logits(
            np.array([float(row["score"]) for row in read_rows(path / "predictions.csv")])
        )
        for path, result in members
    ]
    found = [float(row["score"]) for row in read_rows(tmp_path / "eval/predictions.csv")]
    np.testing.assert_allclose(found, np.mean(logits, axis=0), rtol=1e-6)
    assert both["parameters"] == sum(result["parameters"] for _, result in members)
    assert both["run"] == [str(path.resolve()) for path, _ in members]
    assert str(tmp_path / "b") in (tmp_path / "eval/report.html").read_text()
    assert "weights" not in both

    weighted = evaluation([path for path, _ in members], tmp_path / "fused", fusion="logistic")
    rows = read_rows(tmp_path / "fused/predictions.csv")
    val = np.array([row["split"] == "val" for row in rows])
    labels = np.array([int(row["label"]) for row in rows])
    weights = fit_fusion([logit[val] for logit in logits], labels[val])
    assert weighted["weights"] == pytest.approx(list(weights), abs=1e-5)
    assert not np.allclose(weights, 0.5, atol=1e-3)
    np.testing.assert_allclose([float(row["score"]) for row in rows], weights @ logits, rtol=1e-5, atol=1e-5)
    assert f"the weights {weights[0]:.2f} (" in (tmp_path / "fused/report.html").read_text()


def test_other_views_give_the_results_of_a_run_with_them(embedding_config: Make, tmp_path: Path) -> None:
    views = {"flip_average": True, "crop_average": 0.9}
    with_views = run(embedding_config(backend={"name": "plda"}, **views), tmp_path / "many")
    plain = run(embedding_config(backend={"name": "plda"}), tmp_path / "one")
    tried = evaluation(tmp_path / "one", tmp_path / "tried", **views)
    figures = [key for key in with_views if "/" in key]
    assert {key: tried[key] for key in figures} == {key: with_views[key] for key in figures}
    assert tried["calibration/slope"] != plain["calibration/slope"]
    back = evaluation(tmp_path / "many", tmp_path / "back", flip_average=False, crop_average=1.0)
    assert back["test/loss"] == plain["test/loss"]


@pytest.mark.parametrize(
    ("setting", "name", "cohort"),
    [("restricted", "l1", 0), ("restricted", "plda", 7), ("unrestricted", "lda", 7), ("unrestricted", "plda", 0)],
)
def test_a_back_end_is_fitted_saved_and_used_again(
    embedding_config: Make, embedding_run: EmbeddingRun, tmp_path: Path, setting: str, name: str, cohort: int
) -> None:
    backend = {"name": name, "cohort": cohort}
    plain, plain_result = embedding_run(setting=setting)
    fitted = run(embedding_config(setting, backend=backend), tmp_path / "fit")
    assert fitted["calibration/slope"] != plain_result["calibration/slope"]
    again = evaluation(tmp_path / "fit", tmp_path / "again")
    assert (tmp_path / "again/predictions.csv").read_bytes() == (tmp_path / "fit/predictions.csv").read_bytes()
    assert again["calibration/slope"] == fitted["calibration/slope"]
    tried = evaluation(plain, tmp_path / "tried", backend=backend)
    same = [key for key in fitted if key.startswith(("val/", "test/", "calibration/"))]
    assert {key: tried[key] for key in same} == {key: fitted[key] for key in same}
    trials = {"name": "oneshot", "ways": [3], "trials": 20}
    shots = [
        evaluation(tmp_path / "fit", tmp_path / "a", protocol=trials),
        evaluation(plain, tmp_path / "b", protocol=trials, backend=backend),
    ]
    assert shots[0]["oneshot/3/acc"] == shots[1]["oneshot/3/acc"]
    (tmp_path / "fit/checkpoints/backend.ckpt").unlink()
    with pytest.raises(DataError, match=f"fit the back end again: eval.py backend={name}"):
        evaluation(tmp_path / "fit", tmp_path / "lost")


# --- error rates by group ---------------------------------------------------------------------------------


def test_figures_by_group_of_a_finished_run(embedding_run: EmbeddingRun, tiny_root: Path, tmp_path: Path) -> None:
    path, result = embedding_run()
    groups = tmp_path / "mine.csv"
    shutil.copy(tiny_root / "groups.csv", groups)
    found = evaluation(path, tmp_path / "eval", groups=str(groups))
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (path / "predictions.csv").read_bytes()
    assert {key: found[key] for key in result if key.startswith(("test/", "calibration/", "threshold"))} == {
        key: value for key, value in result.items() if key.startswith(("test/", "calibration/", "threshold"))
    }
    assert found["groups/file"] == str(groups)
    assert found["groups/sha256"] == hashlib.sha256(groups.read_bytes()).hexdigest()
    gender = {row["person"]: row["gender"] for row in read_rows(groups)}
    tested = [row for row in read_rows(path / "predictions.csv") if row["split"] == "test"]
    both = [{gender[row[name].split("/")[0]] for name in ("image1", "image2")} for row in tested]
    for value in ("female", "male"):
        pairs = [row for row, values in zip(tested, both, strict=True) if values == {value}]
        counts = {
            "acc": ([row["predicted"] == row["label"] for row in pairs]),
            "fnmr": [row["outcome"] == "fn" for row in pairs if row["label"] == "1"],
            "fmr": [row["outcome"] == "fp" for row in pairs if row["label"] == "0"],
        }
        for row in read_rows(tmp_path / "eval/groups.csv"):
            if (row["attribute"], row["kind"], row["group"]) == ("gender", "group", value):
                cases = counts[row["figure"]]
                assert (int(row["cases"]), int(row["pairs"])) == (sum(cases), len(cases))
    groups.unlink()
    page = write_run_page(tmp_path / "eval").read_text(encoding="utf-8")
    assert "Error rates by group" in page
    assert page.count("<h3>gender</h3>") == 1


def test_a_group_with_harder_photos_has_a_higher_error_rate(
    embedding_run: EmbeddingRun, tiny_root: Path, tiny_data: dict[str, object], tmp_path: Path
) -> None:
    """The network cannot tell people with glasses apart, because all their photos are the same grey picture."""
    path, _ = embedding_run()
    shutil.copytree(tiny_root, tmp_path / "faces")
    glasses = {row["person"]: row["glasses"] for row in read_rows(tiny_root / "groups.csv")}
    for photo in (tmp_path / "faces/lfw").glob("*/*.jpg"):
        if glasses[photo.parent.name] == "yes":
            Image.new("RGB", (250, 250), (128, 128, 128)).save(photo)
    data = {**tiny_data, "root": str(tmp_path / "faces"), "cache": str(tmp_path / "cache")}
    evaluation(path, tmp_path / "eval", data=data, groups=str(tiny_root / "groups.csv"))
    rows = [row for row in read_rows(tmp_path / "eval/groups.csv") if row["attribute"] == "glasses"]
    rate = {row["group"]: row["share"] for row in rows if (row["kind"], row["figure"]) == ("group", "fmr")}
    assert float(rate["yes"]) == 1 > float(rate["no"])


def test_a_file_of_groups_that_does_not_fit_is_refused(embedding_run: EmbeddingRun, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("person,gender\nNobody,f\n")
    with pytest.raises(DataError, match="has none of the 12 test people; its first person is 'Nobody'"):
        evaluation(embedding_run()[0], tmp_path / "eval", groups=str(tmp_path / "groups.csv"))


def test_groups_of_trials_are_refused() -> None:
    with pytest.raises(ValidationError, match="are those of pairs, not of protocol=oneshot"):
        eval_config(run="run", groups="groups.csv", protocol={"name": "oneshot"})


# --- View 2 over all folds ----------------------------------------------------------------------------------


def test_runs_of_view_2_are_scored_fold_by_fold(
    tiny_config: Make, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"name": "lbp", "scales": [1.0], "radii": [1], "embedding_dim": 8}
    for cell in (10, 20):
        config = tiny_config(
            model={**model, "cell": cell}, max_epochs=0, backend={"name": "plda"}, objective={"name": "ntxent"},
            protocol={"name": "view2"}, threshold="accuracy", name=f"cells of {cell}",
        )  # fmt: skip
        train_folds(config, RunFolder(tmp_path / f"cell{cell}"))
    monkeypatch.setattr("siamese.protocols.evaluate.write_run_page", lambda path: path / "report.html")
    one, two = tmp_path / "cell10", tmp_path / "cell20"
    again = evaluation(one, tmp_path / "again", groups=str(tiny_root / "groups.csv"))
    trained = RunFolder(one).result
    assert trained is not None
    assert again["run"] == str(one)
    assert (tmp_path / "again/groups.csv").is_file()
    assert not list((tmp_path / "again").glob("fold_*/groups.csv"))
    for key in ("folds", "test/acc", "test/acc_se", "test/auc", "val/auc", "n_test", "tp", "fp", "protocol"):
        assert again[key] == trained.as_dict()[key], key
    both = evaluation([one, two], tmp_path / "both", fusion="logistic")
    assert both["run"] == [str(one), str(two)]
    of_folds = [RunFolder(path).result for path in sorted((tmp_path / "both").glob("fold_*"))]
    np.testing.assert_allclose(both["weights"], np.mean([fold.weights for fold in of_folds if fold], axis=0))
    assert (both["folds"], both["n_test"]) == (10, TINY.view2_pairs)
    third = evaluation([one / "fold_03", two / "fold_03"], tmp_path / "third", fusion="logistic")
    assert read_rows(tmp_path / "both/fold_03/predictions.csv") == read_rows(tmp_path / "third/predictions.csv")
    assert [float(row["test/acc"]) for row in read_rows(tmp_path / "both/folds.csv")][2] == third["test/acc"]

    with pytest.raises(ConfigError, match=r"fold_03: it is not View 2 over all folds, but .*cell10 has 10 folds;"):
        evaluation([one, two / "fold_03"], tmp_path / "mixed")
    with pytest.raises(ConfigError, match=r"data=folder needs one network; give .*: run=.*cell10/fold_01"):
        evaluation(one, tmp_path / "own", data={"name": "folder", "root": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"protocol\.fold needs one network"):
        evaluation(one, tmp_path / "third", protocol={"name": "view2", "fold": 3})
    with pytest.raises(ConfigError, match=r"again is an evaluation; give the run that it scored: .*cell10"):
        evaluation(tmp_path / "again", tmp_path / "twice")
    with pytest.raises(ConfigError, match=r"trained with protocol\.fold=2, unlike .*fold_01 with 1"):
        evaluation([one / "fold_01", one / "fold_02"], tmp_path / "folds")
    with pytest.raises(ConfigError, match="people that oneshot tests; train with protocol=view1"):
        evaluation(one, tmp_path / "oneshot", protocol={"name": "oneshot"})
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval.py"), f"run={one}", "protocol=oneshot"], capture_output=True, text=True,
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, "train with protocol=view1" in done.stderr) == (2, True), done.stderr
    (two / "fold_07/result.json").unlink()
    with pytest.raises(ConfigError, match="fold_07: no run found"):
        evaluation([one, two], tmp_path / "late")
    assert not list((tmp_path / "late").glob("fold_*"))
