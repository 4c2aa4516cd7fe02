"""Get LFW's deep-funneled images and its lists from the data set's git repository.

git fetches only what is needed (a partial clone) and checks every byte against the commit, because the names of git's
objects are their checksums.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from tqdm import tqdm

from siamese.errors import DataError, printable

log = logging.getLogger(__name__)

REPOSITORY = "https://github.com/umass-vis-lfw/umass-vis-lfw.github.io"
COMMIT = "2a620cd8cceb10430f8c7012fe9fa5f0837759e9"

REPOSITORY_VARIABLE = "SIAMESE_LFW_REPOSITORY"
"""Environment variable with the address of a copy of the repository, or ADDRESS#COMMIT for another commit."""

LISTS = (
    "pairsDevTrain.txt", "pairsDevTest.txt", "pairs.txt", "peopleDevTrain.txt", "peopleDevTest.txt", "people.txt",
)  # fmt: skip
IMAGES = {"lfw-deepfunneled": "images_deepfunneled"}
"""Image folder below the data root -> its name in the repository, which has one folder per person."""

ATTEMPTS = 4
"""How often git is asked for the same files before the download fails."""

PAUSE_SECONDS = 2.0
"""Pause before the second attempt; doubled before each further one."""

CLONE = ".lfw-repository"
"""Folder below the data root for what git has fetched so far; removed when everything is in place."""

# Settings of the user's git that would change files (line ends) or run programs (hooks, monitors) stay out; a server
# that sends nothing for a minute has failed. An identity and remote addresses are left as they are.
_SETTINGS = {
    "core.autocrlf": "false", "core.hooksPath": os.devnull, "core.fsmonitor": "false", "core.sparseCheckout": "true",
    "core.sparseCheckoutCone": "false", "gc.auto": "0", "maintenance.auto": "false", "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "60",
}  # fmt: skip


def has(name: str) -> bool:
    """Whether the repository has this image folder or list, named as below the data root."""
    return name in IMAGES or name in LISTS


def check_out(root: Path, names: Collection[str], *, progress: bool = True) -> None:
    """Bring image folders and lists of the repository to ``root``, each complete or not at all.

    What was fetched before an interruption is kept in the folder `CLONE` and not fetched again. The caller makes sure
    that no other process does the same.

    Args:
        root: the data root, an existing folder.
        names: keys of `IMAGES` and members of `LISTS`; none of them exists in ``root``.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        DataError: git is not installed, or the download failed; the message says what to do.
        OSError: ``root`` cannot be written.
    """
    address, _, commit = os.environ.get(REPOSITORY_VARIABLE, "").partition("#")
    clone = _Clone(root / CLONE, address or REPOSITORY, commit or COMMIT, _by_hand(root, names))
    clone.open()
    lists = [name for name in names if name not in IMAGES]
    patterns = [f"/{name}" for name in lists]
    clone.check_out(patterns)
    for images in (name for name in names if name in IMAGES):
        people: dict[str, int] = {}  # number of images
        for path in clone.files(IMAGES[images]):
            people[path.split("/")[1]] = people.get(path.split("/")[1], 0) + 1
        bar = tqdm(
            total=sum(people.values()), desc=images, unit="image", leave=False, disable=None if progress else True
        )
        with bar:
            # By initial letter: a download that is interrupted loses one letter at most.
            for letter, group in itertools.groupby(sorted(people), key=lambda person: person[0]):
                patterns.append(f"/{IMAGES[images]}/{letter}*")
                clone.check_out(patterns)
                bar.update(sum(people[person] for person in group))
        (clone.folder / IMAGES[images]).rename(root / images)
    for name in lists:
        (clone.folder / name).rename(root / name)
    shutil.rmtree(clone.folder)


def _by_hand(root: Path, names: Collection[str]) -> str:
    places = ", ".join(f"{IMAGES[name]}/ to {root / name}" if name in IMAGES else f"{name} to {root}" for name in names)
    return f"or copy by hand from {REPOSITORY} (commit {COMMIT[:12]}): {places}"


class _Clone:
    """A partial clone of the repository, without history."""

    def __init__(self, folder: Path, address: str, commit: str, by_hand: str) -> None:
        self.folder = folder
        self.address = address
        self.commit = commit
        self.by_hand = by_hand

    def open(self) -> None:
        """Make the clone, or continue that of an interrupted download, and fetch the names of all files."""
        if shutil.which("git") is None:
            raise DataError(f"{self.address}: git is not installed; install it, {self.by_hand}")
        continued = (self.folder / ".git/HEAD").is_file()
        log.info("%s download from %s", "continuing the" if continued else "starting the", self.address)
        self.folder.mkdir(exist_ok=True)
        if not continued:
            self._git("init", "--quiet", "--template=")
        for lock in (self.folder / ".git").rglob("*.lock"):  # of a process that was killed
            lock.unlink()
        for key, value in {
            **_SETTINGS, "remote.origin.url": self.address, "remote.origin.promisor": "true",
            "remote.origin.partialclonefilter": "blob:none",
        }.items():  # fmt: skip
            self._git("config", key, value)
        fetched = f"refs/lfw/{self.commit}"
        if self._run("show-ref", "--verify", "--quiet", fetched).returncode != 0:
            options = ("--quiet", "--depth=1", "--no-tags", "--filter=blob:none")
            self._git("fetch", *options, "origin", f"{self.commit}:{fetched}", attempts=ATTEMPTS)

    def files(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder of the commit."""
        listed = self._git("ls-tree", "-r", "-z", "--name-only", self.commit, f"{folder}/")
        if not listed:
            raise DataError(f"{self.address}: commit {self.commit} has no folder {folder}/; {self.by_hand}")
        return listed.rstrip("\0").split("\0")

    def check_out(self, patterns: list[str]) -> None:
        """Fetch and write the files that match the patterns, in the syntax of .gitignore."""
        chosen = self.folder / ".git/info/sparse-checkout"
        chosen.parent.mkdir(exist_ok=True)
        chosen.write_text("".join(f"{pattern}\n" for pattern in patterns), encoding="utf-8")
        self._git("read-tree", "--reset", "-u", self.commit, attempts=ATTEMPTS)

    def _git(self, *arguments: str, attempts: int = 1) -> str:
        """Run git and return its output."""
        for attempt in itertools.count(1):
            done = self._run(*arguments)
            if done.returncode == 0:
                return done.stdout
            lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
            reason = printable(" ".join(line.partition(":")[2] for line in lines[:2]) or done.stderr)
            if attempt == attempts:
                raise DataError(f"{self.address}: git {arguments[0]} failed: {reason.strip()}; {self.by_hand}")
            pause = PAUSE_SECONDS * 2 ** (attempt - 1)
            log.warning("%s: %s; trying again in %g s", self.address, reason.strip(), pause)
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Variables such as GIT_DIR, which hooks of another repository set, would name that repository.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        return subprocess.run(
            ["git", *arguments], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
