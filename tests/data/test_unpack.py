"""Unpacking, with archives made on purpose."""

from __future__ import annotations

import gzip
import io
import itertools
import random
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from archives import BODY, FACES, FACES_TREE, regular, special, tgz, tree

from siamese.data import unpack as unpacking
from siamese.data.unpack import unpack
from siamese.errors import DataError

LARGE = 1 << 30


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "lfw.tgz"
    path.write_bytes(tgz(*FACES))
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def not_unpacked(archive: Path, into: Path, max_bytes: int = LARGE) -> str:
    """The message of an unpacking that fails, which must name the archive in one line and leave nothing."""
    with pytest.raises(DataError) as caught:
        unpack(archive, into, top="lfw", max_bytes=max_bytes)
    assert str(caught.value).startswith(f"{archive}: ")
    assert str(caught.value).isprintable()
    assert tree(into) == []
    return str(caught.value)


def test_unpack(archive, into):
    unpack(archive, into, top="lfw", max_bytes=LARGE)
    assert tree(into) == FACES_TREE
    assert (into / "lfw/Ada/Ada_0001.jpg").read_bytes() == BODY
    assert archive.is_file()


def test_modes_are_those_of_any_new_file(tmp_path, into):
    info, content = regular("lfw/run_me")
    info.mode = 0o4777
    folder = special("lfw", tarfile.DIRTYPE)
    folder[0].mode = 0o000
    (tmp_path / "a.tgz").write_bytes(tgz(folder, (info, content)))
    unpack(tmp_path / "a.tgz", into, top="lfw", max_bytes=LARGE)
    (into / "new").touch()
    assert (into / "lfw/run_me").stat().st_mode == (into / "new").stat().st_mode
    assert (into / "lfw").stat().st_mode == into.stat().st_mode


def test_dotted_names_are_the_same_names(tmp_path, into):
    (tmp_path / "a.tgz").write_bytes(tgz(special(".", tarfile.DIRTYPE), regular("./lfw/Ada/Ada_0001.jpg")))
    unpack(tmp_path / "a.tgz", into, top="lfw", max_bytes=LARGE)
    assert tree(into) == ["lfw", "lfw/Ada", "lfw/Ada/Ada_0001.jpg"]


def test_what_lies_beside_the_folder_is_not_unpacked(tmp_path, into):
    (tmp_path / "a.tgz").write_bytes(tgz(regular("._lfw"), regular("lfw2/x"), *FACES))
    unpack(tmp_path / "a.tgz", into, top="lfw", max_bytes=LARGE)
    assert tree(into) == FACES_TREE


def test_a_target_that_is_there_is_left_alone(archive, into):
    (into / "lfw").mkdir(parents=True)
    unpack(archive, into, top="lfw", max_bytes=LARGE)
    assert tree(into) == ["lfw"]


def test_a_target_that_appears_meanwhile_is_left_alone(archive, into, monkeypatch):
    extract = unpacking._extract

    def extract_late(*args):
        extract(*args)
        (into / "lfw").mkdir()
        (into / "lfw" / "theirs").touch()

    monkeypatch.setattr(unpacking, "_extract", extract_late)
    unpack(archive, into, top="lfw", max_bytes=LARGE)
    assert tree(into) == ["lfw", "lfw/theirs"]


