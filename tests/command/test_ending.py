"""What is printed at the end of runs and sweeps; the output of whole commands is in test_hydra_app.py."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from siamese.command import hydra_app
from siamese.command.ending import print_ending
from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.runs.tables import Membership, write_memberships

Make = Callable[..., TrainConfig]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record(name: str, config: TrainConfig, overrides: list[str] | None = None, **facts: Any) -> Path:
    folder = RunFolder(Path(name))
    folder.start(config, dataset="synthetic", protocol="view1")
    folder.record(**{"status": "done", **facts})
    if overrides is not None:
        (folder.path / ".hydra").mkdir()
        (folder.path / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    return folder.path


def commands(printed: str) -> list[str]:
    return [line.strip() for line in printed.splitlines() if line.startswith("  ") and not line.startswith("   ")]


@pytest.mark.parametrize(
    ("changes", "facts", "expected"),
    [
        (
            {"checkpoint": {"keep": "none", "every": "epoch"}, "logger": {"name": "tensorboard", "projector": False}},
            {}, ["tensorboard --logdir 'a run'"],
        ),
        ({"logger": {"name": "csv"}}, {"folds": 10}, ["python -m siamese verify 'a run/fold_01' A.jpg B.jpg"]),
        ({}, {"run": "other"}, []),
        ({}, {"status": "interrupted"}, []),
    ],
)  # fmt: skip
def test_only_commands_that_work_are_suggested(
    tiny_config: Make, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], facts: dict[str, Any],
    expected: list[str],
) -> None:  # fmt: skip
    view2 = {"protocol": {"name": "view2", "setting": "restricted", "fold": None}} if "folds" in facts else {}
    print_ending(record("a run", tiny_config(**changes, **view2), **facts))
    assert commands(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("photos", "expected"),
    [
        ([2] * 30, ["protocol=oneshot"]),
        ([2] * 12, ["protocol=oneshot", "protocol.ways=[2,5,10]"]),
        ([1, 2], ["protocol=oneshot", "protocol.ways=[2]"]),
        ([1] * 12, []),
        ([5], []),
    ],
)
def test_one_shot_is_suggested_with_as_many_ways_as_there_are_people(
    tiny_config: Make, capsys: pytest.CaptureFixture[str], photos: list[int], expected: list[str]
) -> None:
    folder = record("run", tiny_config())
    images = [Membership(f"{k}/{n}.jpg", str(k), "test", "") for k, number in enumerate(photos) for n in range(number)]
    write_memberships(folder / "split.csv", images)
    print_ending(folder)
    suggested = [shlex.split(one) for one in commands(capsys.readouterr().out) if "oneshot" in one]
    assert suggested == ([["python", "eval.py", "run=run", *expected]] if expected else [])


def test_a_sweep_ends_with_the_chosen_configuration(tiny_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for number, (size, accuracy) in enumerate(((4, 0.6), (8, 0.9), (16, 0.7))):
        record(
            f"sweep/{number}", tiny_config(batch_size=size, logger={"name": "tensorboard", "projector": False}),
            [f"batch_size={size}", "seed=7", "data=synthetic"], **{"val/acc": accuracy, "test/acc": 0.5},
        )  # fmt: skip
    print_ending(Path("sweep"))
    printed = capsys.readouterr().out
    assert "Validation accuracy chooses batch_size=8." in printed
    assert commands(printed) == [
        "tensorboard --logdir sweep",
        "python -m siamese verify sweep/1 A.jpg B.jpg",
        "python train.py -m batch_size=8 data=synthetic seed=0,1,2",
    ]


def test_a_sweep_without_weights_suggests_no_verification(
    tiny_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, size in enumerate((4, 8)):
        config = tiny_config(batch_size=size, checkpoint={"keep": "none", "every": "epoch"}, logger={"name": "csv"})
        record(f"sweep/{number}", config, [f"batch_size={size}"], **{"val/acc": 0.5})
    print_ending(Path("sweep"))
    assert commands(capsys.readouterr().out) == ["python train.py -m batch_size=4 seed=0,1,2"]


def test_a_sweep_of_evaluations_has_no_learning_curves(tiny_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        record(f"sweep/{number}", tiny_config(), run="/a", **{"test/acc": 0.5})
    print_ending(Path("sweep"))
    printed = capsys.readouterr().out
    assert "2 evaluations of runs that were trained elsewhere." in printed
    assert commands(printed) == []


def test_a_sweep_without_a_finished_job_has_only_its_page(
    tiny_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = record("sweep/0", tiny_config(), status="failed").parent
    (folder / "report.html").write_text("")
    print_ending(folder)
    assert (folder.resolve() / "report.html").as_uri() in capsys.readouterr().out


def test_a_failure_at_the_end_does_not_fail_the_run(
    tiny_config: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record("run", tiny_config())
    (folder / "config.yaml").write_text("of an older version: true")
    monkeypatch.setattr(hydra_app.Guard, "folder", folder)
    hydra_app._print_ending()
    assert capsys.readouterr().err.startswith("warning: cannot say what to do next: ")
