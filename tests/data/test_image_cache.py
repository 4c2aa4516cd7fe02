"""The cache of decoded images: what is decoded again, damaged shards, failures, concurrent processes."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import image_options
from conftest import noise_photo
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siamese import parallel
from siamese.command.cache import cache
from siamese.config.data import ImageOptions
from siamese.data import decoding, image_cache, shards
from siamese.data.decoding import decode_images, decode_some
from siamese.data.image_cache import in_use, load_images, merge, read_shards
from siamese.data.images import decode
from siamese.data.shards import shard_files
from siamese.errors import DataError
from siamese.files import file_digest, write_text_atomically

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


def pixels(folder: Path, names: list[str], opts: ImageOptions) -> torch.Tensor:
    return load_images(folder, names, opts).pixels.to("cpu")


def expected(folder: Path, names: list[str], opts: ImageOptions) -> torch.Tensor:
    return torch.from_numpy(np.stack([decode(folder / name, opts) for name in names]))


def pixel_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/*.pixels"))


def test_unusable_files_are_listed_with_their_reason(folder: Path, tmp_path: Path) -> None:
    loaded = load_images(folder, NAMES, options(tmp_path))
    assert loaded.names == ["0.png", "1.png", "2.png"]
    assert loaded.pixels.shape == (3, 1, 16, 16)
    assert torch.equal(loaded.pixels.to("cpu"), expected(folder, loaded.names, options(tmp_path)))
    assert loaded.excluded["gone.png"] == "missing"
    assert "not an image" in loaded.excluded["empty.jpg"]
    assert "not an image" in loaded.excluded["text.jpg"]
    assert "cannot be decoded" in loaded.excluded["cut.png"]
    assert "cannot be decoded" in loaded.excluded["folder.jpg"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    seen: list[str] = []

    def counting(root: Path, names: list[str], *rest: Any) -> Iterator[Any]:
        seen.extend(names)
        return decode_images(root, names, *rest)

    monkeypatch.setattr(image_cache, "decode_images", counting)
    return seen


def test_second_load_decodes_nothing_and_is_equal(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    first = load_images(folder, NAMES, options(tmp_path))
    decoded.clear()
    second = load_images(folder, NAMES[::-1] + NAMES, options(tmp_path))
    assert not decoded
    assert (second.names, second.excluded, second.copies) == (first.names, first.excluded, first.copies)
    assert second.digests == first.digests
    assert torch.equal(second.pixels.to("cpu"), first.pixels.to("cpu"))


@pytest.mark.parametrize(
    "change", [{"image_size": 17}, {"color": True}, {"crop": 20}, {"interpolation": "nearest"}], ids=str
)
def test_every_option_has_its_own_images(
    folder: Path, tmp_path: Path, decoded: list[str], change: dict[str, object]
) -> None:
    names = ["0.png", "1.png"]
    plain = pixels(folder, names, options(tmp_path))
    decoded.clear()
    other = options(tmp_path, **change)
    assert torch.equal(pixels(folder, names, other), expected(folder, names, other))
    assert decoded == names
    decoded.clear()
    assert torch.equal(pixels(folder, names, options(tmp_path)), plain)
    assert not decoded


@pytest.mark.parametrize("change", [{"split": "people"}, {"val_fraction": 0.5}, {"split_seed": 7}], ids=str)
def test_what_decides_the_sets_decodes_nothing(
    folder: Path, tmp_path: Path, decoded: list[str], change: dict[str, object]
) -> None:
    load_images(folder, ["0.png", "1.png"], options(tmp_path))
    decoded.clear()
    load_images(folder, ["0.png", "1.png"], options(tmp_path, **change))
    assert not decoded
    assert len(pixel_files(tmp_path)) == 1


def test_other_images_of_the_folder_cost_only_themselves(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    """Another split or protocol uses other images; nothing is decoded or stored twice."""
    load_images(folder, ["0.png", "1.png"], options(tmp_path))
    load_images(folder, ["1.png", "2.png", "3.png"], options(tmp_path))
    found = pixels(folder, ["3.png", "0.png"], options(tmp_path))
    assert decoded == ["0.png", "1.png", "2.png", "3.png"]
    assert torch.equal(found, expected(folder, ["0.png", "3.png"], options(tmp_path)))
    assert sum(path.stat().st_size for path in pixel_files(tmp_path)) == 4 * (16 * 16 + 32 * 32)


def test_changed_appeared_and_vanished_files_cost_only_themselves(
    folder: Path, tmp_path: Path, decoded: list[str]
) -> None:
    load_images(folder, NAMES, options(tmp_path))
    shutil.copyfile(folder / "3.png", folder / "0.png")
    shutil.copyfile(folder / "3.png", folder / "gone.png")
    (folder / "1.png").unlink()
    decoded.clear()
    after = load_images(folder, NAMES, options(tmp_path))
    assert after.names == ["0.png", "2.png", "gone.png"]
    assert after.excluded["1.png"] == "missing"
    assert sorted(decoded) == ["0.png", "gone.png"]
    assert torch.equal(after.pixels.to("cpu"), expected(folder, after.names, options(tmp_path)))
    assert after.copies == [["0.png", "gone.png"]]


def test_shards_without_a_use_go_and_small_ones_are_merged(folder: Path, tmp_path: Path) -> None:
    """Hundreds of small changes must not leave hundreds of files, nor every old version of an image."""
    names = [f"{k}.png" for k in range(4)]
    load_images(folder, names, options(tmp_path))
    for time in range(3 * image_cache.MOST_SMALL):
        os.utime(folder / f"{time % 3}.png", (time, time))
        assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names, options(tmp_path)))
    files = pixel_files(tmp_path)
    assert len(files) <= image_cache.MOST_SMALL + 1, "small shards are merged"
    assert [path.with_suffix(".json") for path in files] == list(shard_files(files[0].parent))


def test_a_relative_cache_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = pixels(folder, NAMES, options(Path()))
    decoded.clear()
    assert torch.equal(pixels(folder, NAMES, options(Path())), plain)
    assert not decoded


def test_another_file_of_the_same_size_and_time_is_noticed(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    """Archives of uncompressed images unpack to files of one size and time; then people's folders are renamed."""
    for k, color in enumerate((10, 200, 90)):
        Image.new("L", (30, 40), color).save(folder / f"{k}.pgm")
        os.utime(folder / f"{k}.pgm", (5, 5))
    names = ["0.pgm", "1.pgm", "2.pgm"]
    load_images(folder, names, options(tmp_path))
    (folder / "0.pgm").rename(folder / "x")
    (folder / "1.pgm").rename(folder / "0.pgm")
    (folder / "x").rename(folder / "1.pgm")
    shutil.copy2(folder / "2.pgm", folder / "x")
    (folder / "x").replace(folder / "2.pgm")
    decoded.clear()
    for _ in range(2):
        assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names, options(tmp_path)))
    assert decoded == ["0.pgm", "1.pgm"], "the copy of 2.pgm has another inode, but the same content"


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "index", "columns", "index is gone"])
def test_shards_that_cannot_be_opened_are_decoded_again(
    folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture, decoded: list[str]
) -> None:
    load_images(folder, ["0.png"], options(tmp_path))
    before = pixels(folder, ["0.png", "1.png"], options(tmp_path))
    _, second = pixel_files(tmp_path)
    index = second.with_suffix(".json")
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-10])
    elif damage == "empty":
        second.write_bytes(b"")
    elif damage == "gone":
        second.unlink()
    elif damage == "index":
        index.write_text("{")
    elif damage == "columns":
        index.write_text(index.read_text().replace('"crcs": [', '"crcs": [1, '))
    else:  # left by a process that was killed
        index.unlink()
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        after = pixels(folder, ["0.png", "1.png"], options(tmp_path))
    assert torch.equal(after, before)
    assert decoded == ["1.png"], "the other shard is not damaged"
    assert ("is damaged" in caplog.text) == (damage != "index is gone")
    assert len(pixel_files(tmp_path)) == 2


