"""Files are replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese.files import write_bytes_atomically, write_text_atomically


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
