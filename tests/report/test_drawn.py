"""A run page is redrawn if anything it was drawn from has changed, and only then."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import noise_photo

from siamese.report import drawn, run_page
from siamese.report.drawn import is_up_to_date
from siamese.report.examples import occlusion_map_file
from siamese.report.load import read_run
from siamese.report.run_page import write_run_page


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with a page and with photos."""
    folder, photos = tmp_path / "run", tmp_path / "photos"
    (folder / ".hydra").mkdir(parents=True)
    names = [f"{person}/{person}_000{i}.jpg" for person in ("Ann", "Bob") for i in (1, 2)]
    for name in names:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        noise_photo(photos / name)
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["split", "image1", "image2", "label", "score", "probability", "predicted", "outcome"])
        rows.writerow(["test", names[0], names[1], 1, 1.5, 0.8, 1, "tp"])
        rows.writerow(["test", names[0], names[2], 0, -1.5, 0.2, 0, "tn"])
    (folder / "history.csv").write_text("epoch,train/loss,train/acc,val/loss,val/acc\n1,0.5,0.8,0.6,0.7\n")
    (folder / "excluded.csv").write_text("file,reason\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "mine"}))
    (folder / ".hydra/overrides.yaml").write_text("[seed=0]\n")
    (folder / ".hydra/hydra.yaml").write_text("hydra: {job: {config_name: train}}\n")
    (folder / "result.json").write_text(json.dumps({"status": "done", "dataset": "lfw", "image_root": str(photos)}))
    write_run_page(folder)
    return folder


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The paths of the files that are opened during a test. A hook cannot be removed, only switched off."""
    found: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            found.append(os.fspath(arguments[0]))

    sys.addaudithook(hook)
    yield found
    watching = False


def test_a_page_that_was_just_drawn_is_up_to_date(run: Path) -> None:
    assert is_up_to_date(run)


def test_the_record_has_every_file_that_drawing_opens(run: Path, opened: list[str]) -> None:
    save = occlusion_map_file(run, read_run(run).predictions[0])
    save.parent.mkdir()
    noise_photo(save)
    opened.clear()
    write_run_page(run)
    paths = {Path(name) for name in opened}
    recorded = json.loads((run / drawn.FILE).read_text())["files"]
    for path in paths:
        if path.is_relative_to(run.parent) and path.suffix != ".tmp":
            name = str(path.relative_to(run)) if path.is_relative_to(run) else str(path)
            assert name in recorded
    assert len([name for name in recorded if name.endswith(".jpg") and recorded[name]]) == 4  # three photos, one map


def add(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")

    return change


def edit(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        times = (run / name).stat()
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-1] + b"x")
        os.utime(run / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # as after `cp --preserve` of another run's

    return change


CHANGES: dict[str, Callable[[Path], object]] = {
    **{f"{name} is edited": edit(name) for name in (
        "result.json", "config.yaml", "history.csv", "predictions.csv", "excluded.csv", ".hydra/overrides.yaml",
        ".hydra/hydra.yaml", "report.html", "roc.png", "roc.csv", "../photos/Ann/Ann_0001.jpg",
    )},
    **{f"{name} is missing": lambda run, name=name: (run / name).unlink() for name in (
        "history.csv", "report.html", "gallery.png", "reliability.csv", "../photos/Bob/Bob_0001.jpg", drawn.FILE,
    )},
    "folds.csv appears": add("folds.csv"),
    "groups.csv appears": add("groups.csv"),
    "folds appear": add("fold_01/result.json"),
    "the page is cut short": lambda run: os.truncate(run / "report.html", 1000),
    "an occlusion map appears": lambda run: add(
        str(occlusion_map_file(run, read_run(run).predictions[0]).relative_to(run)))(run),
    "the record is damaged": lambda run: (run / drawn.FILE).write_text("{"),
    "the record is of another kind": lambda run: (run / drawn.FILE).write_text("[1]"),
    "the record has no files": lambda run: (run / drawn.FILE).write_text(
        json.dumps({**json.loads((run / drawn.FILE).read_text()), "files": [1]})),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_page_is_out_of_date_once(run: Path, change: Callable[[Path], object]) -> None:
    change(run)
    assert not is_up_to_date(run)
    write_run_page(run)
    assert is_up_to_date(run)


def test_a_photo_that_comes_back_is_shown(run: Path) -> None:
    photos = run.parent / "photos"
    photos.rename(run.parent / "away")
    write_run_page(run)
    assert is_up_to_date(run)
    (run.parent / "away").rename(photos)
    assert not is_up_to_date(run)


def test_a_folder_that_was_renamed_is_out_of_date(run: Path) -> None:
    """A run without a name is called after its folder."""
    assert not is_up_to_date(run.rename(run.with_name("other")))


def test_a_file_that_changes_while_the_page_is_drawn_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_then_change(folder: Path) -> Any:
        found = read_run(folder)
        edit("history.csv")(folder)
        return found

    monkeypatch.setattr(run_page, "read_run", read_then_change)
    write_run_page(run)
    assert not is_up_to_date(run)


@pytest.mark.parametrize("what", ["source", "library"])
def test_other_code_redraws(run: Path, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn.code_version.cache_clear()
    if what == "library":
        monkeypatch.setattr(drawn, "version", lambda name: "99" if name == "matplotlib" else "1")
    else:
        package = tmp_path / "siamese/report"
        package.mkdir(parents=True)
        (package / "drawn.py").write_text("x = 1\n")
        monkeypatch.setattr(drawn, "__file__", str(package / "drawn.py"))
    assert not is_up_to_date(run)
    drawn.code_version.cache_clear()
