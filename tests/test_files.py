"""Files are replaced as a whole, and recognised by a digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from siamese.files import file_digest, write_bytes_atomically, write_text_atomically


def test_writes_and_replaces(tmp_path):
    file = tmp_path / "a.txt"
    for content in ("ö\n", "second\r\n"):
        write_text_atomically(file, content)
        assert file.read_bytes() == content.encode()
    assert list(tmp_path.iterdir()) == [file]


def test_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "a.bin"
    write_bytes_atomically(file, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_others_may_read_as_the_umask_says(tmp_path):
    (tmp_path / "plain").touch()
    write_bytes_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text_atomically(tmp_path / "no" / "a", "")


def test_files_that_differ_at_either_end_have_other_digests(tmp_path):
    content = bytes(300_000)
    for number, changed in enumerate((content, b"x" + content[1:], content[:-1] + b"x", content + b"x", b"", b"x")):
        (tmp_path / str(number)).write_bytes(changed)
    assert len({file_digest(file) for file in tmp_path.iterdir()}) == 6
    assert file_digest(tmp_path / "0") == file_digest(shutil.copy(tmp_path / "0", tmp_path / "copy"))
