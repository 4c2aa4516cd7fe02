"""Downloading and unpacking, against a small server on the loopback address and archives made on purpose."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from siamese.data import download
from siamese.data.download import LFW_FILES, RemoteFile, download_lfw, fetch, unpack
from siamese.errors import DataError

BODY = random.Random(0).randbytes(200_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
LARGE = 1 << 30

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


def tree(folder: Path) -> list[str]:
    """All that lies below a folder, but for the lock, which must stay for others to wait at."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(name for name in found if name != ".download.lock")


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


@pytest.mark.parametrize(
    "to", ["file:///etc/hostname", "ftp://127.0.0.1/file", "data:text/plain,x", "http://[bad"]
)
def test_a_redirect_to_another_kind_of_address_is_refused(server, destination, to):
    server.answers["/file"] = [redirect(to)]
    assert re.search(
        "HTTP 302 .*(refused|not allowed)|not a usable address", refused(server.url(), destination)
    )
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


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Writing fails after 100 kB of a file, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
def test_a_bar_is_drawn_on_a_terminal_if_wanted(server, destination, archive, into, monkeypatch, progress):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256, progress=progress)
    unpack(archive, into, top="lfw", max_bytes=LARGE, progress=progress)
    drawn = terminal.getvalue()
    assert ("file.bin: " in drawn, "unpacking lfw.tgz: " in drawn) == (progress, progress)


def test_nothing_is_drawn_where_there_is_no_terminal(server, destination, capfd):
    server.answers["/file"] = [ranged()]
    fetch(server.url(), destination, sha256=SHA256)
    assert capfd.readouterr() == ("", "")


# --- unpacking ---


def regular(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


def tgz(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=form) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


FACES = [
    special("lfw", tarfile.DIRTYPE),
    special("lfw/Ada", tarfile.DIRTYPE),
    regular("lfw/Ada/Ada_0001.jpg", BODY),
    regular("lfw/Ben/Ben_0001.jpg", b"ben"),
]
FACES_TREE = ["lfw", "lfw/Ada", "lfw/Ada/Ada_0001.jpg", "lfw/Ben", "lfw/Ben/Ben_0001.jpg"]


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
    extract = download._extract

    def extract_late(*args):
        extract(*args)
        (into / "lfw").mkdir()
        (into / "lfw" / "theirs").touch()

    monkeypatch.setattr(download, "_extract", extract_late)
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
    monkeypatch.setattr(download, "MAX_MEMBERS", 50)
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
    assert "holds no folder lfw/" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw")))
    assert "holds no folder lfw/" in not_unpacked(archive, into)


def test_a_disk_that_fills_up_while_unpacking(archive, into, small_files_only):
    assert f"cannot be unpacked into {into}: File too large; make room" in not_unpacked(archive, into)


def test_members_in_each_others_way(archive, into):
    archive.write_bytes(tgz(regular("lfw/x"), regular("lfw/x/y")))
    assert "cannot be unpacked" in not_unpacked(archive, into)
    archive.write_bytes(tgz(regular("lfw/" + "n" * 300)))
    assert "File name too long" in not_unpacked(archive, into)


@pytest.mark.parametrize("inside", [False, True], ids=["in the gzip", "in the tar"])
def test_any_damage_is_refused_or_harmless(archive, into, inside):
    whole = gzip.decompress(
        tgz(*FACES[:2], regular("lfw/Ada/Ada_0001.jpg", b"face" * 50), form=tarfile.GNU_FORMAT)
    )
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
    path = Path(os.environ.get("LFW_ROOT") or Path(__file__).parents[2] / "shared" / "lfw") / name
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
    with pytest.raises(
        DataError, match=r"lfw-deepfunneled\.tgz: cannot be downloaded, only lfw\.tgz, .* by hand"
    ):
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
    repository = Path(__file__).parents[1]
    running = [subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 2
    assert [path for path, _ in mirror.requests] == ["/m/lfw.tgz"]
    assert tree(tmp_path) == FACES_TREE