@pytest.mark.parametrize("searched", [True, False])
@pytest.mark.parametrize("at", [5, -5], ids=["image", "thumbnail"])
def test_a_flipped_bit_is_noticed_at_first_use(
    folder: Path, tmp_path: Path, at: int, searched: bool, caplog: pytest.LogCaptureFixture, decoded: list[str]
) -> None:
    load_images(folder, ["0.png"], options(tmp_path))
    before = load_images(folder, ["0.png", "1.png"], options(tmp_path))
    whole = before.pixels.to("cpu")
    flip(pixel_files(tmp_path)[1], at)
    for file in (tmp_path / "cache").glob("*/copies-*"):
        if not searched:
            file.unlink()
    decoded.clear()
    with caplog.at_level(logging.WARNING):
        after = load_images(folder, ["0.png", "1.png"], options(tmp_path))
        assert decoded == ([] if searched else ["1.png"]), "a start reads images only to search them for copies"
        assert after.copies == before.copies
        for _ in range(2):
            assert torch.equal(after.pixels[torch.tensor([1, 0])], whole[[1, 0]])
        assert torch.equal(load_images(folder, ["0.png", "1.png"], options(tmp_path)).pixels.to("cpu"), whole)
        assert torch.equal(before.pixels.only([1]).to("cpu"), whole[1:])
    assert caplog.text.count("wrong checksum") == 1
    assert decoded == ["1.png"], "the other image is not damaged, and the first repair serves all"


