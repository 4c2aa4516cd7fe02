"""``siamese cache``: what is listed, and what is removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from configs import image_options
from conftest import noise_photo
from filelock import FileLock

from siamese.command.cache import cache
from siamese.command.main import main
from siamese.data.image_cache import cache_folder, load_images


def stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*/*.pixels"))


def test_unused_images_are_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [noise_photo(tmp_path / f"photos/{k}.png", k).name for k in range(40)]
    gone = noise_photo(tmp_path / "other/0.png")
    small, large = (image_options(image_size=side, cache=str(tmp_path / "cache")) for side in (16, 64))
    folder = tmp_path / "cache"
    for options in (small, large):
        load_images(tmp_path / "photos", names, options)
    load_images(gone.parent, [gone.name], small)
    os.utime(tmp_path / "photos/3.png", (1, 1))
    load_images(tmp_path / "photos", names, small)
    (tmp_path / "photos/4.png").unlink()
    shutil.rmtree(gone.parent)
    (folder / "0123456789abcdef/fedcba9876543210").mkdir(parents=True)
    (folder / "0123456789abcdef/lock").touch()
    (folder / "0123456789abcdef/fedcba9876543210/pixels.npy").write_bytes(bytes(10**6))
    for name in ("mine", "0123456789abcdef0", "fedcba9876543210"):
        (folder / name).mkdir()
        (folder / name / "lock").touch()
        (folder / name / "folder.json").write_text('{"format": 99}')
    (folder / "arithmetic-0.json").touch()
    left = cache_folder(tmp_path / "photos", large) / "000009-ab.pixels"
    left.write_bytes(bytes(2 * 10**6))

    def line(text: str) -> str:
        (found,) = (one for one in text.splitlines() if text and all(word in one for word in words))
        return found

    text = cache(folder, prune=False)
    words = ["39 images of", "photos, 16 x 16 grey"]
    assert f"of which {2 * (16**2 + 32**2) / 1e3:.1f} kB unused" in line(text)
    words = ["photos, 64 x 64 grey"]
    assert ", of which 2.0 MB unused" in line(text), "a killed run left a file of pixels"
    words = ["1.0 MB, unused: 0123456789abcdef", "of another version of this program or of Pillow"]
    assert line(text)
    words = ["0 images of", "other (this folder is not there, or empty)"]
    assert line(text)
    assert f"python -m siamese cache {folder} --prune" in text
    assert main(["cache", str(folder), "--prune"]) == 0
    assert "removed: 3." in capsys.readouterr().out
    assert stored(folder) == 39 * (16**2 + 32**2) + 38 * (64**2 + 32**2), "3.png changed: its large image is stale"
    assert "unused: 0.0 MB" in cache(folder, prune=False)
    kept = {path.name for path in folder.iterdir()}
    assert {"arithmetic-0.json", "mine", "0123456789abcdef0", "fedcba9876543210"} <= kept, (
        "not ours, or of a later version"
    )
    assert "0123456789abcdef" not in kept
    assert "other" not in cache(folder, prune=False), "nothing is left of it"
    names.remove("4.png")
    fresh = image_options(image_size=16, cache=str(tmp_path / "again"))
    images = (load_images(tmp_path / "photos", names, options).pixels.to("cpu") for options in (small, fresh))
    assert torch.equal(*images)


def test_a_cache_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", str(tmp_path / "none")]) == 2
    assert "none: no such folder: nothing is cached yet" in capsys.readouterr().err
    noise_photo(tmp_path / "photos/0123456789abcdef.png")
    assert main(["cache", str(tmp_path / "photos")]) == 2
    assert "photos: not a cache of decoded images; give the folder of data.cache" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cache(tmp_path / "empty", prune=False).endswith("empty: 0.0 MB; unused: 0.0 MB")


def test_a_cache_that_is_written_is_left_alone(tmp_path: Path) -> None:
    noise_photo(tmp_path / "photos/0.png")
    options = image_options(image_size=16, cache=str(tmp_path / "cache"))
    load_images(tmp_path / "photos", ["0.png"], options)
    (copies,) = (tmp_path / "cache").glob("*/copies-*.json")
    old = tmp_path / "cache/0123456789abcdef"
    (old / "x").mkdir(parents=True)
    (old / "x/pixels.npy").touch()
    with FileLock(cache_folder(tmp_path / "photos", options) / "lock"), FileLock(old / "lock"):
        assert cache(tmp_path / "cache", prune=True).count("in use by a process") == 2
    assert stored(tmp_path / "cache") == 16**2 + 32**2
    cache(tmp_path / "cache", prune=True)
    assert copies.exists(), "nothing was removed: the search need not be repeated"
    assert not old.exists()
