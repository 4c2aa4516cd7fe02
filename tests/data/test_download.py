"""Downloading, against a small server on the loopback address."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from archives import BODY, FACES, FACES_TREE, tgz, tree

from siamese.data import download
from siamese.data.download import LFW_FILES, RemoteFile, download_lfw, fetch
from siamese.errors import DataError

SHA256 = hashlib.sha256(BODY).hexdigest()

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Gives each path's answers one after the other, and the last one again and again."""

    server: Server

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.agents.add(self.headers.get("User-Agent"))
        answers = self.server.answers[self.path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.agents: set[str | None] = set()
        self.answers: defaultdict[str, list[Answer]] = defaultdict(lambda: [status(404)])

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


def plain(body: bytes = BODY, **headers: object) -> Answer:
    """The whole file, whatever range was asked for."""
    return lambda handler: handler.reply(200, body, **headers)


def ranged(body: bytes = BODY) -> Answer:
    """What was asked for, as figshare's store does."""

    def answer(handler: Handler) -> None:
        if not (asked := handler.headers.get("Range")):
            return handler.reply(200, body)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(body):
            return handler.reply(416, Content_Range=f"bytes */{len(body)}")
        return handler.reply(206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")

    return answer


def cut(after: int) -> Answer:
    """Announces all, sends the first bytes and hangs up."""
    return lambda handler: handler.reply(200, BODY[:after], Content_Length=len(BODY))


def status(code: int) -> Answer:
    return lambda handler: handler.reply(code, b"sorry")


def redirect(to: str) -> Answer:
    return lambda handler: handler.reply(302, Location=to)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _quick_and_official(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    monkeypatch.delenv(download.URL_VARIABLE, raising=False)


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


# --- fetching ---


@pytest.mark.parametrize("answer", [ranged(), plain(Content_Length=None)], ids=["length", "no length"])
def test_a_file_arrives_whole(server, destination, answer):
    server.answers["/file"] = [answer]
    fetch(server.url(), destination, sha256=SHA256.upper())
    assert destination.read_bytes() == BODY
    assert tree(destination.parent) == ["file.bin"]
    assert server.requests == [("/file", None)]
    assert server.agents == {download.USER_AGENT}


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
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 1.0)
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


def test_no_server(destination):
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
    assert re.search("not an address that begins with http|not a usable address", refused(url, destination))
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
    assert re.search("HTTP 302 .*(refused|not allowed)|not a usable address", refused(server.url(), destination))
    assert len(server.requests) == 1
    assert tree(destination.parent) == []


def test_redirects_in_a_circle_end(server, destination):
    server.answers["/file"] = [redirect(server.url())]
    assert "HTTP 302" in refused(server.url(), destination)


def test_too_little_room_is_seen_before_writing(server, destination, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    server.answers["/file"] = [ranged()]
    message = refused(server.url(), destination)
    assert f"0.2 MB to come, but only 0.1 MB free in {destination.parent}" in message
    assert tree(destination.parent) == []
    assert len(server.requests) == 1


def test_only_what_is_still_to_come_needs_room(server, destination, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    destination.parent.mkdir()
    part_of(destination).write_bytes(BODY[:150_000])
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert destination.read_bytes() == BODY


def test_a_disk_that_fills_up_is_not_kept_full(server, destination, small_files_only):
    server.answers["/file"] = [plain(Content_Length=None)]
    message = refused(server.url(), destination)
    assert f"cannot write {part_of(destination)}: File too large; make room" in message
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


# --- LFW ---


def test_the_table_of_files():
    assert set(LFW_FILES) == {
        "lfw.tgz",
        "lfw-funneled.tgz",
        "pairsDevTrain.txt",
        "pairsDevTest.txt",
        "pairs.txt",
    }
    assert {name: file.folder for name, file in LFW_FILES.items() if file.folder} == {
        "lfw.tgz": "lfw",
        "lfw-funneled.tgz": "lfw_funneled",
    }
    assert LFW_FILES["lfw.tgz"].url == "https://ndownloader.figshare.com/files/5976018"
    assert len({file.figshare_id for file in LFW_FILES.values()}) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in LFW_FILES.values())


@pytest.mark.parametrize("name", ["pairsDevTrain.txt", "pairsDevTest.txt"])
def test_the_tables_checksums_are_those_of_the_real_lists(name):
    path = Path(os.environ.get("LFW_ROOT") or Path(__file__).parents[3] / "shared" / "lfw") / name
    if not path.is_file():
        pytest.skip("LFW's lists are not here")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == LFW_FILES[name].sha256


FACES_TGZ = tgz(*FACES)
SMALL_FILES = {
    "lfw.tgz": RemoteFile("lfw.tgz", 11, hashlib.sha256(FACES_TGZ).hexdigest(), "lfw"),
    "pairs.txt": RemoteFile("pairs.txt", 12, SHA256),
}


@pytest.fixture
def mirror(server, monkeypatch) -> Server:
    """A server of small files under the names of two of LFW's."""
    monkeypatch.setattr(download, "LFW_FILES", SMALL_FILES)
    server.answers["/m/lfw.tgz"] = [ranged(FACES_TGZ)]
    server.answers["/m/pairs.txt"] = [ranged()]
    return server


def test_what_is_missing_is_brought(mirror, tmp_path):
    root = tmp_path / "data" / "lfw"
    download_lfw(root, ["lfw.tgz", "pairs.txt", "lfw.tgz"], base_url=mirror.url("/m/"))
    assert tree(root) == [*FACES_TREE, "pairs.txt"]
    assert [path for path, _ in mirror.requests] == ["/m/lfw.tgz", "/m/pairs.txt"]

    (root / "pairs.txt").write_text("mine")
    download_lfw(root, ["lfw.tgz", "pairs.txt"], base_url=mirror.url("/m/"))
    assert (root / "pairs.txt").read_text() == "mine"
    assert len(mirror.requests) == 2


def test_the_mirror_in_the_environment(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMESE_LFW_URL", mirror.url("/m"))
    download_lfw(tmp_path, ["pairs.txt"])
    assert (tmp_path / "pairs.txt").read_bytes() == BODY


def test_the_second_figshare_address_goes_on_where_the_first_gave_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIGSHARE_URLS", (mirror.url("/a/"), mirror.url("/b/")))
    mirror.answers["/a/12"] = [cut(70_000), status(202)]
    mirror.answers["/b/12"] = [ranged()]
    download_lfw(tmp_path, ["pairs.txt"])
    assert (tmp_path / "pairs.txt").read_bytes() == BODY
    assert mirror.requests[-1] == ("/b/12", "bytes=70000-")

    mirror.answers["/b/11"] = [status(404)]
    with pytest.raises(DataError, match=rf"{mirror.url('/b/11')}: HTTP 404 .*by hand to {tmp_path}/lfw.tgz"):
        download_lfw(tmp_path, ["lfw.tgz"])


def test_an_archive_placed_by_hand_is_checked_and_used(mirror, tmp_path):
    (tmp_path / "lfw.tgz").write_bytes(FACES_TGZ[:-1])
    with pytest.raises(DataError, match=f"{tmp_path}/lfw.tgz: its SHA-256 is .* remove it"):
        download_lfw(tmp_path, ["lfw.tgz"])
    assert tree(tmp_path) == ["lfw.tgz"]
    (tmp_path / "lfw.tgz").write_bytes(FACES_TGZ)
    download_lfw(tmp_path, ["lfw.tgz"])
    assert tree(tmp_path) == FACES_TREE
    assert not mirror.requests


def test_what_a_killed_process_left_is_swept_up(mirror, tmp_path):
    (tmp_path / ".lfw.unpacking-abc" / "lfw").mkdir(parents=True)
    download_lfw(tmp_path, ["lfw.tgz"], base_url=mirror.url("/m"))
    assert tree(tmp_path) == FACES_TREE


def test_a_failure_to_unpack_keeps_the_verified_archive(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match=r"lfw\.tgz: unpacks to more"):
        download_lfw(tmp_path, ["lfw.tgz"], base_url=mirror.url("/m"))
    assert tree(tmp_path) == ["lfw.tgz"]


def test_an_unknown_file(tmp_path):
    with pytest.raises(DataError, match=r"lfw-deepfunneled\.tgz: cannot be downloaded, only lfw\.tgz, .* by hand"):
        download_lfw(tmp_path / "root", ["pairs.txt", "lfw-deepfunneled.tgz"])
    assert tree(tmp_path) == []


def test_a_root_that_cannot_be_made(mirror, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'file' / 'root'}: ")):
        download_lfw(tmp_path / "file" / "root", ["pairs.txt"], base_url=mirror.url("/m"))


def test_threads_at_once_download_once(mirror, tmp_path):
    errors: list[BaseException] = []

    def run() -> None:
        try:
            download_lfw(tmp_path, ["lfw.tgz", "pairs.txt"], base_url=mirror.url("/m"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(path for path, _ in mirror.requests) == ["/m/lfw.tgz", "/m/pairs.txt"]
    assert tree(tmp_path) == [*FACES_TREE, "pairs.txt"]


def test_processes_at_once_download_once(mirror, tmp_path):
    program = (
        "import sys; from pathlib import Path; from siamese.data import download as d\n"
        "d.LFW_FILES['lfw.tgz'] = d.RemoteFile('lfw.tgz', 11, sys.argv[1], 'lfw')\n"
        "d.download_lfw(Path(sys.argv[2]), ['lfw.tgz'], base_url=sys.argv[3])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, SMALL_FILES["lfw.tgz"].sha256, str(tmp_path), mirror.url("/m")]
    repository = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 2
    assert [path for path, _ in mirror.requests] == ["/m/lfw.tgz"]
    assert tree(tmp_path) == FACES_TREE
