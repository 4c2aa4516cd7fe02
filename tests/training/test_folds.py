"""LFW View 2: one network per fold, resumed in the fold that was stopped, and the pooled result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY, read_rows, run, without_times
from filelock import FileLock

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.report.run_page import write_run_page
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, config_text, read_config
from siamese.runs.signals import Interrupted
from siamese.runs.tables import OUTCOMES
from siamese.scoring.folds import pool_folds
from siamese.training import folds
from siamese.training.folds import train_folds
from siamese.training.train import train

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]


def test_view_2_is_resumed_in_the_fold_where_it_was_stopped(
    embedding_config: Make, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = embedding_config(protocol={"name": "view2"}, groups=str(tiny_root / "groups.csv"))
    folder = RunFolder(tmp_path / "folds")
    calls = []

    def stop_in_the_fourth(of_fold: TrainConfig, fold_folder: RunFolder, label: str, swept: dict[str, str]) -> Result:
        calls.append(fold_folder.path.name)
        if len(calls) == 4:
            raise Interrupted(15)
        return train(of_fold, fold_folder, label, swept)

    with monkeypatch.context() as patch:
        patch.setattr(folds, "train", stop_in_the_fourth)
        with pytest.raises(Interrupted):
            train_folds(config, folder)
    finished = {file.parent.name: file.stat().st_mtime_ns for file in folder.path.glob("fold_*/predictions.csv")}
    assert sorted(finished) == ["fold_01", "fold_02", "fold_03"]
    assert json.loads((folder.path / "fold_04/result.json").read_text())["status"] == "interrupted"
    result = train_folds(config.model_copy(update={"resume": True}), folder).as_dict()
    assert {name: (folder.path / name / "predictions.csv").stat().st_mtime_ns for name in finished} == finished
    check_pooled(folder.path, result)
    assert not list(folder.path.glob("fold_*/groups.csv"))
    groups = [row for row in read_rows(folder.groups) if (row["attribute"], row["figure"]) == ("gender", "acc")]
    assert sum(int(row["pairs"]) for row in groups) == TINY.view2_pairs
    assert sum(int(row["cases"]) for row in groups) == result["tp"] + result["tn"]
    assert train_folds(config.model_copy(update={"resume": True}), folder).as_dict() == result

    # A fold alone is an ordinary run with the same result.
    alone = run(embedding_config(protocol={"name": "view2", "fold": 4}), tmp_path / "alone")
    fourth = json.loads((folder.path / "fold_04/result.json").read_text())
    assert without_times(alone) | {"label": "tiny-fold4"} == without_times(fourth)
    assert (alone["protocol"], alone["n_test"]) == ("view2", TINY.view2_pairs // 10)


def test_folds_that_other_processes_trained_are_kept(
    embedding_config: Make, tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    view2 = {"name": "view2"}
    whole = RunFolder(tmp_path / "whole")
    kept = [
        run(embedding_config(protocol={**view2, "fold": fold}, groups=groups), whole.fold(fold).path)
        for fold, groups in ((2, None), (9, str(tiny_root / "groups.csv")))
    ]
    pooled = train_folds(embedding_config(protocol=view2, resume=True), whole).as_dict()
    assert [json.loads((whole.fold(fold).path / "result.json").read_text()) for fold in (2, 9)] == kept
    for fold in range(1, 11):
        FileLock(whole.fold(fold).path / ".lock").acquire(timeout=0)
    without = train_folds(embedding_config(protocol=view2), RunFolder(tmp_path / "one_process")).as_dict()
    assert without_times(pooled) == without_times(without)
    check_copies(whole, pooled, embedding_config(protocol=view2, resume=True), tmp_path / "copies", caplog)


def check_copies(
    whole: RunFolder, pooled: dict[str, Any], config: TrainConfig, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Folds that were trained on other machines, of which only the records were copied."""
    copies = RunFolder(path)
    for fold in range(1, 11):
        copies.fold(fold).path.mkdir(parents=True)
        for name in ("config.yaml", "result.json", "predictions.csv", "split.csv"):
            shutil.copy(whole.fold(fold).path / name, copies.fold(fold).path / name)
        elsewhere = read_config(copies.fold(fold).config).model_copy(
            update={
                "data": config.data.model_copy(
                    update={"root": f"/machine{fold}/lfw", "cache": f"/machine{fold}/cache"}
                ),
                "trainer": config.trainer.model_copy(update={"accelerator": "gpu"}),
            }
        )
        copies.fold(fold).config.write_text(config_text(elsewhere))
        facts = {"precision": "bf16", "git_commit": "feed", "device": "a GPU", "version/torch": "9.9"}
        copies.fold(fold).record(**facts)
    limited = read_config(copies.fold(4).config)
    trainer = limited.trainer.model_copy(update={"limit_train_batches": 1})
    copies.fold(4).config.write_text(config_text(limited.model_copy(update={"trainer": trainer})))
    with pytest.raises(ConfigError, match=r"fold_04 holds a run with trainer\.limit_train_batches=1, not None"):
        train_folds(config, copies)
    copies.fold(4).config.write_text(config_text(limited))
    result = train_folds(config, copies).as_dict()
    kept = [key for key in pooled if key.startswith(("test/", "val/", "n_")) or key in OUTCOMES]
    assert {key: result[key] for key in kept} == {key: pooled[key] for key in kept}
    assert {key: result[key] for key in facts} == facts
    assert "differs" not in caplog.text

    # A fold is trained again elsewhere: the recorded result is that of other folds.
    slope = 2 * result_of(copies, 3)["calibration/slope"]
    copies.fold(3).record(
        precision="32", device="a CPU", **{"calibration/slope": slope, "val/auc": 0.25, "train_seconds": 9.0}
    )
    result = train_folds(config, copies).as_dict()
    assert (result["precision"], result["device"], result["git_commit"]) == ("bf16, 32", "a GPU, a CPU", "feed")
    assert result["val/auc"] != pooled["val/auc"]
    assert "precision differs between the folds: bf16 in 1, 2, 4, 5, 6, 7, 8, 9, 10; 32 in 3" in caplog.text

    split = copies.fold(5).split
    digest = read_rows(split)[0]["digest"]
    split.write_text(split.read_text().replace(digest, "f" * len(digest), 1))
    pool_folds(None, copies, 0.0)
    assert f"not the same file in {copies.fold(5).path} as in {copies.fold(1).path}" in caplog.text

    copies.fold(6).path.rename(copies.path / "archived")
    recorded = copies.result
    assert train_folds(config, copies) == recorded
    (copies.path / "archived").rename(copies.fold(6).path)

    predictions = copies.fold(7).predictions
    text = predictions.read_text()
    predictions.write_text(text.rpartition("test,")[0])
    (copies.path / "result.json").unlink()  # otherwise the result is kept
    with pytest.raises(ConfigError, match=r"fold_07/predictions\.csv: tp, fp, tn and fn of its test pairs are"):
        train_folds(config, copies)
    copies.fold(6).path.rename(copies.path / "gone")  # found before a fold is trained
    with pytest.raises(ConfigError, match=r"fold_07/predictions\.csv: tp, fp, tn and fn of its test pairs are"):
        train_folds(config, copies)
    predictions.write_text(text)
    shutil.copytree(copies.fold(8).path, copies.fold(6).path)
    (copies.path / "fold_06/config.yaml").write_text(copies.fold(8).config.read_text().replace("fold: 8", "fold: 6"))
    with pytest.raises(ConfigError, match=r"fold_08: it tested the pairs of fold_06"):
        train_folds(config, copies)


