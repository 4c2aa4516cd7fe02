"""Unpacking, with archives made on purpose."""

from __future__ import annotations

import io
import itertools
import sys
import tarfile
from pathlib import Path

import pytest
from archives import BODY, FACES, FACES_TREE, regular, special, tgz, tree

from siamese.data.unpack import unpack
from siamese.errors import DataError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "lfw.tgz"
    path.write_bytes(tgz(*FACES))
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def not_unpacked(archive: Path, into: Path) -> str:
    """The reason why an unpacking fails; the message must name the archive in one line, and nothing is left."""
    with pytest.raises(DataError) as caught:
        unpack(archive, into, top="lfw")
    before, reason = str(caught.value).split(f"{archive}: cannot be unpacked into {into}: ")
    assert before == ""
    assert reason.isprintable()
    assert reason.endswith("; free some space, choose another folder, or remove lfw.tgz to download it again")
    assert tree(into) == []
    return reason


def test_unpack(archive, into):
    unpack(archive, into, top="lfw")
    assert tree(into) == FACES_TREE
    assert (into / "lfw/Ada/Ada_0001.jpg").read_bytes() == BODY
    assert archive.is_file()


def test_modes_are_those_of_any_new_file(archive, into):
    info, content = regular("lfw/run_me")
    info.mode = 0o4777
    folder = special("lfw", tarfile.DIRTYPE)
    folder[0].mode = 0o000
    archive.write_bytes(tgz(folder, (info, content)))
    unpack(archive, into, top="lfw")
    (into / "new").touch()
    assert (into / "lfw/run_me").stat().st_mode == (into / "new").stat().st_mode
    assert (into / "lfw").stat().st_mode == into.stat().st_mode


def test_dotted_names_are_the_same_names(archive, into):
    archive.write_bytes(tgz(special(".", tarfile.DIRTYPE), regular("./lfw/Ada/Ada_0001.jpg")))
    unpack(archive, into, top="lfw")
    assert tree(into) == ["lfw", "lfw/Ada", "lfw/Ada/Ada_0001.jpg"]


def test_what_lies_beside_the_folder_is_not_unpacked(archive, into):
    archive.write_bytes(tgz(regular("._lfw"), regular("lfw2/x"), *FACES))
    unpack(archive, into, top="lfw")
    assert tree(into) == FACES_TREE


UNSAFE = {
    "traversal": regular("lfw/../../evil"),
    "symlink": special("lfw/link", tarfile.SYMTYPE, "/etc"),
    "symlink upwards": special("lfw/link", tarfile.SYMTYPE, "../../evil"),
    "hardlink": special("lfw/link", tarfile.LNKTYPE, "../evil"),
    "character device": special("lfw/null", tarfile.CHRTYPE),
    "block device": special("lfw/disk", tarfile.BLKTYPE),
    "fifo": special("lfw/fifo", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("member", UNSAFE.values(), ids=UNSAFE.keys())
def test_unsafe_members(archive, into, member):
    archive.write_bytes(tgz(*FACES, member, regular("lfw/after")))
    assert member[0].name.split("/")[-1] in not_unpacked(archive, into)
    assert tree(archive.parent) == ["into", "lfw.tgz"]


@pytest.mark.parametrize("kept", [0, 5, 1000, -100_000])
def test_an_archive_cut_short(archive, into, kept):
    archive.write_bytes(archive.read_bytes()[:kept])
    not_unpacked(archive, into)


def test_no_archive_at_all(archive, into):
    archive.write_bytes(b"<html>404</html>")
    assert "could not be opened" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw2/x")))
    assert "No such file" in not_unpacked(archive, into)
    archive.unlink()
    assert "No such file" in not_unpacked(archive, into)


def test_a_disk_that_fills_up_while_unpacking(archive, into, small_files_only):
    assert "File too large" in not_unpacked(archive, into)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_nothing(archive, into, monkeypatch, interruption):
    extract = tarfile.TarFile.extract
    calls = itertools.count()

    def interrupted(self, member, *args, **kwargs):
        if next(calls) == 3:
            raise interruption
        extract(self, member, *args, **kwargs)

    monkeypatch.setattr(tarfile.TarFile, "extract", interrupted)
    with pytest.raises(interruption):
        unpack(archive, into, top="lfw")
    assert tree(into) == []


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_drawn_on_a_terminal_if_wanted(archive, into, monkeypatch, progress):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    unpack(archive, into, top="lfw", progress=progress)
    assert ("unpacking lfw.tgz: " in terminal.getvalue()) == progress
