"""The cache of decoded images: hits, stale and damaged entries, failures, concurrent processes."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from configs import image_options
from conftest import noise_photo

from siamese.config.data import ImageOptions
from siamese.data import image_cache
from siamese.data.image_cache import decode_with_thumbnail, load_images
from siamese.errors import DataError

NAMES = ["0.png", "1.png", "2.png", "empty.jpg", "text.jpg", "cut.png", "folder.jpg", "gone.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images, and four files that are not images."""
    root = tmp_path / "photos"
    for index in range(4):
        noise_photo(root / f"{index}.png", index, size=(30, 40))
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("<html>not found</html>")
    (root / "cut.png").write_bytes((root / "0.png").read_bytes()[:900])
    (root / "folder.jpg").mkdir()
    return root


def options(tmp_path: Path, **changes: object) -> ImageOptions:
    return image_options(**{"image_size": 16, "cache": str(tmp_path / "cache"), **changes})


def test_unusable_files_are_listed_with_their_reason(folder: Path, tmp_path: Path) -> None:
    loaded = load_images(folder, NAMES, options(tmp_path))
    assert loaded.names == ["0.png", "1.png", "2.png"]
    assert loaded.pixels.shape == (3, 1, 16, 16)
    assert loaded.excluded["gone.png"] == "missing"
    assert "not an image" in loaded.excluded["empty.jpg"]
    assert "not an image" in loaded.excluded["text.jpg"]
    assert "cannot be decoded" in loaded.excluded["cut.png"]
    assert "cannot be decoded" in loaded.excluded["folder.jpg"]


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counting(path: Path, opts: ImageOptions) -> object:
        seen.append(path)
        return decode_with_thumbnail(path, opts)

    monkeypatch.setattr(image_cache, "decode_with_thumbnail", counting)
    return seen


def test_second_load_decodes_nothing_and_is_equal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_images(folder, NAMES, options(tmp_path))
    seen = count_decodes(monkeypatch)
    second = load_images(folder, NAMES[::-1] + NAMES, options(tmp_path))
    assert not seen
    assert (second.names, second.excluded) == (first.names, first.excluded)
    np.testing.assert_array_equal(second.pixels, first.pixels)


@pytest.mark.parametrize(
    "change", [{"image_size": 17}, {"color": True}, {"crop": 20}, {"interpolation": "nearest"}], ids=str
)
def test_every_option_has_its_own_entry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    plain = load_images(folder, NAMES, options(tmp_path))
    seen = count_decodes(monkeypatch)
    load_images(folder, NAMES, options(tmp_path, **change))
    assert seen
    seen.clear()
    again = load_images(folder, NAMES, options(tmp_path))
    assert not seen
    np.testing.assert_array_equal(again.pixels, plain.pixels)


def test_changed_appeared_and_vanished_files_make_it_stale(folder: Path, tmp_path: Path) -> None:
    before = load_images(folder, NAMES, options(tmp_path))
    shutil.copyfile(folder / "3.png", folder / "0.png")
    shutil.copyfile(folder / "3.png", folder / "gone.png")
    (folder / "1.png").unlink()
    after = load_images(folder, NAMES, options(tmp_path))
    assert after.names == ["0.png", "2.png", "gone.png"]
    assert after.excluded["1.png"] == "missing"
    assert not np.array_equal(after.pixels[0], before.pixels[0])
    entries = [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]
    assert len(entries) == 1, "the stale entry was not removed"


def test_a_relative_cache_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp
    # As from Python 3.12 on.
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: str(Path(make(**options)).absolute()))
    monkeypatch.chdir(tmp_path)
    plain = load_images(folder, NAMES, options(Path()))
    seen = count_decodes(monkeypatch)
    np.testing.assert_array_equal(load_images(folder, NAMES, options(Path())).pixels, plain.pixels)
    assert not seen


@pytest.mark.parametrize("damage", ["cut", "flip", "index", "leftover"])
def test_damaged_entries_are_rebuilt(
    folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_images(folder, NAMES, options(tmp_path))
    (entry,) = (path for path in (tmp_path / "cache").glob("*/*") if path.is_dir())
    pixels = entry / "pixels.npy"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-10])
    elif damage == "flip":
        content = bytearray(pixels.read_bytes())
        content[-5] ^= 1
        pixels.write_bytes(content)
    elif damage == "index":
        (entry / "index.json").write_text("{")
    else:  # left by a build that was killed
        shutil.move(entry, entry.with_name("building-x"))
    with caplog.at_level(logging.WARNING):
        after = load_images(folder, NAMES, options(tmp_path))
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert ("is damaged" in caplog.text) == (damage != "leftover")
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == [entry.name]


def test_failures_that_may_pass_are_not_cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, options: ImageOptions) -> object:
        if path.name == "0.png":
            raise OSError(errno.EIO, "Input/output error")
        return decode_with_thumbnail(path, options)

    monkeypatch.setattr(image_cache, "decode_with_thumbnail", failing)
    assert "Input/output error" in load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded["0.png"]
    monkeypatch.setattr(image_cache, "decode_with_thumbnail", decode_with_thumbnail)
    assert load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded == {}

    def starved(path: Path, options: ImageOptions) -> object:
        raise MemoryError

    monkeypatch.setattr(image_cache, "decode_with_thumbnail", starved)
    with pytest.raises(MemoryError):
        load_images(folder, ["0.png", "2.png"], options(tmp_path))


def test_failed_build_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(DataError, match=r"data\.cache=.*No space left"):
        load_images(folder, NAMES, options(tmp_path))
    assert not [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]


def _load_in_process(arguments: tuple[Path, Path]) -> int:
    folder, tmp_path = arguments
    return int(load_images(folder, NAMES, options(tmp_path)).pixels.sum())


@pytest.mark.integration
def test_concurrent_processes_get_the_same(folder: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_load_in_process, [(folder, tmp_path)] * 4, chunksize=1)
    assert set(sums) == {int(load_images(folder, NAMES, options(tmp_path)).pixels.sum())}