def result_of(whole: RunFolder, fold: int) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((whole.fold(fold).path / "result.json").read_text())
    return result


@pytest.mark.parametrize("case", ["in use", "another configuration", "another name", "too many"])
def test_a_fold_that_cannot_be_used_is_found_before_training(case: str, embedding_config: Make, tmp_path: Path) -> None:
    whole, view2 = RunFolder(tmp_path / "whole"), {"name": "view2"}
    name = {"another name": "fold_3", "too many": "fold_11"}.get(case, "fold_03")
    seed = 5 if case == "another configuration" else 0
    run(embedding_config(protocol={**view2, "fold": 3}, seed=seed), whole.path / name)
    message = {
        "in use": "fold_03 is in use by another process", "another configuration": "fold_03 holds a run with seed=5",
    }.get(case, f"{name}: not a folder of one of the 10 folds, which are fold_01 to fold_10")  # fmt: skip
    lock = FileLock(whole.path / name / ".lock")
    if case == "in use":
        lock.acquire()
    with pytest.raises(ConfigError, match=message):
        train_folds(embedding_config(protocol=view2), whole)
    assert [file.parent.name for file in whole.path.glob("*/result.json")] == [name]
    assert whole.result is None
    lock.release()


def check_pooled(path: Path, pooled: dict[str, Any]) -> None:
    results = [json.loads(file.read_text()) for file in sorted(path.glob("fold_*/result.json"))]
    accuracies = [result["test/acc"] for result in results]
    assert len(results) == pooled["folds"] == 10
    assert pooled["test/acc"] == pytest.approx(np.mean(accuracies))
    assert pooled["test/acc_se"] == pytest.approx(np.std(accuracies, ddof=1) / 10**0.5)
    half = 2.262157 * pooled["test/acc_se"]  # Student's t with 9 degrees of freedom
    assert pooled["test/acc_ci"] == pytest.approx([pooled["test/acc"] - half, pooled["test/acc"] + half])
    assert not [key for key in pooled if key.startswith("test/") and key[5:] in ("tp", "fp", "tn", "fn")]
    assert pooled["n_test"] == sum(pooled[key] for key in ("tp", "fp", "tn", "fn")) == TINY.view2_pairs
    scored = read_rows(path / "predictions.csv")
    same, different = ([float(row["score"]) for row in scored if row["label"] == label] for label in "10")
    assert pooled["test/auc"] == pytest.approx(np.mean([one > other for one in same for other in different]))
    assert "test/tar@far=0.01" not in pooled  # there are fewer than 100 different pairs
    assert [float(row["test/acc"]) for row in read_rows(path / "folds.csv")] == pytest.approx(accuracies)
    write_run_page(path)
    page = (path / "report.html").read_text()
    assert "View 2" in page
    assert "Error rates by group" in page
    check_lfw_roc(path)