@pytest.mark.parametrize("kept", [0, 1500])
def test_a_shard_that_is_cut_short_while_it_is_used_is_mended(
    folder: Path, tmp_path: Path, kept: int, decoded: list[str]
) -> None:
    names = ["0.png", "1.png", "2.png"]
    used = load_images(folder, names, options(tmp_path)).pixels
    os.truncate(pixel_files(tmp_path)[0], kept)
    decoded.clear()
    assert torch.equal(used[torch.tensor([2, 0, 1])], expected(folder, names, options(tmp_path))[[2, 0, 1]])
    assert decoded == names[kept // (16 * 16 + 32 * 32) :]


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("change", ["other", "gone"])
def test_damage_that_cannot_be_mended_is_an_error_once(folder: Path, tmp_path: Path, change: str) -> None:
    load_images(folder, ["0.png", "1.png"], options(tmp_path))
    found = load_images(folder, ["0.png", "1.png"], options(tmp_path))
    flip(pixel_files(tmp_path)[0], 5)
    if change == "other":
        shutil.copyfile(folder / "3.png", folder / "0.png")
    else:
        (folder / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png: changed since it was decoded.* is damaged$"):
        found.pixels[torch.tensor([0])]
    again = load_images(folder, ["0.png", "1.png"], options(tmp_path))
    assert torch.equal(again.pixels.to("cpu"), expected(folder, again.names, options(tmp_path)))


def test_failures_that_may_pass_are_not_cached(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode_one = decoding.decode_with_thumbnail

    def failing(path: Path, options: ImageOptions) -> object:
        if path.name == "0.png":
            raise OSError(errno.EIO, "Input/output error")
        return decode_one(path, options)

    monkeypatch.setattr(decoding, "decode_with_thumbnail", failing)
    assert "Input/output error" in load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded["0.png"]
    monkeypatch.setattr(decoding, "decode_with_thumbnail", decode_one)
    assert load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded == {}

    def starved(path: Path, options: ImageOptions) -> object:
        raise MemoryError

    monkeypatch.setattr(decoding, "decode_with_thumbnail", starved)
    with pytest.raises(MemoryError):
        load_images(folder, ["0.png", "2.png"], options(tmp_path))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError(28, "No space left on device")], ids=["ended", "full"])
def test_what_was_decoded_before_the_end_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: BaseException, decoded: list[str]
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 1)
    names = [f"{k}.png" for k in range(4)]

    def ended(*arguments: Any) -> Iterator[Any]:
        for k, part in enumerate(decode_images(*arguments)):
            if k == 3:
                raise kind
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "decode_images", ended)
        with pytest.raises((KeyboardInterrupt, DataError), match=r"^$|data\.cache=.*No space left.*set data\.cache"):
            load_images(folder, names, options(tmp_path))
    found = pixels(folder, names, options(tmp_path))
    assert decoded == ["3.png"]
    assert torch.equal(found, expected(folder, names, options(tmp_path)))


