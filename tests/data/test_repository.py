"""Getting LFW's deep-funneled images and lists from a git repository: a small one on the disk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from archives import tree

from siamese.command.main import main
from siamese.data import repository
from siamese.data.download import download_lfw
from siamese.data.repository import CLONE, LISTS, REPOSITORY, check_out
from siamese.errors import DataError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

PEOPLE = {"Ann_Lee": 2, "Abe_Ray": 1, "Zoë_Núñez": 1}
IMAGES = sorted(f"{person}/{person}_{k:04d}.jpg" for person, n in PEOPLE.items() for k in range(1, n + 1))


def files(folder: Path) -> list[str]:
    return [name for name in tree(folder) if (folder / name).is_file()]


def git(*arguments: str, cwd: Path) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare repository in the layout of the official one, which the environment variable names."""
    source = tmp_path / "source"
    for folder in ("images", "images_deepfunneled"):
        for image in IMAGES:
            file = source / folder / image
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{folder}/{image}\n".encode() * 50)
    for name in LISTS:
        (source / name).write_text(f"10\n{name}\n")
    git("init", "--quiet", cwd=source)
    git("add", "--all", cwd=source)
    git("commit", "--quiet", "--message=LFW", cwd=source)
    bare = tmp_path / "origin"
    git("clone", "--quiet", "--bare", str(source), str(bare), cwd=tmp_path)
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        git("config", key, "true", cwd=bare)
    monkeypatch.setenv("SIAMESE_LFW_REPOSITORY", f"file://{bare}#{git('rev-parse', 'HEAD', cwd=bare)}")
    monkeypatch.setattr(repository, "PAUSE_SECONDS", 0.0)
    return bare


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_what_is_asked_for_is_brought_byte_for_byte(origin: Path, root: Path) -> None:
    check_out(root, ["lfw-deepfunneled", "people.txt"])
    assert files(root) == [*(f"lfw-deepfunneled/{image}" for image in IMAGES), "people.txt"]
    for image in IMAGES:
        assert (root / "lfw-deepfunneled" / image).read_text() == f"images_deepfunneled/{image}\n" * 50
    check_out(root, ["pairs.txt"])
    assert (root / "pairs.txt").read_text() == "10\npairs.txt\n"


def test_a_run_gets_images_and_lists_from_one_source_and_keeps_what_is_there(origin: Path, root: Path) -> None:
    (root / "pairs.txt").write_text("mine")
    download_lfw(root, ["lfw-deepfunneled", "pairs.txt", "pairsDevTrain.txt"])
    assert (root / "pairs.txt").read_text() == "mine"
    assert (root / "pairsDevTrain.txt").read_text() == "10\npairsDevTrain.txt\n"
    shutil.rmtree(origin)
    download_lfw(root, ["lfw-deepfunneled", "pairs.txt", "pairsDevTrain.txt"])  # all there: nothing is asked for


def test_the_command(origin: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["download", "lfw_deepfunneled", "--root", str(root)]) == 0
        assert capsys.readouterr().out.endswith(f"python train.py data=lfw_deepfunneled data.root={root}\n")
    assert tree(root)[-len(LISTS) :] == sorted(LISTS)


@pytest.mark.parametrize("moment", [1, 2, 3], ids=["at the lists", "at the first letter", "at the last letter"])
def test_an_interrupted_download_continues(
    origin: Path, root: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    calls = []
    whole = repository._Clone.check_out

    def interrupted(self: repository._Clone, patterns: list[str]) -> None:
        calls.append(list(patterns))
        if len(calls) == moment:
            (self.folder / ".git/index.lock").touch()  # as git leaves it when it is killed
            raise KeyboardInterrupt
        whole(self, patterns)

    with monkeypatch.context() as patch:
        patch.setattr(repository._Clone, "check_out", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check_out(root, ["lfw-deepfunneled", "people.txt"])
    assert tree(root / CLONE / "images") == []
    check_out(root, ["lfw-deepfunneled", "people.txt"])
    assert files(root) == [*(f"lfw-deepfunneled/{image}" for image in IMAGES), "people.txt"]


def test_what_was_fetched_is_not_fetched_again(origin: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            check_out(root, ["lfw-deepfunneled"])
    shutil.rmtree(origin)
    check_out(root, ["lfw-deepfunneled"])
    assert files(root) == [f"lfw-deepfunneled/{image}" for image in IMAGES]


def test_the_users_git_settings_change_no_byte(
    origin: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "hooks/post-checkout"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    settings = f"[core]\nautocrlf = true\nhooksPath = {hook.parent}\n[fetch]\nfsckObjects = true\n"
    (tmp_path / ".gitconfig").write_text(settings)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    check_out(root, ["people.txt"])
    assert (root / "people.txt").read_bytes() == b"10\npeople.txt\n"
    assert not (tmp_path / "ran").exists()


def test_a_damaged_copy_is_refused(origin: Path, root: Path) -> None:
    blob = git("rev-parse", "HEAD:people.txt", cwd=origin)
    file = origin / "objects" / blob[:2] / blob[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-4] + b"....")
    with pytest.raises(DataError, match=r"git read-tree failed: .*; or copy by hand from .*: people\.txt to "):
        check_out(root, ["people.txt"])
    assert tree(root / "people.txt") == []


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///nowhere/at/all", "git fetch failed: .*does not appear to be a git repository"),
        ("http://127.0.0.1:9/x", "git fetch failed: unable to access"),
        ("#" + 40 * "0", "git fetch failed: .*not our ref"),
    ],
)
def test_a_failure_says_what_to_do_by_hand(
    origin: Path, root: Path, monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    given = f"file://{origin}{address}" if address.startswith("#") else address
    monkeypatch.setenv("SIAMESE_LFW_REPOSITORY", given)
    with pytest.raises(DataError, match=reason) as raised:
        check_out(root, ["lfw-deepfunneled", "people.txt"])
    assert f"or copy by hand from {REPOSITORY} (commit 2a620cd8cceb): " in str(raised.value)
    assert f"images_deepfunneled/ to {root}/lfw-deepfunneled, people.txt to {root}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_git(origin: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(
        DataError, match=r"git is not installed; install it, or copy by hand from https://.*people\.txt to "
    ):
        check_out(root, ["people.txt"])
    assert tree(root) == []
