"""Checkpoint files: damaged ones are refused, code in them is not run, and failures while writing are not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese.errors import DataError
from siamese.training.checkpoints import AtomicCheckpointIO, BackgroundCheckpointIO, MemoryCheckpointIO

CHECKPOINT: dict[str, Any] = {
    "state_dict": {"network.weight": torch.arange(3.0)}, "optimizer_states": [{"state": {}}], "lr_schedulers": [],
    "loops": {}, "callbacks": {},
}  # fmt: skip


class Payload:
    """Pickled, it creates a file when it is read with code allowed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def web_page(file: Path) -> None:
    file.write_text("<html>")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def code_inside(file: Path) -> None:
    torch.save({**CHECKPOINT, "state_dict": Payload(file.with_name("ran"))}, file)


def code_beside(file: Path) -> None:
    torch.save({**CHECKPOINT, "more": Payload(file.with_name("ran"))}, file)


def a_list(file: Path) -> None:
    torch.save([1, 2], file)


def weights_alone(file: Path) -> None:
    torch.save({"state_dict": CHECKPOINT["state_dict"]}, file)


@pytest.mark.parametrize(
    "damage", [cut_short, empty, web_page, folder, code_inside, code_beside, a_list, weights_alone]
)
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "checkpoints" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(CHECKPOINT, file)
    assert torch.equal(io.load_checkpoint(file)["state_dict"]["network.weight"], torch.arange(3.0))
    damage(file)
    with pytest.raises(DataError, match=r"cannot resume from this file \(.+\); delete it to start again") as caught:
        io.load_checkpoint(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert not file.with_name("ran").exists()


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path, small_files_only: None) -> None:
    file = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(CHECKPOINT, file)
    before = file.read_bytes()
    with pytest.raises(OSError, match="too large"):
        io.save_checkpoint({**CHECKPOINT, "more": torch.zeros(100_000)}, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_checkpoints_are_written_in_the_background_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, written = threading.Event(), []
    save = torch.save

    def wait_and_save(checkpoint: Any, out: Any) -> None:
        assert may_write.wait(30)
        written.append(checkpoint["epoch"])
        save(checkpoint, out)

    monkeypatch.setattr(torch, "save", wait_and_save)
    io = BackgroundCheckpointIO()
    weight = torch.zeros(2)
    io.save_checkpoint({**CHECKPOINT, "epoch": 1, "weight": weight}, tmp_path / "last.ckpt")
    weight += 1  # training continues
    assert written == []
    may_write.set()
    io.save_checkpoint({**CHECKPOINT, "epoch": 2}, tmp_path / "other.ckpt")
    assert written[0] == 1
    io.teardown()
    assert written == [1, 2]
    assert torch.equal(io.load_checkpoint(tmp_path / "last.ckpt")["weight"], torch.zeros(2))


@pytest.mark.parametrize("then", ["save", "teardown"])
def test_a_failure_in_the_background_is_raised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    io = BackgroundCheckpointIO()
    io.save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    with pytest.raises(OSError, match="No space left"):
        io.save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt") if then == "save" else io.teardown()
    io.teardown()


def test_checkpoints_in_memory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    io = MemoryCheckpointIO()
    weight = torch.zeros(2)
    io.save_checkpoint({"weight": weight}, tmp_path / "link" / "best.ckpt")
    weight += 1
    assert torch.equal(io.load_checkpoint(tmp_path / "real" / "best.ckpt")["weight"], torch.zeros(2))
    assert not list((tmp_path / "real").iterdir())
    io.remove_checkpoint(tmp_path / "real" / "best.ckpt")
    with pytest.raises(KeyError):
        io.load_checkpoint(tmp_path / "link" / "best.ckpt")
