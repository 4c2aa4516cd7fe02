"""The best photo of each person, and folders that hold a gallery."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siamese.inference.gallery import best_of_each
from siamese.inference.gallery_files import (
    FACTS,
    Embedded,
    append_rows,
    changed_folders,
    folder_times,
    replacing_folder,
    stamp_of,
)


@pytest.mark.parametrize("levels", [3, 10_000])
@pytest.mark.parametrize("number", [1, 4, 500])
def test_the_best_photo_of_each_person(number: int, levels: int) -> None:
    """With few levels, many scores are equal: then the first photo counts."""
    rng = np.random.default_rng(number + levels)
    person, scores = rng.integers(80, size=2000), rng.integers(levels, size=2000).astype(np.float32)
    scores[person == 7] += levels  # one person has all the highest scores
    best: dict[int, int] = {}
    for row in sorted(range(2000), key=lambda row: -scores[row]):
        best.setdefault(int(person[row]), row)
    assert best_of_each(person, scores, number).tolist() == list(best.values())[:number]


def test_rows_are_appended_to_a_file(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    blocks = [Embedded([], [], z[:1]), Embedded([], [], z[1:400]), Embedded([], [], z[400:])]
    with (tmp_path / "z.npy").open("xb") as file:
        assert [len(block.embeddings) for block in append_rows(file, blocks)] == [1, 399, 600]
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), z)


def test_a_folder_that_changed_is_named(tmp_path: Path) -> None:
    for name in ("A/x/1.jpg", "B/2.jpg", "3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    facts = {"photos": str(tmp_path), "folders": folder_times(tmp_path, ["A/x/1.jpg", "B/2.jpg", "3.jpg"])}
    assert set(facts["folders"]) == {"", "A", "A/x", "B"}
    assert changed_folders(facts) == []
    (tmp_path / "B/2.jpg").write_bytes(b"another content is not noticed here")
    assert changed_folders(facts) == []
    (tmp_path / "A/x/1.jpg").rename(tmp_path / "A/x/0.jpg")
    assert changed_folders(facts) == [str(tmp_path / "A/x")]


def test_a_photo_that_is_gone_has_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert stamp_of(tmp_path / "a.jpg") == (3, (tmp_path / "a.jpg").stat().st_mtime_ns)
    for name in ("gone.jpg", "a\0.jpg"):
        assert stamp_of(tmp_path / name) == (-1, -1)


REPLACE = """
import os, sys
from pathlib import Path
from siamese.inference.gallery_files import FACTS, replacing_folder

def die(self, target):
    global renames
    if not renames:
        os._exit(9)
    renames -= 1
    return rename(self, target)

rename, Path.rename, renames = Path.rename, die, int(sys.argv[2])
with replacing_folder(Path(sys.argv[1])) as new:
    (new / FACTS).write_text("second")
"""


def replace(folder: Path, renames: int = 9) -> subprocess.CompletedProcess[str]:
    """Replace a folder in another process, which dies after a number of renames."""
    return subprocess.run(
        [sys.executable, "-c", REPLACE, folder, str(renames)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("renames", "kept"), [(0, "first"), (1, "second")])
def test_a_killed_process_loses_no_gallery(tmp_path: Path, renames: int, kept: str) -> None:
    folder = tmp_path / "g.index"
    with replacing_folder(folder) as new:
        (new / FACTS).write_text("first")
    assert replace(folder, renames).returncode == 9
    with replacing_folder(folder) as new:
        assert (folder / FACTS).read_text() == kept
        assert list(new.iterdir()) == []
        (new / FACTS).write_text("third")
    assert (folder / FACTS).read_text() == "third"
    assert list(tmp_path.iterdir()) == [folder]


def test_two_processes_do_not_replace_one_gallery_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "g.index"
    with replacing_folder(folder) as new:
        assert "in use by another process" in replace(folder).stderr
        (new / FACTS).write_text("first")
    assert (folder / FACTS).read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]
    assert replace(folder).returncode == 0
    assert (folder / FACTS).read_text() == "second"
