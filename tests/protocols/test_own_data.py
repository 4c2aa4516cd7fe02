"""Runs on the user's own photos, from training to evaluation: people stay apart, and changed data is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configs import eval_config, train_config
from conftest import read_rows, run

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, DataError
from siamese.protocols import evaluate as evaluation
from siamese.protocols.evaluate import evaluate
from siamese.report.run_page import write_run_page
from siamese.runs.folder import RunFolder
from siamese.training import train as training

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]

HEADER = "image1,image2,label"
RESTRICTED = {"name": "holdout", "setting": "restricted"}
ONESHOT = {"name": "oneshot", "ways": [2], "trials": 20}


@pytest.fixture(scope="module", autouse=True)
def _no_pages() -> Iterator[None]:
    """Neither runs nor evaluations write a page: drawing it takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, evaluation):
            patch.setattr(module, "write_run_page", lambda path: path / "report.html")
        yield


@pytest.fixture(scope="module")
def own_config(tiny_config: Make, tiny_root: Path) -> Make:
    """A run on the tiny faces as a folder of people."""

    def make(data: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
        folder = {
            "name": "folder",
            "root": str(tiny_root / "lfw"),
            "train_pairs": 30,
            "val_pairs": 10,
            "test_pairs": 20,
        }
        cache = {"image_size": 32, "cache": tiny_config().data.cache}
        plain: dict[str, Any] = {
            "model": {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "stem": "conv", "embedding_dim": 8},
            "data": (folder if data is None else data) | cache,
            "protocol": {"name": "holdout", "setting": "unrestricted"},
            "max_epochs": 1,
        }
        return tiny_config(**plain | changes)

    return make


@pytest.fixture(scope="module")
def folder_run(own_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the folder; never written to."""
    path = tmp_path_factory.mktemp("own") / "run"
    run(own_config(), path)
    return path


def write_list(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def score(run_folder: Path, path: Path, **options: Any) -> dict[str, Any]:
    """Evaluate a run into a new folder below ``path``."""
    path.mkdir(exist_ok=True)
    folder = RunFolder(path / f"eval-{len(list(path.iterdir()))}")
    return evaluate(eval_config(run=str(run_folder), **options), folder).as_dict()


def test_a_run_on_a_folder_keeps_people_apart(folder_run: Path, tmp_path: Path) -> None:
    result = RunFolder(folder_run).result
    assert result is not None
    assert (result.dataset, result.protocol, result.setting) == ("folder lfw", "holdout", "unrestricted")
    assert (result.n_test, result.n_val) == (20, 10)
    split: dict[str, set[str]] = {}
    for row in read_rows(folder_run / "split.csv"):
        assert row["image"].startswith(row["person"] + "/")
        split.setdefault(row["person"], set()).add(row["split"])
    assert all(len(parts) == 1 for parts in split.values())
    for row in read_rows(folder_run / "predictions.csv"):
        assert split[row["image1"].partition("/")[0]] == {row["split"]}
    again = score(folder_run, tmp_path / "a")
    figures = ("test/acc", "test/loss", "tp")
    assert {key: again[key] for key in figures} == {key: result.as_dict()[key] for key in figures}
    tested = {person for person, parts in split.items() if parts == {"test"}}
    assert score(folder_run, tmp_path / "b", protocol=ONESHOT)["n_test_people"] == len(tested)


def test_the_restricted_setting_and_the_page(own_config: Make, tmp_path: Path) -> None:
    result = run(own_config(protocol=RESTRICTED), tmp_path / "run")
    assert (result["setting"], result["n_train"], result["n_test"]) == ("restricted", 30, 20)
    page = write_run_page(tmp_path / "run").read_text(encoding="utf-8")
    assert "people held out" in page
    assert "View 1" not in page


def test_changed_photos_are_noticed_when_a_run_is_resumed_or_scored(
    own_config: Make, tiny_root: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(tiny_root / "lfw", photos)
    config = own_config()
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": str(photos)})})
    run(config, tmp_path / "run")
    same = config.data.model_dump()
    with pytest.raises(DataError, match="is in the test data and was used for training or validation"):
        score(tmp_path / "run", tmp_path / "a", data=same)
    folder = RunFolder(tmp_path / "run")
    tested = photos / next(row.image for row in folder.memberships or [] if row.split == "test")
    content = tested.read_bytes()
    shutil.copyfile(photos / next(row.image for row in folder.memberships or [] if row.split == "val"), tested)
    for options in ({}, {"protocol": ONESHOT}):
        with pytest.raises(DataError, match=r"changed since the run started: 1 image was added, removed, edited"):
            score(tmp_path / "run", tmp_path / "b", **options)
    tested.write_bytes(content)
    next(iter(sorted(photos.iterdir()))).rename(photos / "Somebody_Else")
    for options in ({}, {"protocol": ONESHOT}):
        with pytest.raises(DataError, match="changed since the run started"):
            score(tmp_path / "run", tmp_path / "b", **options)
    folder.record(status="interrupted")
    with pytest.raises(DataError, match="changed since the run started"):
        run(config.model_copy(update={"resume": True}), tmp_path / "run")


def test_a_run_on_a_list_and_a_run_scored_on_a_list(
    own_config: Make, folder_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    scored = read_rows(folder_run / "predictions.csv")
    lines = [f"{row['image1']},{row['image2']},{row['label']}" for row in scored]
    in_sets = [f"{line},{('train', 'val', 'test')[k % 3]}" for k, line in enumerate(lines)]
    own = write_list(tmp_path / "pairs.csv", HEADER + ",split", *in_sets)
    data = {"name": "pairs", "list": str(own), "root": str(tiny_root / "lfw"), "image_size": 32}
    result = run(own_config(data, protocol=RESTRICTED), tmp_path / "run")
    assert result["n_train"] + result["n_val"] + result["n_test"] == 30
    assert result["dataset"] == "list pairs.csv"
    # All pairs of another list are test pairs; here those that the run on the folder kept for its own test.
    kept = [line for line, row in zip(lines, scored, strict=True) if row["split"] == "test"]
    other = write_list(tmp_path / "other.csv", HEADER, *kept)
    assert score(folder_run, tmp_path / "a", data={**data, "list": str(other)})["n_test"] == len(kept) == 20


def test_training_people_are_not_tested_as_another_kind_of_data(
    own_config: Make, tiny_config: Make, folder_run: Path, tmp_path: Path
) -> None:
    lfw = tiny_config().data.model_dump() | {"image_size": 32, "crop": 1.0}
    with pytest.raises(DataError, match="was used for training or validation"):
        score(folder_run, tmp_path / "a", data=lfw)
    run(tiny_config(max_epochs=1), tmp_path / "run")
    photos = own_config().data.model_dump() | {"image_size": 65}
    with pytest.raises(DataError, match="was used for training or validation"):
        score(tmp_path / "run", tmp_path / "b", data=photos)


def test_a_list_with_people_in_several_sets_is_scored_again_with_a_warning(
    own_config: Make, tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = sorted(folder for folder in (tiny_root / "lfw").iterdir() if len(list(folder.iterdir())) > 1)[:2]
    ones, others = ([f"{folder.name}/{file.name}" for file in sorted(folder.iterdir())] for folder in (a, b))
    pairs = [(ones[0], ones[1], 1), (ones[0], others[0], 0), (others[0], others[1], 1), (ones[1], others[1], 0)]
    lines = [",".join(map(str, (*pair, split))) for split in ("train", "val", "test") for pair in pairs]
    file = write_list(tmp_path / "pairs.csv", HEADER + ",split", *lines)
    data = {"name": "pairs", "list": str(file), "root": str(tiny_root / "lfw")}
    result = run(own_config(data, protocol=RESTRICTED), tmp_path / "run")
    assert f"results on {file}, test are optimistic" in caplog.text
    assert score(tmp_path / "run", tmp_path / "a")["test/loss"] == result["test/loss"]


def test_data_and_protocol_that_do_not_fit_together(own_config: Make, tiny_config: Make) -> None:
    with pytest.raises(ValueError, match="protocol=view1 is not for data=folder; give protocol=holdout"):
        own_config(protocol={"name": "view1"})
    with pytest.raises(ValueError, match="protocol=holdout is not for data=synthetic; give protocol=view1 or view2"):
        tiny_config(protocol={"name": "holdout"})
    with pytest.raises(ValueError, match="data=pairs has no identities"):
        train_config(data={"name": "pairs", "list": "x"}, protocol={"name": "holdout", "setting": "unrestricted"})


def test_evaluations_that_do_not_fit_the_run(own_config: Make, folder_run: Path, tmp_path: Path) -> None:
    data = own_config().data.model_dump()
    with pytest.raises(ConfigError, match="flip_average and crop_average need training and validation pairs"):
        score(folder_run, tmp_path / "a", data=data, flip_average=True)
    with pytest.raises(ConfigError, match=r"data.crop=0.5: the run was trained with data.crop=1.0"):
        score(folder_run, tmp_path / "a", data={**data, "crop": 0.5})
