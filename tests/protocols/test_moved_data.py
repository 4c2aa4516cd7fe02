"""Photos that were moved or copied: the run's own test images are tested again, and training images never are."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from configs import eval_config
from conftest import noise_photo, read_rows

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, DataError
from siamese.protocols import evaluate as evaluation
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, config_text, read_config

pytestmark = pytest.mark.integration

ONESHOT = {"name": "oneshot", "ways": [2], "trials": 20}
Sets = dict[str, list[str]]


@pytest.fixture(scope="module", autouse=True)
def _no_pages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "write_run_page", lambda path: path / "report.html")
        yield


@pytest.fixture
def photos(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the photos that the run ``finished`` was trained on."""
    return Path(shutil.copytree(tiny_root / "lfw", tmp_path / "moved"))


@pytest.fixture(scope="module")
def people(finished: Path) -> Sets:
    """``train``, ``val``, ``test`` -> the people."""
    sets: Sets = {}
    for row in read_rows(finished / "split.csv"):
        if row["person"] not in sets.setdefault(row["split"], []):
            sets[row["split"]].append(row["person"])
    return sets


def as_trained(run: Path) -> dict[str, Any]:
    """How the run preprocesses images."""
    trained = read_config(run / "config.yaml").data
    return {key: getattr(trained, key) for key in ("cache", "crop", "image_size", "color")}


def score(run: Path, path: Path, root: Path, **changes: Any) -> Result:
    """Score the run on a folder of photos."""
    data = {"name": "folder", "root": str(root), "test_pairs": 20, **as_trained(run)}
    return evaluate(eval_config(**{"run": str(run), "data": data, **changes}), RunFolder(path / "eval"))


