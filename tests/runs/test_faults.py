"""Faults of the machine: the error says what to do, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from resuming import assert_equal

from siamese.command.exit_codes import reason
from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.data.image_cache import load_images
from siamese.errors import DataError
from siamese.runs.folder import RunFolder
from siamese.training.train import train

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]

OPTIONS: dict[str, Any] = {
    "model": {"name": "koch", "widths": [4, 4, 8, 8], "embedding_dim": 64, "batchnorm": True},
    "checkpoint": {"every": 3}, "logger": {"name": "tensorboard"},
}  # fmt: skip


class Disk:
    """A file system in memory whose size can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def resize(self, kilobytes: int) -> None:
        option = f"{'remount,' if os.path.ismount(self.path) else ''}size={kilobytes}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(self.path)], check=True, capture_output=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    small = Disk(tmp_path / "disk")
    try:
        small.resize(64)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk takes root")
    yield small
    small.unmount()


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with `OPTIONS`."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    train(tiny_config(**OPTIONS), RunFolder(path))
    return path


@pytest.mark.parametrize("kilobytes", [4, 16, 64, 256, 480, 640, 800, 1000])
def test_a_run_on_a_disk_that_fills_up_is_resumed_when_there_is_room(
    tiny_config: Make, undisturbed: Path, disk: Disk, kilobytes: int
) -> None:
    """It fills up in the result, history, either checkpoint, events, predictions, pictures, or the page."""
    disk.resize(kilobytes)
    folder = RunFolder(disk.path / "run")
    failed: OSError | None = None
    try:
        train(tiny_config(**OPTIONS, resume=True), folder)
    except OSError as error:
        failed = error
    assert failed is not None or kilobytes > 64
    if failed is not None:
        assert failed.errno == errno.ENOSPC
        assert "No space left on device" in reason(failed)
        assert "\n" not in reason(failed)
    disk.resize(64_000)
    for left in (folder.path / "checkpoints").glob("*.ckpt"):
        torch.load(left, weights_only=True)  # not damaged
    train(tiny_config(**OPTIONS, resume=True), folder)
    assert_equal(folder.path, undisturbed)
    assert (folder.path / "report.html").stat().st_size == pytest.approx(
        (undisturbed / "report.html").stat().st_size, rel=0.05
    )


def test_a_full_disk_under_the_image_cache(tiny_config: Make, disk: Disk) -> None:
    disk.resize(16)
    config = tiny_config()
    data = config.data.model_copy(update={"cache": str(disk.path / "cache")})
    with pytest.raises(DataError, match=r"data\.cache=.*No space left on device.*set data\.cache to a folder"):
        train(config.model_copy(update={"data": data}), RunFolder(disk.path.parent / "run"))
    disk.resize(4000)
    train(config.model_copy(update={"data": data, "resume": True}), RunFolder(disk.path.parent / "run"))


def test_photos_and_lists_are_only_read(tiny_config: Make, tiny_root: Path, tmp_path: Path) -> None:
    """A run on a read-only data folder: mounted, because root may write to any other folder."""
    readonly = tmp_path / "readonly"
    readonly.mkdir()
    try:
        try:
            subprocess.run(["mount", "--bind", str(tiny_root), str(readonly)], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(readonly)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting takes root")
        config = tiny_config(max_epochs=1)
        data = config.data.model_copy(update={"root": str(readonly)})
        assert train(config.model_copy(update={"data": data}), RunFolder(tmp_path / "run")).status == "done"
        blocked = data.model_copy(update={"cache": str(readonly / "cache")})
        with pytest.raises(DataError, match=r"data\.cache=.*Read-only file system"):
            train(config.model_copy(update={"data": blocked}), RunFolder(tmp_path / "other"))
    finally:
        subprocess.run(["umount", "-l", str(readonly)], check=False, capture_output=True)


NO_ROOM = """
import json, resource, sys
from pathlib import Path
import lightning as L
from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.training import fit
from siamese.training.train import train

class Shrink(L.Callback):
    def on_train_batch_end(self, *_):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))

def build(*arguments, build=fit.build_trainer):
    trainer = build(*arguments)
    trainer.callbacks.insert(0, Shrink())
    return trainer

fit.build_trainer = build
train(TrainConfig.model_validate(json.loads(sys.argv[1])), RunFolder(Path(sys.argv[2])))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
def test_a_batch_that_does_not_fit_names_its_size(tiny_config: Make, tmp_path: Path) -> None:
    """In a separate process: some releases of torch compute nothing after memory has run out."""
    config = tiny_config(batch_size=24, model={"name": "koch", "widths": [64, 32, 8, 8]})
    command = [sys.executable, "-c", NO_ROOM, json.dumps(to_plain(config)), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert "TrainingError: out of memory with batch_size=24; give a smaller batch_size" in done.stderr.splitlines()[-1]


def test_the_cache_takes_no_notice_of_the_hour(
    tiny_root: Path, tmp_path: Path, tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that was replaced by one that looks older is decoded again."""
    options = tiny_config().data
    folder = tmp_path / "photos"
    folder.mkdir()
    source = next((tiny_root / "lfw").rglob("*.jpg"))
    others = [path for path in (tiny_root / "lfw").rglob("*.jpg") if path != source]
    (folder / "a.jpg").write_bytes(source.read_bytes())
    before = load_images(folder, ["a.jpg"], options).pixels.to("cpu")
    (folder / "a.jpg").write_bytes(others[0].read_bytes())
    os.utime(folder / "a.jpg", (0, 0))
    assert not torch.equal(load_images(folder, ["a.jpg"], options).pixels.to("cpu"), before)