UNSAFE = {
    "traversal": regular("lfw/../../evil"),
    "traversal inside": regular("lfw/../lfw/x"),
    "absolute": regular("/tmp/siamese_evil"),
    "backslash": regular("lfw\\..\\..\\evil"),
    "symlink": special("lfw/link", tarfile.SYMTYPE, "/etc"),
    "inner symlink": special("lfw/link", tarfile.SYMTYPE, "Ada"),
    "symlink beside": special("link", tarfile.SYMTYPE, "/etc"),
    "hardlink": special("lfw/link", tarfile.LNKTYPE, "lfw/Ada/Ada_0001.jpg"),
    "character device": special("lfw/null", tarfile.CHRTYPE),
    "block device": special("lfw/disk", tarfile.BLKTYPE),
    "fifo": special("lfw/fifo", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("member", UNSAFE.values(), ids=UNSAFE.keys())
def test_unsafe_members(tmp_path, into, member):
    (tmp_path / "a.tgz").write_bytes(tgz(*FACES, member, regular("lfw/after")))
    assert "unsafe: " in not_unpacked(tmp_path / "a.tgz", into)
    assert tree(tmp_path) == ["a.tgz", "into"]


def test_a_sparse_file_is_refused(tmp_path, into):
    info, content = regular("lfw/huge", b"x" * 512)
    info.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": str(1 << 50)}
    (tmp_path / "a.tgz").write_bytes(tgz((info, content)))
    assert "unsafe: 'lfw/huge'" in not_unpacked(tmp_path / "a.tgz", into)


def test_a_bomb_is_stopped_by_what_it_unpacks_to(archive, tmp_path, into):
    (tmp_path / "bomb.tgz").write_bytes(tgz(*FACES, regular("lfw/zeros", bytes(5_000_000))))
    assert (tmp_path / "bomb.tgz").stat().st_size < 300_000
    assert "more than 1.0 MB" in not_unpacked(tmp_path / "bomb.tgz", into, max_bytes=1_000_000)
    unpack(archive, into, top="lfw", max_bytes=1_000_000)


@pytest.mark.parametrize("where", ["beside the folder", "after the end", "in a header"])
def test_a_bomb_is_stopped_wherever_it_hides(tmp_path, into, where):
    if where == "beside the folder":
        content = tgz(*FACES, regular("elsewhere", bytes(5_000_000)))
    elif where == "after the end":
        content = tgz(*FACES) + gzip.compress(bytes(5_000_000))
    else:
        info, body = regular("lfw/x")
        info.pax_headers = {"comment": "0" * 5_000_000}
        content = tgz((info, body))
    (tmp_path / "bomb.tgz").write_bytes(content)
    assert "more than 1.0 MB" in not_unpacked(tmp_path / "bomb.tgz", into, max_bytes=1_000_000)


def test_a_bomb_of_members(tmp_path, into, monkeypatch):
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 50)
    (tmp_path / "ok.tgz").write_bytes(tgz(*(regular(f"lfw/{number}") for number in range(50))))
    (tmp_path / "bomb.tgz").write_bytes(tgz(*(regular(f"lfw/{number}") for number in range(51))))
    assert "more than 50 members" in not_unpacked(tmp_path / "bomb.tgz", into)
    unpack(tmp_path / "ok.tgz", into, top="lfw", max_bytes=LARGE)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1, -8, -100_000])
def test_an_archive_cut_short(archive, into, kept):
    archive.write_bytes(archive.read_bytes()[:kept])
    assert "damaged (" in not_unpacked(archive, into)


def test_a_tar_cut_short_inside_a_whole_gzip(archive, into):
    archive.write_bytes(gzip.compress(gzip.decompress(archive.read_bytes())[:100_000]))
    assert "damaged (" in not_unpacked(archive, into)


def test_no_archive_at_all(tmp_path, archive, into):
    into.mkdir()
    assert "no such archive" in not_unpacked(tmp_path / "none.tgz", into)
    archive.write_bytes(b"<html>404</html>")
    assert "damaged (Not a gzipped file" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw2/x")))
    assert "contains no folder lfw/" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw")))
    assert "contains no folder lfw/" in not_unpacked(archive, into)


def test_a_disk_that_fills_up_while_unpacking(archive, into, small_files_only):
    assert f"cannot be unpacked into {into}: File too large; free some space" in not_unpacked(archive, into)


def test_members_in_each_others_way(archive, into):
    archive.write_bytes(tgz(regular("lfw/x"), regular("lfw/x/y")))
    assert "cannot be unpacked" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw/" + "n" * 300)))
    assert "File name too long" in not_unpacked(archive, into)


@pytest.mark.parametrize("inside", [False, True], ids=["in the gzip", "in the tar"])
def test_any_damage_is_refused_or_harmless(archive, into, inside):
    whole = gzip.decompress(tgz(*FACES[:2], regular("lfw/Ada/Ada_0001.jpg", b"face" * 50), form=tarfile.GNU_FORMAT))
    rng = random.Random(7)
    for _ in range(40):
        content = bytearray(whole if inside else gzip.compress(whole, mtime=0))
        for _ in range(rng.choice([1, 1, 3])):
            content[rng.randrange(min(len(content), 2048))] = rng.randrange(256)
        archive.write_bytes(gzip.compress(content) if inside else content)
        try:
            unpack(archive, into, top="lfw", max_bytes=100_000)
        except DataError:
            assert tree(into) == []
        else:
            assert [path.name for path in into.iterdir()] == ["lfw"]
            shutil.rmtree(into)


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
        unpack(archive, into, top="lfw", max_bytes=LARGE)
    assert tree(into) == []


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_drawn_on_a_terminal_if_wanted(archive, into, monkeypatch, progress):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    unpack(archive, into, top="lfw", max_bytes=LARGE, progress=progress)
    assert ("unpacking lfw.tgz: " in terminal.getvalue()) == progress
