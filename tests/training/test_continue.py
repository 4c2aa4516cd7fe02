"""A finished run is trained further with a larger ``max_epochs``, and loses nothing if that is stopped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from configs import eval_config, train_config
from conftest import read_rows, run
from resuming import KINDS, assert_equal, die

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.protocols.evaluate import evaluate
from siamese.report.jobs import read_jobs
from siamese.runs.continuing import ended_anyway, raised
from siamese.runs.finished import find_run
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, read_config
from siamese.runs.signals import Interrupted
from siamese.runs.tables import read_history
from siamese.training import folds
from siamese.training.folds import train_folds

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("without_pages")]

Make = Callable[..., TrainConfig]
AtStep = Callable[[int, Callable[[], None]], None]

TOO_FAST = {"learning_rate": 10.0, "model": {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 16}}
"""The validation loss only grows, so training stops early."""


def options(**changes: Any) -> dict[str, Any]:
    return {"batch_size": 4, "max_epochs": 2, "checkpoint": "all", **changes}


def without_continuation(path: Path) -> None:
    """Remove the one key in which a continued run differs from a run with all epochs at once."""
    file = path / "result.json"
    result = json.loads(file.read_text())
    assert result.pop("continued_after")
    file.write_text(json.dumps(result))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "resnet, groups of listed pairs"])
def test_epochs_in_two_parts_are_the_same_as_all_at_once(tiny_config: Make, tmp_path: Path, kind: str) -> None:
    schedule = {"scheduler": {"name": "step", "step_size": 2, "gamma": 0.5}}
    run(tiny_config(**options(**KINDS[kind], **schedule)), tmp_path / "parts")
    continued = run(tiny_config(**options(**KINDS[kind], **schedule, max_epochs=4, resume=True)), tmp_path / "parts")
    assert (continued["epochs"], continued["continued_after"]) == (4, [2])
    whole = run(tiny_config(**options(**KINDS[kind], **schedule, max_epochs=4)), tmp_path / "whole")
    assert "continued_after" not in whole
    without_continuation(tmp_path / "parts")
    assert_equal(tmp_path / "parts", tmp_path / "whole")
    assert read_config(tmp_path / "parts/config.yaml").max_epochs == 4
    assert not (tmp_path / "parts/earlier").exists()


def test_a_stopped_continuation_keeps_the_earlier_result(tiny_config: Make, tmp_path: Path, at_step: AtStep) -> None:
    folder = RunFolder(tmp_path / "run")
    first = run(tiny_config(**options(**KINDS["koch, listed pairs"])), folder.path)
    weights = torch.load(folder.best, weights_only=True)["state_dict"]
    scores = folder.predictions.read_bytes()
    longer = tiny_config(**options(**KINDS["koch, listed pairs"], max_epochs=5, resume=True))
    at_step(20, die)
    with pytest.raises(Interrupted):
        run(longer, folder.path)
    assert folder.result is not None
    assert folder.result.status == "running"
    earlier = RunFolder(folder.earlier)
    assert earlier.result is not None
    assert earlier.result.as_dict() == first
    assert earlier.predictions.read_bytes() == scores
    assert len(read_history(earlier.history)) == 2
    kept = torch.load(earlier.best, weights_only=True)["state_dict"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items())
    with pytest.raises(ConfigError, match=r"not finished \(running\).* or use its earlier result: .*earlier"):
        find_run(folder.path)
    again = evaluate(eval_config(run=str(folder.earlier)), RunFolder(tmp_path / "eval"))
    assert again.test_loss == first["test/loss"]
    assert [job.name for job in read_jobs(tmp_path) if not job.result.is_evaluation] == ["run"]
    with pytest.raises(ConfigError, match=r"max_epochs=5, not 2; resume=true can raise max_epochs, not lower it"):
        folder.check(tiny_config(**options(**KINDS["koch, listed pairs"], resume=True)))
    at_step(0, die)
    run(longer, folder.path)
    whole = tiny_config(**options(**KINDS["koch, listed pairs"], max_epochs=5))
    run(whole, tmp_path / "whole")
    without_continuation(folder.path)
    assert_equal(folder.path, tmp_path / "whole")
    assert not folder.earlier.exists()


def test_a_run_killed_before_it_is_trained_further_is_complete(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    first = run(tiny_config(**options()), folder.path)
    monkeypatch.setattr("siamese.runs.folder.write_result", Mock(side_effect=OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        run(tiny_config(**options(max_epochs=3, resume=True)), folder.path)
    assert folder.is_done
    assert folder.predictions.is_file()
    assert run(tiny_config(**options(resume=True)), folder.path) == first


def test_a_run_that_stopped_early_needs_more_patience(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(**changes: Any) -> TrainConfig:
        return tiny_config(**options(**{"patience": 1, "max_epochs": 6, **TOO_FAST, **changes}))

    first = run(make(), tmp_path / "run")
    epochs = first["epochs"]
    assert epochs < 6
    again = run(make(max_epochs=9, resume=True), tmp_path / "run")
    assert again == first
    assert f"training ended after {epochs} epochs, because val/loss was best in epoch {epochs - 1}" in caplog.text
    assert "give a larger patience, such as patience=2" in caplog.text
    assert read_config(tmp_path / "run/config.yaml").max_epochs == 9  # it would have ended in the same way
    continued = run(make(max_epochs=9, patience=3, resume=True), tmp_path / "run")
    assert continued["epochs"] > epochs
    run(make(max_epochs=9, patience=3), tmp_path / "whole")
    assert "continued_after" not in continued  # max_epochs was raised before, and changed nothing
    assert_equal(tmp_path / "run", tmp_path / "whole")


def test_more_patience_alone_does_not_continue_a_run_that_trained_all_epochs(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(tiny_config(**options()), tmp_path / "run")
    assert run(tiny_config(**options(patience=50, resume=True)), tmp_path / "run") == first
    assert "training ended after 2 epochs, which is max_epochs=2; to train further, give a larger" in caplog.text


@pytest.mark.parametrize(
    ("epochs", "best", "changes", "reason"),
    [
        (6, 5, {"max_epochs": 40}, "because of trainer.max_time=00:01:00:00; to train further, also give a longer"),
        (6, 5, {"max_epochs": 40, "trainer": {"max_time": None}}, ""),
        (20, 18, {"max_epochs": 40}, ""),
        (20, 18, {"patience": 9}, "which is max_epochs=20; to train further, give a larger max_epochs"),
        (9, 4, {"max_epochs": 40}, "because val/loss was best in epoch 4 .*, such as patience=10"),
        (9, 4, {"max_epochs": 40, "patience": 6}, ""),
    ],
)
def test_what_a_run_needs_to_go_on(epochs: int, best: int, changes: dict[str, Any], reason: str) -> None:
    recorded = train_config(trainer={"max_time": "00:01:00:00"})
    wanted = train_config(**{"trainer": {"max_time": "00:01:00:00"}, **changes})
    found = ended_anyway(Result(epochs=epochs, best_epoch=best), recorded, wanted)
    assert re.search(reason, found) if reason else found == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {"max_epochs": 19}), ({}, {"patience": 4}), ({}, {"trainer": {"max_time": "00:01:00:00"}})],
)
def test_the_end_of_training_is_never_moved_forward(before: dict[str, Any], after: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"resume=true can raise (max_epochs|patience|trainer.max_time), not lower"):
        raised(Path("run"), train_config(**before), train_config(**after))
    assert raised(Path("run"), train_config(**after), train_config(**before)).keys() != set()


def test_without_last_ckpt_nothing_is_written(tiny_config: Make, tmp_path: Path) -> None:
    run(tiny_config(**options(checkpoint="best", max_epochs=1)), tmp_path / "run")
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(
        ConfigError, match=r"finished run without checkpoints/last\.ckpt, .* max_epochs=2; .* checkpoint=all to"
    ):
        run(tiny_config(**options(checkpoint="best", resume=True)), tmp_path / "run")
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before


def test_a_cosine_goes_on_along_the_longer_curve(
    tiny_config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cosine = {"scheduler": {"name": "cosine"}}
    run(tiny_config(**options(**cosine)), tmp_path / "run")
    assert "scheduler=cosine" not in caplog.text
    continued = run(tiny_config(**options(**cosine, max_epochs=4, resume=True)), tmp_path / "run")
    assert continued["continued_after"] == [2]
    assert "so the result is not that of a run with max_epochs=4 from the start" in caplog.text
    rates = [float(row["lr"]) for row in read_rows(tmp_path / "run/history.csv")]
    assert rates == pytest.approx([1e-3, 0.5e-3, 0.5e-3, 0.146447e-3], rel=1e-4)  # two of max_epochs=2, two of 4


def test_a_moved_run_folder_keeps_its_best_epoch(tiny_config: Make, tmp_path: Path) -> None:
    """The accuracy stays at 50 %, so the first epoch is the best."""
    changes = {**TOO_FAST, "patience": 20, "monitor": "val/acc"}
    first = run(tiny_config(**options(**changes)), tmp_path / "run")
    weights = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    shutil.move(tmp_path / "run", tmp_path / "moved")
    continued = run(tiny_config(**options(**changes, max_epochs=3, resume=True)), tmp_path / "moved")
    assert continued["best_epoch"] == first["best_epoch"] == 1
    assert continued["test/loss"] == first["test/loss"]
    kept = torch.load(tmp_path / "moved/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items())


@pytest.mark.slow
def test_all_folds_of_view_2_are_trained_further(
    embedding_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "count_folds", lambda data: 2)
    view2 = {"protocol": {"name": "view2"}, "checkpoint": "all"}
    first = train_folds(embedding_config(**view2), RunFolder(tmp_path / "run"))
    longer = embedding_config(**view2, max_epochs=2, resume=True)
    RunFolder(tmp_path / "run").check(longer)
    with monkeypatch.context() as patch:
        patch.setattr(folds, "pool_folds", lambda *_: die())
        with pytest.raises(Interrupted):
            train_folds(longer, RunFolder(tmp_path / "run"))
    earlier = RunFolder(tmp_path / "run/earlier").result
    assert earlier == first
    result = train_folds(longer, RunFolder(tmp_path / "run"))
    assert [len(read_history(file)) for file in sorted((tmp_path / "run").glob("fold_*/history.csv"))] == [2, 2]
    whole = train_folds(embedding_config(**view2, max_epochs=2), RunFolder(tmp_path / "whole"))
    assert result.test_loss == whole.test_loss
    (tmp_path / "run/fold_02/checkpoints/last.ckpt").unlink()
    with pytest.raises(ConfigError, match=r"without checkpoints/last\.ckpt"):
        RunFolder(tmp_path / "run").check(embedding_config(**view2, max_epochs=3, resume=True))