def test_moved_photos_are_scored_on_the_same_test_images(finished: Path, photos: Path, tmp_path: Path) -> None:
    before = RunFolder(finished).result
    again = score(finished, tmp_path, photos)
    assert before is not None
    assert (again.test_loss, again.val_acc, again.n_test) == (before.test_loss, before.val_acc, before.n_test)
    assert (tmp_path / "eval/predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()
    assert (tmp_path / "eval/split.csv").read_bytes() == (finished / "split.csv").read_bytes()


def test_moved_photos_are_scored_on_the_same_test_people_one_shot(
    finished: Path, photos: Path, tmp_path: Path, people: Sets
) -> None:
    assert score(finished, tmp_path, photos, protocol=ONESHOT).as_dict()["n_test_people"] == len(people["test"])


def keep_only(photos: Path, people: list[str]) -> None:
    for folder in photos.iterdir():
        if folder.name not in people:
            shutil.rmtree(folder)


def a_part(photos: Path, people: Sets) -> None:
    keep_only(photos, [*people["train"][:5], *people["test"]])


def one_photo_less(photos: Path, people: Sets) -> None:
    next(iter(sorted((photos / people["test"][0]).iterdir()))).unlink()


def training_people_under_other_names(photos: Path, people: Sets) -> None:
    keep_only(photos, people["train"])
    for number, folder in enumerate(sorted(photos.iterdir())):
        for photo in list(folder.iterdir()):
            photo.rename(folder / f"photo-{photo.name}")
        folder.rename(photos / f"person {number}")


def validation_people_alone(photos: Path, people: Sets) -> None:
    keep_only(photos, people["val"])


def a_folder_deeper(photos: Path, people: Sets) -> None:
    for folder in list(photos.iterdir()):
        for photo in list(folder.iterdir()):
            (folder / "more").mkdir(exist_ok=True)
            photo.rename(folder / "more" / photo.name)


def a_person_renamed(photos: Path, people: Sets) -> None:
    (photos / people["train"][0]).rename(photos / "Somebody_Else")


def a_test_photo_edited(photos: Path, people: Sets) -> None:
    noise_photo(next(iter(sorted((photos / people["test"][0]).iterdir()))))


CHANGES = [
    a_part, one_photo_less, training_people_under_other_names, validation_people_alone, a_folder_deeper,
    a_person_renamed, a_test_photo_edited,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("protocol", [{}, {"protocol": ONESHOT}], ids=["pairs", "one-shot"])
def test_training_photos_are_refused_wherever_they_lie(
    finished: Path,
    photos: Path,
    tmp_path: Path,
    people: Sets,
    change: Callable[[Path, Sets], None],
    protocol: dict[str, Any],
) -> None:
    change(photos, people)
    with pytest.raises(DataError, match=r"used for training or validation in .*old names: only then is the run's own"):
        score(finished, tmp_path, photos, **protocol)
    assert not (tmp_path / "eval/predictions.csv").exists()


def test_people_added_to_the_moved_photos_are_refused(finished: Path, photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        noise_photo(photos / f"New/{number}.jpg", seed=number)
    with pytest.raises(DataError, match=r"changed since the run started: .* added, removed, edited or moved"):
        score(finished, tmp_path, photos)


def test_the_test_people_alone_may_be_moved(
    finished: Path, photos: Path, tmp_path: Path, people: Sets, caplog: pytest.LogCaptureFixture
) -> None:
    keep_only(photos, people["test"])
    with caplog.at_level(logging.WARNING):
        assert score(finished, tmp_path, photos).n_test == 20
    assert "optimistic" not in caplog.text


def test_other_photos_under_equal_names_cause_a_warning(
    finished: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, photo in enumerate(sorted(photos.rglob("*.jpg"))):
        noise_photo(photo, seed=number)
    assert score(finished, tmp_path, photos).n_test == 20
    assert "if both names mean the same person, the results are optimistic" in caplog.text


def test_a_list_of_training_photos_in_another_folder_is_refused(
    finished: Path, photos: Path, tmp_path: Path, people: Sets
) -> None:
    files = [sorted(f"moved/{name}/{file.name}" for file in (photos / name).iterdir()) for name in people["train"]]
    one, other = [images for images in files if len(images) > 1][:2]
    lines = ["image1,image2,label", f"{one[0]},{one[1]},1", f"{one[0]},{other[0]},0"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = {"name": "pairs", "list": str(tmp_path / "list.csv"), **as_trained(finished)}
    with pytest.raises(DataError, match="3 of 3 tested images had been used for training or validation"):
        evaluate(eval_config(run=str(finished), data=data), RunFolder(tmp_path / "eval"))


def test_a_run_is_resumed_with_moved_photos_only_if_they_are_the_same(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    recorded = read_config(folder.config)

    def at(root: Path) -> TrainConfig:
        return recorded.model_copy(
            update={"resume": True, "data": recorded.data.model_copy(update={"root": str(root)})}
        )

    folder.check(at(photos))
    os.rename(photos, tmp_path / "again")  # noqa: PTH104
    folder.check(at(tmp_path / "again"))
    with pytest.raises(ConfigError, match=r"holds a run with data.root=.*, not .*/moved"):
        folder.check(at(photos))
    noise_photo(next(iter(sorted((tmp_path / "again").rglob("*.jpg")))))
    with pytest.raises(ConfigError, match=r"holds a run with data.root=.*, not .*/again"):
        folder.check(at(tmp_path / "again"))


def test_a_run_recorded_before_align_was_a_key_is_scored_unaligned(finished: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    lines = folder.config.read_text().splitlines(keepends=True)
    folder.config.write_text("".join(line for line in lines if "align:" not in line))
    assert len(folder.config.read_text().splitlines()) == len(lines) - 1
    assert read_config(folder.config) == read_config(finished / "config.yaml")
    folder.config.write_text("".join(line for line in lines if "color:" not in line))
    with pytest.raises(ConfigError, match=r"data\.color is missing"):
        read_config(folder.config)


def test_an_evaluation_without_the_photos_says_how_to_name_their_new_place(
    finished: Path, tmp_path: Path, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    recorded = read_config(folder.config)
    gone = recorded.model_copy(update={"data": recorded.data.model_copy(update={"root": str(tmp_path / "gone")})})
    folder.config.write_text(config_text(gone))
    done = call("eval", f"run={folder.path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "/gone any more; restore them, or give their new place: data=folder data.root=NEW"
    )
