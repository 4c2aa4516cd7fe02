"""Downloading LFW's official files, against a small server on the loopback address."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from archives import BODY, FACES, FACES_TREE, tgz, tree
from file_server import Server, cut, ranged, serving, status

from siamese.data import download
from siamese.data import fetch as fetching
from siamese.data.download import FIGSHARE_FILES, RemoteFile, download_lfw
from siamese.errors import DataError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "BACKOFF_SECONDS", 0.001)
    monkeypatch.delenv(download.URL_VARIABLE, raising=False)
    with serving() as server:
        yield server


def test_the_table_of_files():
    assert set(FIGSHARE_FILES) == {"lfw", "lfw_funneled", "pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt"}
    assert len({file.figshare_id for file in FIGSHARE_FILES.values()}) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in FIGSHARE_FILES.values())


@pytest.mark.parametrize("name", ["pairsDevTrain.txt", "pairsDevTest.txt"])
def test_the_tables_checksums_are_those_of_the_real_lists(name):
    path = Path(os.environ.get("LFW_ROOT") or Path(__file__).parents[3] / "shared" / "lfw") / name
    if not path.is_file():
        pytest.skip("LFW's lists are not here")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FIGSHARE_FILES[name].sha256


FACES_TGZ = tgz(*FACES)
SMALL_FILES = {
    "lfw": RemoteFile("lfw.tgz", 11, hashlib.sha256(FACES_TGZ).hexdigest(), "lfw"),
    "pairs.txt": RemoteFile("pairs.txt", 12, hashlib.sha256(BODY).hexdigest()),
}


@pytest.fixture
def mirror(server, monkeypatch) -> Server:
    """A server of small files under the names of two of LFW's."""
    monkeypatch.setattr(download, "FIGSHARE_FILES", SMALL_FILES)
    server.answers["/m/lfw.tgz"] = [ranged(FACES_TGZ)]
    server.answers["/m/pairs.txt"] = [ranged()]
    return server


def test_what_is_missing_is_brought(mirror, tmp_path):
    root = tmp_path / "data" / "lfw"
    download_lfw(root, ["lfw", "pairs.txt", "lfw"], base_url=mirror.url("/m/"))
    assert tree(root) == [*FACES_TREE, "pairs.txt"]
    assert [path for path, _ in mirror.requests] == ["/m/lfw.tgz", "/m/pairs.txt"]

    (root / "pairs.txt").write_text("mine")
    download_lfw(root, ["lfw", "pairs.txt"], base_url=mirror.url("/m/"))
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
        download_lfw(tmp_path, ["lfw"])


def test_an_archive_placed_by_hand_is_checked_and_used(mirror, tmp_path):
    (tmp_path / "lfw.tgz").write_bytes(FACES_TGZ[:-1])
    with pytest.raises(DataError, match=f"{tmp_path}/lfw.tgz: SHA-256 is .* remove it"):
        download_lfw(tmp_path, ["lfw"])
    assert tree(tmp_path) == ["lfw.tgz"]
    (tmp_path / "lfw.tgz").write_bytes(FACES_TGZ)
    download_lfw(tmp_path, ["lfw"])
    assert tree(tmp_path) == FACES_TREE
    assert not mirror.requests


def test_what_a_killed_process_left_is_swept_up(mirror, tmp_path):
    (tmp_path / ".lfw.unpacking-abc" / "lfw").mkdir(parents=True)
    download_lfw(tmp_path, ["lfw"], base_url=mirror.url("/m"))
    assert tree(tmp_path) == FACES_TREE


def test_a_failure_to_unpack_keeps_the_verified_archive(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(SMALL_FILES, "lfw", replace(SMALL_FILES["lfw"], folder="lfw2"))
    with pytest.raises(DataError, match=r"lfw\.tgz: cannot be unpacked into"):
        download_lfw(tmp_path, ["lfw"], base_url=mirror.url("/m"))
    assert tree(tmp_path) == ["lfw.tgz"]


def test_an_unknown_file(tmp_path):
    with pytest.raises(DataError, match=r"lfw2: cannot be downloaded; place it in .*root by hand"):
        download_lfw(tmp_path / "root", ["pairs.txt", "lfw2"])
    assert tree(tmp_path) == []


def test_a_root_that_cannot_be_made(mirror, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'file' / 'root'}: ")):
        download_lfw(tmp_path / "file" / "root", ["pairs.txt"], base_url=mirror.url("/m"))


def test_threads_at_once_download_once(mirror, tmp_path):
    errors: list[BaseException] = []

    def run() -> None:
        try:
            download_lfw(tmp_path, ["lfw", "pairs.txt"], base_url=mirror.url("/m"))
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


@pytest.mark.integration
def test_processes_at_once_download_once(mirror, tmp_path):
    program = (
        "import sys; from pathlib import Path; from siamese.data import download as d\n"
        "d.FIGSHARE_FILES['lfw'] = d.RemoteFile('lfw.tgz', 11, sys.argv[1], 'lfw')\n"
        "d.download_lfw(Path(sys.argv[2]), ['lfw'], base_url=sys.argv[3])\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    command = [sys.executable, "-c", program, SMALL_FILES["lfw"].sha256, str(tmp_path), mirror.url("/m")]
    repository = Path(__file__).parents[2]
    running = [subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 2
    assert [path for path, _ in mirror.requests] == ["/m/lfw.tgz"]
    assert tree(tmp_path) == FACES_TREE
