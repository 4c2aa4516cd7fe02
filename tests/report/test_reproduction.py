"""The comparison with the course report: which run belongs to which experiment, and the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from siamese.command.main import main
from siamese.config.load import compose_train
from siamese.config.section import to_plain
from siamese.errors import ConfigError
from siamese.files import flatten
from siamese.report.jobs import Job
from siamese.report.reproduction import EXPERIMENTS, GUESS, reproduction, verdict
from siamese.runs.records import Result

Make = Callable[..., Path]

FILES = {"1": "adam", "2": "sgd", "3": "batchnorm", "4": "dropout_0.1", "5": "dropout_0.2"}


def settings(*overrides: str) -> dict[str, object]:
    return to_plain(compose_train(["data=lfw_a", *overrides]))


def rows_of(plain: dict[str, object]) -> list[str]:
    job = Job(Path("x"), "x", flatten(plain), Result())
    return [experiment.title for experiment in EXPERIMENTS if experiment.describes(job)]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write the record of a finished run with these overrides and results."""

    def run(
        name: str, *overrides: str, acc: float = 0.66, val: float = 0.7, loss: float = 0.65, dataset: str = "lfw_a"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings(*overrides)))
        figures = {
            "status": "done", "dataset": dataset, "protocol": "view1", "n_test": 1000, "name": name, "val/acc": val,
            "val/loss": 0.6, "test/acc": acc, "test/loss": loss, "test/loss_ci": [loss - 0.0196, loss + 0.0196],
            "epochs": 8, "train_seconds": 100.0, "tp": 300, "fn": 200, "fp": 140, "tn": 360,
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(figures))
        return folder

    return run