@pytest.mark.parametrize("place", ["write", "after", "index"])
def test_a_signal_while_images_are_written_ends_the_run_and_loses_only_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, decoded: list[str]
) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 1)
    monkeypatch.setattr(shards, "SAVE_SECONDS", 0 if place == "index" else 60)
    names = [f"{k}.png" for k in range(4)]
    seen = []

    class Interrupting(shards.ShardWriter):
        def add(self, *arguments: Any) -> None:
            seen.append(arguments[0])
            if len(seen) == 3 and place != "index":
                if place == "after":
                    self._file.write(arguments[3].data)
                raise KeyboardInterrupt
            super().add(*arguments)

    def interrupting(file: Path, text: str) -> None:
        if place == "index" and len(seen) == 3:
            seen.append([])
            raise KeyboardInterrupt
        write_text_atomically(file, text)

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "ShardWriter", Interrupting)
        patch.setattr(shards, "write_text_atomically", interrupting)
        with pytest.raises(KeyboardInterrupt):
            load_images(folder, names, options(tmp_path))
    decoded.clear()
    assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names, options(tmp_path)))
    assert decoded == (names[3:] if place == "index" else names[2:])


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from configs import image_options
from siamese.data import decoding, image_cache, shards
decoding.CHUNK, shards.SAVE_SECONDS = 1, 0
plain = image_cache.decode_images
def killed(*arguments):
    for k, part in enumerate(plain(*arguments)):
        if k == 3:
            os.kill(os.getpid(), 9)
        yield part
