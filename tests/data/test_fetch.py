"""Downloading a file: resume, retries, checksum, against a small server on the loopback address."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from archives import BODY, tree
from file_server import Server, cut, plain, ranged, redirect, serving, status

from siamese.data import fetch as fetching
from siamese.data.fetch import fetch
from siamese.errors import DataError

SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 0.001)
    with serving() as server:
        yield server


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file.bin"


def part_of(destination: Path) -> Path:
    return destination.with_name(destination.name + ".part")


def refused(url: str, destination: Path, **options: object) -> str:
    """The message of a download that fails, which must name the address and the remedy in one line."""
    with pytest.raises(DataError) as caught:
        fetch(url, destination, **({"sha256": SHA256} | options))
    message = str(caught.value)
    assert message.startswith(f"{url}: ")
    assert message.endswith(f"download it by hand to {destination}")
    assert "\n" not in message
    assert not destination.exists()
    return message


@pytest.mark.parametrize("answer", [ranged(), plain(Content_Length=None)], ids=["length", "no length"])
def test_a_file_arrives_whole(server, destination, answer):
    server.answers["/file"] = [answer]
    fetch(server.url(), destination, sha256=SHA256.upper())
    assert destination.read_bytes() == BODY
    assert tree(destination.parent) == ["file.bin"]
    assert server.requests == [("/file", None)]
    assert server.agents == {fetching.USER_AGENT}


def test_a_cut_connection_is_resumed(server, destination):
    server.answers["/file"] = [cut(70_000), ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY
    assert server.requests == [("/file", None), ("/file", "bytes=70000-")]


def test_a_part_of_an_earlier_call_is_resumed(server, destination):
    server.answers["/file"] = [cut(70_000), ranged()]
    message = refused(server.url(), destination, retries=0)
    assert "ended after 70000 of 200000 bytes" in message
    assert part_of(destination).read_bytes() == BODY[:70_000]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY
    assert server.requests[1] == ("/file", "bytes=70000-")
    assert tree(destination.parent) == ["file.bin"]


def test_a_server_without_ranges_sends_it_all_again(server, destination):
    server.answers["/file"] = [cut(70_000), plain()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.reply(206, BODY[10:], Content_Range=f"bytes 10-199999/{len(BODY)}"),
        lambda handler: handler.reply(206, BODY[70_000:]),
        lambda handler: handler.reply(206, BODY[70_000:], Content_Range="bytes pair 1-2/3"),
        status(416),
    ],
    ids=["another range", "no range", "nonsense", "not satisfiable"],
)
def test_a_wrong_answer_to_a_range_starts_anew(server, destination, answer):
    server.answers["/file"] = [cut(70_000), answer, ranged()]
    fetch(server.url(), destination, sha256=SHA256, retries=1)
    assert destination.read_bytes() == BODY
    assert [asked for _, asked in server.requests] == [None, "bytes=70000-", None]


def test_a_range_of_unknown_total_is_believed_and_checked(server, destination):
    server.answers["/file"] = [
        cut(70_000),
        lambda handler: handler.reply(206, BODY[70_000:], Content_Range="bytes 70000-199999/*"),
    ]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY


def test_a_part_of_another_file_does_not_stay_in_the_way(server, destination):
    destination.parent.mkdir()
    part_of(destination).write_bytes(b"something else")
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY
    assert server.requests == [("/file", "bytes=14-"), ("/file", None)]


@pytest.mark.parametrize("code", [202, 429, 500, 503])
def test_troubles_of_the_server_are_tried_again(server, destination, code, caplog):
    server.answers["/file"] = [status(code), status(code), ranged()]
    fetch(server.url(), destination, sha256=SHA256, retries=2)
    assert destination.read_bytes() == BODY
    assert [f"HTTP {code} " in record.getMessage() for record in caplog.records] == [True, True]


def test_the_pause_doubles_and_the_attempts_end(server, destination, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 1.0)
    server.answers["/file"] = [status(500)]
    assert "HTTP 500 Internal Server Error (4 attempts)" in refused(server.url(), destination)
    assert pauses == [1, 2, 4]
    assert len(server.requests) == 4
    assert tree(destination.parent) == []


@pytest.mark.parametrize(("code", "words"), [(404, "Not Found"), (403, "Forbidden")])
def test_a_refusal_is_final(server, destination, code, words):
    server.answers["/file"] = [status(code)]
    assert f"HTTP {code} {words};" in refused(server.url(), destination)
    assert len(server.requests) == 1
    assert tree(destination.parent) == []


def test_no_server(destination, monkeypatch):
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 0.001)
    assert "Connection refused (2 attempts)" in refused("http://127.0.0.1:1/file", destination, retries=1)


def test_a_server_that_falls_silent(server, destination):
    silence = threading.Event()
    server.answers["/file"] = [lambda handler: silence.wait(5)]
    try:
        assert "timed out" in refused(server.url(), destination, retries=0, timeout=0.1)
    finally:
        silence.set()


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "lfw.tgz", "", "http://[bad", "http://a b/"]
)
def test_addresses_of_another_kind(destination, url):
    assert re.search("must begin with http|invalid address", refused(url, destination))
    assert tree(destination.parent) == []


def test_a_wrong_checksum(server, destination):
    server.answers["/file"] = [ranged(b"tampered")]
    message = refused(server.url(), destination)
    assert f"SHA-256 is {hashlib.sha256(b'tampered').hexdigest()}, expected {SHA256}" in message
    assert len(server.requests) == 1
    assert tree(destination.parent) == []


def test_a_redirect_is_followed_and_keeps_the_range(server, destination):
    server.answers["/file"] = [redirect(server.url("/there"))]
    server.answers["/there"] = [cut(70_000), ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY
    assert server.requests[-1] == ("/there", "bytes=70000-")


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/file", "data:text/plain,x", "http://[bad"])
def test_a_redirect_to_another_kind_of_address_is_refused(server, destination, to):
    server.answers["/file"] = [redirect(to)]
    assert re.search("HTTP 302 .*(refused|not allowed)|invalid address", refused(server.url(), destination))
    assert len(server.requests) == 1
    assert tree(destination.parent) == []


def test_redirects_in_a_circle_end(server, destination):
    server.answers["/file"] = [redirect(server.url())]
    assert "HTTP 302" in refused(server.url(), destination)


def test_too_little_room_is_seen_before_writing(server, destination, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    server.answers["/file"] = [ranged()]
    message = refused(server.url(), destination)
    assert f"needs 0.2 MB, but {destination.parent} has only 0.1 MB free" in message
    assert tree(destination.parent) == []
    assert len(server.requests) == 1


def test_only_what_is_still_to_come_needs_room(server, destination, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    destination.parent.mkdir()
    part_of(destination).write_bytes(BODY[:150_000])
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY


def test_a_disk_that_fills_up_is_not_kept_full(server, destination, small_files_only):
    server.answers["/file"] = [plain(Content_Length=None)]
    message = refused(server.url(), destination)
    assert f"cannot write {part_of(destination)}: File too large; free some space" in message
    assert len(server.requests) == 1
    assert tree(destination.parent) == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    server.answers["/file"] = [ranged()]
    destination = tmp_path / "file" / "below" / "x"
    assert "cannot write" in refused(server.url(), destination)


def test_an_existing_destination_is_replaced_only_by_a_right_one(server, destination):
    destination.parent.mkdir()
    destination.write_bytes(b"old")
    server.answers["/file"] = [ranged(b"wrong"), ranged()]
    with pytest.raises(DataError):
        fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == b"old"
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY


def test_a_connection_that_ends_before_the_first_byte_leaves_nothing(server, destination):
    server.answers["/file"] = [cut(0)]
    assert "ended after 0 of 200000 bytes" in refused(server.url(), destination, retries=1)
    assert tree(destination.parent) == []


@pytest.mark.parametrize("progress", [True, False])
def test_a_bar_is_drawn_on_a_terminal_if_wanted(server, destination, monkeypatch, progress):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256, progress=progress)
    assert ("file.bin: " in terminal.getvalue()) == progress


def test_nothing_is_drawn_where_there_is_no_terminal(server, destination, capfd):
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert capfd.readouterr() == ("", "")