def cells(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_experiment_file_is_recognised() -> None:
    for number, file in FILES.items():
        (row,) = rows_of(settings(f"experiment=report/{file}", "seed=3", "precision=bf16", "checkpoint=none"))
        assert row.startswith(f"{number} ")
    assert rows_of(settings("experiment=report/sgd_guess")) == []
    assert rows_of(settings("experiment=report/final")) == ["6 batch 32, decay 1e-5 (final)"]
    for size, decay in ((256, "1e-6"), (128, "1e-4"), (64, "1e-6")):
        (row,) = rows_of(settings("experiment=report/grid", f"batch_size={size}", f"weight_decay={decay}"))
        assert row == f"6 batch {size}, decay {decay}"


@pytest.mark.parametrize(
    "change", ["learning_rate=1e-3", "scheduler=cosine", "max_epochs=5", "model.init=koch", "data.crop=150",
               "model.embedding_dim=64", "threshold=0.4", "monitor=val/acc", "model.dropout=0.3", "augmentation=flip",
               "augmentation=koch", "protocol.setting=unrestricted", "data.split=people", "calibration=platt",
               "data.split_seed=5", "data.interpolation=nearest", "optimizer.betas=[0.5,0.9]", "optimizer=sgd",
               "trainer.gradient_clip_val=1.0"],
)  # fmt: skip
def test_run_with_a_changed_setting_is_not_recognised(change: str) -> None:
    assert rows_of(settings("experiment=report/batchnorm", change)) == []


def test_sgd_with_other_settings_is_not_recognised() -> None:
    assert rows_of(settings("experiment=report/sgd", "optimizer.momentum=0.0")) == []
    assert rows_of(settings("experiment=report/sgd", "optimizer.nesterov=true")) == []


def test_our_guess_has_a_row_without_verdict(make: Make, tmp_path: Path) -> None:
    make("guess", "experiment=report/sgd_guess", acc=0.65)
    text = reproduction([tmp_path])
    assert cells(text, GUESS.title)[1:4] == ["58.7 %", "65.0 %", ""]
    assert cells(text, "2 SGD |")[2] == ""


def test_comparisons_have_confidence_intervals(make: Make, tmp_path: Path) -> None:
    for name, seed, right in (("adam", 0, 90), ("adam", 1, 88), ("sgd", 0, 50), ("sgd", 1, 52)):
        folder = make(f"{name}{seed}", f"experiment=report/{name}", f"seed={seed}")
        lines = ["split,image1,image2,label,score,probability,predicted,outcome"]
        lines += [f"test,P{i}/P{i}_0001.jpg,P{i}/P{i}_0002.jpg,1,0.1,0.5,{int(i < right)},tp" for i in range(100)]
        (folder / "predictions.csv").write_text("\n".join(lines) + "\n")
    row = cells(reproduction([tmp_path]), "1 Adam – 2 SGD")
    assert row[1:3] == ["+5.5", "+38.0"]
    low, high = (float(end) for end in row[3].split(" to "))
    assert 20 < low < 38 < high < 56
    assert row[4:] == ["yes", "2 of 2 below 0.05", "2 and 2"]


def test_seeds_are_averaged_and_compared(make: Make, tmp_path: Path) -> None:
    make("a/0", "experiment=report/adam", acc=0.60, loss=0.85)
    make("a/1", "experiment=report/adam", "seed=1", acc=0.62, loss=0.87)
    make("b", "experiment=report/batchnorm", acc=0.66, loss=0.60)
    text = reproduction([tmp_path / "a", tmp_path])  # one folder is inside the other
    adam = cells(text, "1 Adam |")
    assert adam[:4] == [
        "1 Adam",
        "64.2 %",
        "61.0 ± 1.0 %",
        "lower",
    ]  # 3.2 points; two standard errors are 3.0
    assert adam[4:8] == ["0.8784", "0.8600 ± 0.0100", "agrees", "2"]
    assert cells(text, "3 batch normalization |")[1:8] == [
        "66.8 %", "66.0 %", "agrees", "0.6475", "0.6000", "lower", "1",
    ]  # fmt: skip
    assert "skipped" not in text
    assert cells(text, "2 SGD |")[2:4] == ["", ""]  # not measured: empty
    assert cells(text, "4 with dropout")[5] == ""


def test_seed_counts_once(make: Make, tmp_path: Path) -> None:
    make("final", "experiment=report/final", acc=0.66)
    make("grid/3", "experiment=report/grid", "batch_size=32", "weight_decay=1e-5", acc=0.66)
    assert cells(reproduction([tmp_path]), "6 batch 32")[7] == "1"


def test_one_table_per_data_set_without_synthetic_faces(make: Make, tmp_path: Path) -> None:
    make("0", "experiment=report/adam", acc=0.60)
    make("1", "experiment=report/adam", acc=0.70, dataset="lfw")
    make("2", "experiment=report/adam", acc=0.99, dataset="synthetic")
    text = reproduction([tmp_path])
    assert re.findall("^## (.*)$", text, re.M) == ["LFW-a, aligned", "LFW, original images"]
    assert "99.0 %" not in text
    assert "1 other run skipped" in text


def test_choosing_by_validation_and_by_test(make: Make, tmp_path: Path) -> None:
    for size, val, acc in ((32, 0.70, 0.64), (64, 0.69, 0.68), (128, 0.68, 0.66), (256, 0.67, 0.66)):
        for decay in ("1e-4", "1e-5", "1e-6"):
            assert "grid" not in reproduction([tmp_path]) if size > 32 else True  # not before it is complete
            first = decay == "1e-5"
            words = ["experiment=report/grid", f"batch_size={size}", f"weight_decay={decay}"]
            make(f"{size}-{decay}", *words, val=val if first else 0.6, acc=acc if first else 0.66)
    text = reproduction([tmp_path])
    assert "The grid with seed 0, 12 runs" in text
    assert cells(text, "32 |") == ["32", "60.0 / 66.0", "70.0 / 64.0", "60.0 / 66.0"]
    assert "Validation accuracy chooses batch size and weight decay 32 and 1e-05, with test accuracy 64.0 %" in text
    assert "64 and 1e-05, with test accuracy 68.0 %: 4.0 points more. The mean over the grid is 66.0 %" in text


def test_final_model_is_compared_epoch_by_epoch(make: Make, tmp_path: Path) -> None:
    folder = make("final", "experiment=report/final")
    (folder / "history.csv").write_text(
        "epoch,train/loss,train/acc,val/loss,val/acc,lr,seconds\n1,0.7,0.6,0.65,0.66,1e-4,9\n2,0.3,0.9,0.62,0.67,1e-4,9\n"
    )
    text = reproduction([tmp_path])
    assert cells(text, "ours | 300") == ["ours", "300", "200", "140", "360"]
    assert cells(text, "1 | 0.6874")[1] == "0.6874 / 0.7000"
    assert cells(text, "3 | 0.1010")[1] == "0.1010 /"  # the run has only two epochs


@pytest.mark.parametrize(
    ("ours", "expected"), [(0.70, "agrees"), (0.728, "agrees"), (0.732, "higher"), (0.668, "lower")]
)
def test_verdict(ours: float, expected: str) -> None:
    assert verdict(ours, 0.70, 0.0145) == expected


def test_folders_without_such_runs_are_errors(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make("other", "experiment=report/adam", "learning_rate=1e-3")
    with pytest.raises(ConfigError, match="no finished run of the course report's experiments"):
        reproduction([tmp_path])
    assert main(["reproduction", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: nowhere: no such folder\n"
