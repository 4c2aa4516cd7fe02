"""Finding finished runs for an evaluation: what is refused, and which configuration each run is scored with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from configs import eval_config

from siamese.config.schema import EvalConfig, TrainConfig
from siamese.errors import ConfigError
from siamese.runs.finished import find_run, find_runs
from siamese.runs.folder import RunFolder

Make = Callable[..., TrainConfig]
Finish = Callable[..., Path]


@pytest.fixture
def finish(tmp_path: Path, tiny_config: Make) -> Finish:
    """Records a finished run without training it."""

    def record(name: str = "a", facts: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = RunFolder(tmp_path / name)
        folder.start(tiny_config(**changes))
        folder.record(**{"status": "done", **(facts or {})})
        return folder.path

    return record


def evaluation(*runs: Path, **options: Any) -> EvalConfig:
    names = [str(path) for path in runs]
    return eval_config(run=names[0] if len(names) == 1 else names, **options)


def photos(root: Path) -> dict[str, Any]:
    """A data group of the user's own photos."""
    return {"name": "folder", "root": str(root), "cache": str(root)}


def test_a_run_is_scored_as_it_was_trained(finish: Finish, tiny_config: Make) -> None:
    path = finish()
    run = find_run(path)
    assert run.folder.path == path
    assert run.config == tiny_config()
    assert (run.test_only, run.foreign) == (False, False)


def test_a_run_of_several_gpus_is_scored_by_one_process_on_any_machine(finish: Finish) -> None:
    path = finish(trainer={"accelerator": "gpu", "devices": 2, "nodes": 2})
    trainer = find_run(path).config.trainer
    assert (trainer.accelerator, trainer.devices, trainer.nodes) == ("auto", 1, 1)


def test_what_an_evaluation_changes(finish: Finish) -> None:
    path = finish(calibration="temperature")
    (plain,) = find_runs(evaluation(path))
    assert (plain.config.calibration, plain.config.flip_average) == ("temperature", False)
    (changed,) = find_runs(evaluation(path, flip_average=True))
    assert (changed.config.calibration, changed.config.flip_average) == ("temperature", True)
    (refit,) = find_runs(evaluation(path, backend={"name": "lda"}))
    assert (refit.config.calibration, refit.config.backend.name) == ("auto", "lda")


@pytest.mark.parametrize(
    ("facts", "changes", "message"),
    [
        ({"status": "failed"}, {}, r"the run is not finished \(failed\); finish it with train\.py"),
        ({"folds": 10}, {}, "it holds one network per fold; give the folder of a fold: .*/fold_01"),
        ({}, {"checkpoint": "none"}, "trained with checkpoint=none, so its weights were not kept"),
    ],
)
def test_runs_that_cannot_be_scored(
    finish: Finish, facts: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    path = finish(facts=facts, **changes)
    with pytest.raises(ConfigError, match=f"run={path}: .*{message}"):
        find_run(path)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run found; give a folder that holds a result\.json"):
        find_run(tmp_path)


@pytest.mark.parametrize(
    ("trained", "asked", "message"),
    [
        ("view1", {"name": "view2"}, "trained with protocol=view1, on people that view2 tests"),
        ("view2", {"name": "view1"}, "trained with protocol=view2, on people that view1 tests"),
        ("view2", {"name": "oneshot"}, r"people that oneshot tests; train with protocol=view1"),
        ("view2", {"name": "identification"}, r"people that identification tests; train with protocol=view1"),
        ("view2", {"name": "view2", "fold": 2}, r"protocol\.fold=2: the run was trained with protocol\.fold=1"),
        ("view1", {"name": "view1", "setting": "unrestricted"}, r"protocol\.setting=unrestricted: .*; leave it out"),
    ],
)
def test_a_protocol_must_not_test_people_of_the_training(
    finish: Finish, trained: str, asked: dict[str, Any], message: str
) -> None:
    path = finish(protocol={"name": trained} | ({"fold": 1} if trained == "view2" else {}))
    with pytest.raises(ConfigError, match=message):
        find_runs(evaluation(path, protocol=asked))


def test_other_images_are_preprocessed_and_split_as_the_runs_own(finish: Finish, tiny_config: Make) -> None:
    data = tiny_config().data
    own = {"crop": 150, "image_size": 70, "interpolation": "bicubic", "split": "people", "split_seed": 2}
    path = finish(data={**data.model_dump(), **own})
    plain = {**data.model_dump(), "image_size": 105}  # as in conf/data/synthetic.yaml
    (run,) = find_runs(evaluation(path, data=plain))
    assert {key: getattr(run.config.data, key) for key in own} == own
    assert not run.foreign
    with pytest.raises(ConfigError, match=r"data\.crop=100: the run was trained with data\.crop=150; leave it out"):
        find_runs(evaluation(path, data={**plain, "crop": 100}))


def test_the_users_own_photos_are_all_test_data(finish: Finish, tmp_path: Path) -> None:
    path, other = finish("a"), finish("b")
    (run,) = find_runs(evaluation(path, data=photos(tmp_path)))
    assert (run.config.protocol.name, run.test_only, run.foreign) == ("holdout", True, True)
    with pytest.raises(ConfigError, match=r"data=folder: backend, .* need training and validation pairs"):
        find_runs(evaluation(path, data=photos(tmp_path), backend={"name": "lda"}))
    with pytest.raises(ConfigError, match="data=folder: an ensemble needs training and validation pairs"):
        find_runs(evaluation(path, other, data=photos(tmp_path)))


def test_an_ensemble_needs_different_runs_on_the_same_pairs(finish: Finish, tiny_config: Make) -> None:
    data = tiny_config().data.model_dump()
    first, second = finish("a"), finish("b", seed=1)
    split, fold = finish("split", data={**data, "split_seed": 1}), finish("fold", protocol={"name": "view2", "fold": 1})
    assert [run.folder.path for run in find_runs(evaluation(first, second))] == [first, second]
    for runs, message in (
        ((first, first), "give one folder, or several different ones"),
        ((first, split), r"data\.split_seed=1 differs from 0 of .*same pairs"),
        ((first, fold), "trained with protocol"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_runs(evaluation(*runs))


def test_a_run_folder_may_have_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 40)
    with pytest.raises(ConfigError, match="no such folder"):
        find_run(folder)