image_cache.decode_images = killed
options = image_options(image_size=16, cache=sys.argv[3])
image_cache.load_images(Path(sys.argv[2]), [f"{k}.png" for k in range(4)], options)
"""


@pytest.mark.integration
def test_a_killed_process_keeps_what_it_saved(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(folder), str(tmp_path / "cache")]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == -9
    names = [f"{k}.png" for k in range(4)]
    assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names, options(tmp_path)))
    assert decoded == ["3.png"]


def test_a_kill_while_shards_are_merged_leaves_nothing_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "MOST_SMALL", 1)
    names = [f"{k}.png" for k in range(4)]
    load_images(folder, names[:2], options(tmp_path))
    load_images(folder, names[2:3], options(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shard, "remove", lambda self: os.kill(os.getpid(), 2))
        with pytest.raises(KeyboardInterrupt):
            load_images(folder, names, options(tmp_path))
    for _ in range(2):
        assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names, options(tmp_path)))
    cache(tmp_path / "cache", prune=True)
    assert sum(path.stat().st_size for path in pixel_files(tmp_path)) == 4 * (16 * 16 + 32 * 32)


def test_a_drive_that_is_not_connected_costs_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    monkeypatch.setattr(image_cache, "MOST_SMALL", 0)  # shards are merged at every chance
    load_images(folder, ["0.png", "1.png"], options(tmp_path))
    folder.rename(tmp_path / "elsewhere")
    folder.mkdir()
    assert load_images(folder, ["0.png", "1.png"], options(tmp_path)).names == []
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    decoded.clear()
    load_images(folder, ["0.png", "1.png"], options(tmp_path))
    assert decoded == []


def test_a_file_that_appears_while_others_are_decoded_does_no_harm(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, names = image_cache._file_stats, ["0.png", "1.png", "9.png"]

    def too_early(*arguments: Any) -> Any:
        stats = plain(*arguments)
        shutil.copyfile(folder / "3.png", folder / "9.png")
        return stats

    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "_file_stats", too_early)
        (folder / "9.png").unlink(missing_ok=True)
        found = load_images(folder, names, options(tmp_path))
    assert torch.equal(found.pixels.to("cpu"), expected(folder, names, options(tmp_path)))
    (folder / "9.png").unlink()
    assert torch.equal(pixels(folder, names, options(tmp_path)), expected(folder, names[:2], options(tmp_path)))
    assert torch.equal(pixels(folder, names[:2], options(tmp_path)), expected(folder, names[:2], options(tmp_path)))


def test_a_file_that_changes_while_it_is_read_is_read_again_next_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(file: Path) -> str:
        os.utime(file, (1, 1))
        return file_digest(file)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "file_digest", changing)
        assert "changed while" in load_images(folder, ["0.png"], options(tmp_path)).excluded["0.png"]
    assert load_images(folder, ["0.png"], options(tmp_path)).names == ["0.png"]


def test_too_many_open_files_are_no_damage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_images(folder, ["0.png"], options(tmp_path))

    def none_left(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", none_left)
        with pytest.raises(DataError, match="Too many open files"):
            load_images(folder, ["0.png", "1.png"], options(tmp_path))
    assert len(pixel_files(tmp_path)) == 1


def test_a_warm_start_does_not_wait_for_a_process_that_decodes(folder: Path, tmp_path: Path) -> None:
    load_images(folder, ["0.png"], options(tmp_path))
    with FileLock(image_cache.cache_folder(folder, options(tmp_path)) / "lock"):
        assert load_images(folder, ["0.png", "gone.png"], options(tmp_path)).names == ["0.png"]


def test_large_images_are_decoded_few_at_a_time(folder: Path, tmp_path: Path) -> None:
    """Otherwise those that wait to be written would fill the memory of a machine with many cores."""
    parts = list(decode_images(folder, ["0.png"] * 3, options(tmp_path, image_size=1024, color=True)))
    assert [len(part.names) for part in parts] == [1, 1, 1]


def test_a_full_disk_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "write_text_atomically", fail)
    with pytest.raises(DataError, match=r"data\.cache=.*No space left"):
        load_images(folder, NAMES, options(tmp_path))
    monkeypatch.undo()
    load_images(folder, NAMES, options(tmp_path))
    assert len(pixel_files(tmp_path)) == 1


def test_a_disk_that_fills_while_shards_are_merged_keeps_all_images_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    names = [f"{k}.png" for k in range(4)]
    for name in names:
        load_images(folder, [name], options(tmp_path))
    before = sum(file.stat().st_size for file in pixel_files(tmp_path))
    (folder / "3.png").unlink()
    write, calls = shards.write_text_atomically, []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(28, "No space left on device")
        write(*arguments)

    (entry,) = (tmp_path / "cache").glob("?" * 16)
    found = read_shards(entry)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_text_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            merge(entry, found, in_use(folder, found, missing_too=False))
    decoded.clear()
    assert torch.equal(pixels(folder, names[:3], options(tmp_path)), expected(folder, names[:3], options(tmp_path)))
    assert not decoded
    assert sum(file.stat().st_size for file in pixel_files(tmp_path)) == before * 3 // 4, "the unused shard is gone"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2), max_size=12))
def test_indexing_gives_what_indexing_a_tensor_gives(
    many: tuple[image_cache.ImageArray, torch.Tensor], rows: list[list[int]]
) -> None:
    images, reference = many
    wanted = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    for index in (wanted, wanted.flatten()):
        found = images.pixels[index]
        assert found.dtype == torch.uint8
        assert torch.equal(found, reference[index])
    some = images.pixels.only([5, 0, 3])
    assert (len(some), some.shape) == (3, (3, 3, 9, 9))
    assert torch.equal(some.to("cpu"), reference[[5, 0, 3]])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[image_cache.ImageArray, torch.Tensor]:
    """Six colour images in three shards."""
    root = tmp_path_factory.mktemp("many")
    opts = options(root, image_size=9, color=True)
    names = [noise_photo(root / f"{k}.png", k).name for k in range(6)]
    for first in (2, 0, 4):
        load_images(root, names[first : first + 2], opts)
    return load_images(root, names, opts), expected(root, names, opts)


def test_progress_is_logged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parallel, "REPORT_SECONDS", 0)
    monkeypatch.setattr(decoding, "CHUNK", 2)
    with caplog.at_level(logging.INFO):
        load_images(folder, [f"{k}.png" for k in range(4)], options(tmp_path))
    assert "decoding: 2 of 4 images, " in caplog.text
    assert " a second; " in caplog.text


@pytest.mark.integration
def test_processes_and_threads_give_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "CHUNK", 2)
    threads = list(decode_images(folder, NAMES, options(tmp_path)))
    monkeypatch.setattr(decoding, "PROCESSES_FROM", 0)
    monkeypatch.setattr(decoding, "cores", lambda: 2)
    processes = list(decode_images(folder, NAMES, options(tmp_path)))
    for one, other in zip(threads, processes, strict=True):
        assert (one.names, one.stats) == (other.names, other.stats)
        assert (one.failed, one.may_pass, one.digests) == (other.failed, other.may_pass, other.digests)
        assert np.array_equal(one.records, other.records)
    assert one.failed == decode_some(folder, options(tmp_path), NAMES[-2:]).failed


def _load_in_process(arguments: tuple[Path, Path]) -> int:
    folder, tmp_path = arguments
    return int(pixels(folder, NAMES, options(tmp_path)).sum())


@pytest.mark.integration
def test_concurrent_processes_get_the_same(folder: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_load_in_process, [(folder, tmp_path)] * 4, chunksize=1)
    assert set(sums) == {int(pixels(folder, NAMES, options(tmp_path)).sum())}
