"""Whether a data set is complete, and what is downloaded if it is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from configs import section

from siamese.config.data import LfwData
from siamese.config.protocol import OneShotProtocol
from siamese.data import sources
from siamese.data.layouts import LAYOUTS
from siamese.data.sources import check_data, has_outside_data, image_root, prepare_data, recognise, title
from siamese.errors import DataError

Fetched = list[tuple[Path, list[str]]]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fetched:
    """What would have been downloaded; the working directory is empty."""
    calls: Fetched = []

    def record(root: Path, files: Iterable[str], *, progress: bool = True) -> None:
        calls.append((root, sorted(files)))

    monkeypatch.setattr(sources, "download_lfw", record)
    monkeypatch.chdir(tmp_path)
    return calls


def lfw(name: str = "lfw", root: str = "data/lfw", download: bool = True) -> LfwData:
    return section("data", name=name, root=root, download=download)


def lay_out(root: Path, tiny_root: Path, name: str) -> None:
    root.mkdir(parents=True)
    for file in tiny_root.glob("pairsDev*.txt"):
        shutil.copy(file, root)
    (root / LAYOUTS[name].images).symlink_to(tiny_root / "lfw")


@pytest.mark.parametrize("name", ["lfw", "lfw_funneled", "lfw_deepfunneled"])
def test_everything_is_downloaded_into_the_default_root(fetched: Fetched, name: str) -> None:
    check_data(lfw(name))
    prepare_data(lfw(name))
    assert fetched == [(Path("data/lfw"), sorted([LAYOUTS[name].images, "pairsDevTrain.txt", "pairsDevTest.txt"]))]


def test_only_missing_files_are_downloaded(fetched: Fetched, tmp_path: Path, tiny_root: Path) -> None:
    lay_out(tmp_path / "mine", tiny_root, "lfw")
    prepare_data(lfw(root="mine"))
    assert fetched == []
    (tmp_path / "mine/pairsDevTest.txt").unlink()
    prepare_data(lfw(root="mine"))
    assert fetched == [(Path("mine"), ["pairsDevTest.txt"])]


def test_any_other_root_is_not_created(fetched: Fetched) -> None:
    with pytest.raises(DataError, match=r"data\.root=typo: no such folder"):
        prepare_data(lfw(root="typo"))
    assert fetched == []
    assert not Path("typo").exists()


@pytest.mark.parametrize(
    ("name", "download", "message"),
    [
        ("lfw", False, r"missing mine/lfw, .*; set data\.download=true"),
        ("lfw_deepfunneled", False, r"missing mine/lfw-deepfunneled, .*; set data\.download=true"),
        ("lfw_a", True, r"missing mine/lfw2; place it there by hand"),
    ],
)
def test_files_that_cannot_be_downloaded_are_listed(
    fetched: Fetched, tmp_path: Path, name: str, download: bool, message: str
) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=message):
        prepare_data(lfw(name, "mine", download))
    assert fetched == []


def test_a_malformed_list_is_found_before_a_run_starts(tmp_path: Path, tiny_root: Path) -> None:
    lay_out(tmp_path / "mine", tiny_root, "lfw")
    with (tmp_path / "mine/pairsDevTest.txt").open("a") as file:
        file.write("one line too many\n")
    with pytest.raises(DataError, match=r"pairsDevTest\.txt:22: "):
        check_data(lfw(root=str(tmp_path / "mine")))


def test_a_failed_download_suggests_synthetic_faces(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("no network")

    monkeypatch.setattr(sources, "download_lfw", fail)
    with pytest.raises(DataError, match=r"no network; or use data=synthetic"):
        prepare_data(lfw())


def test_only_the_lists_that_the_protocol_needs_are_downloaded(
    fetched: Fetched, tiny_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    lay_out(root, tiny_root, "lfw_a")
    shutil.copy(tiny_root / "pairs.txt", root)
    view2 = {setting: section("protocol", name="view2", setting=setting) for setting in ("restricted", "unrestricted")}
    data = lfw("lfw_a", root=str(root))
    check_data(data, view2["restricted"])
    with pytest.raises(DataError, match=r"missing .*people\.txt; set data\.download=true"):
        check_data(lfw("lfw_a", str(root), download=False), view2["unrestricted"])
    prepare_data(data, protocol=view2["unrestricted"])
    prepare_data(data, protocol=OneShotProtocol(name="oneshot", ways=[2], trials=5, seed=0, within=None))
    assert fetched == [(root, ["people.txt"]), (root, ["peopleDevTest.txt"])]


def test_a_data_set_is_recognised_by_its_path(tiny_root: Path, tmp_path: Path) -> None:
    lay_out(tmp_path / "aligned", tiny_root, "lfw_a")
    (tmp_path / "pairs.csv").touch()
    people = recognise(tiny_root / "lfw", {"test_fraction": 0.3})
    listed = recognise(tmp_path / "pairs.csv")
    assert [recognise(tiny_root).name, recognise(tmp_path / "aligned").name] == ["lfw", "lfw_a"]
    assert [people.name, listed.name] == ["folder", "pairs"]
    assert [title(people), title(listed), title(lfw())] == ["folder lfw", "list pairs.csv", "lfw"]
    assert [image_root(people), image_root(listed)] == [tiny_root / "lfw", tmp_path]
    assert has_outside_data(lfw("lfw_a"))
    assert not has_outside_data(lfw()) | has_outside_data(people)
    with pytest.raises(DataError, match="no such file or folder; choose LFW's root"):
        recognise(tmp_path / "none")


@pytest.mark.integration
def test_checking_data_and_drawing_faces_do_not_import_torch() -> None:
    code = "import sys, siamese.data.sources, siamese.data.synthetic.tree; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