def check_lfw_roc(path: Path) -> None:
    """Each line must be the mean over the folds of both rates for a threshold, in the order of LFW's results page."""
    assert not (path / "fold_01/lfw_roc.txt").exists()
    folds = []
    for file in sorted(path.glob("fold_*/result.json")):
        result, tested = json.loads(file.read_text()), read_rows(file.parent / "predictions.csv")
        slope, intercept = result["calibration/slope"], result["calibration/intercept"]
        rows = [row for row in tested if row["split"] == "test"]
        folds.append([(slope * float(row["score"]) + intercept, row["label"]) for row in rows])
    lines = (path / "lfw_roc.txt").read_text().splitlines()
    thresholds = [float(row["score"] or "inf") for row in read_rows(path / "roc.csv")]
    assert len(lines) == len(thresholds) > 2
    for line, threshold in zip(lines, thresholds, strict=True):
        means = [
            np.mean([np.mean([score >= threshold for score, one in fold if one == label]) for fold in folds])
            for label in "10"
        ]
        assert [float(rate) for rate in line.split(" ")] == pytest.approx(means, abs=1e-6)


@pytest.mark.slow
def test_torchrun_trains_all_folds_as_one_process_does(tiny_overrides: list[str], tmp_path: Path) -> None:
    kept = [word for word in tiny_overrides if not word.startswith(("model.batchnorm", "trainer", "max_epochs"))]
    sgd = ["model.batchnorm=false", "optimizer=sgd", "learning_rate=0.1", "max_epochs=1", "logger=csv"]
    words = [str(ROOT / "train.py"), *kept, *sgd, "protocol=view2", "trainer=ddp", "trainer.accelerator=cpu"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for starter, more in ((torchrun, "hydra.run.dir=two"), ([], "hydra.run.dir=one")):
        devices = [] if starter else ["trainer.devices=1"]
        done = subprocess.run(
            [sys.executable, *starter, *words, *devices, more], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr
    one, two = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two"))
    assert two["folds"] == one["folds"] == 10
    for key in ("val/loss", "test/loss", "test/auc"):
        assert two[key] == pytest.approx(one[key], rel=1e-4), key
