"""Download LFW's official files: images and pair lists, checked by SHA-256 and unpacked."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese.data.fetch import fetch, sha256_of
from siamese.data.unpack import temporary_prefix, unpack
from siamese.errors import DataError, reason_of

log = logging.getLogger(__name__)

FIGSHARE_URLS = ("https://ndownloader.figshare.com/files/", "https://api.figshare.com/v2/file/download/")
"""Where figshare serves a file by its number. The first one sometimes answers anything but a browser with status 202 or
403 (its firewall's challenge; scikit-learn #32961, neuromorphs/tonic #337); the second one has no such firewall."""

URL_VARIABLE = "SIAMESE_LFW_URL"
"""Environment variable with the address of a mirror."""

MAX_UNPACKED_BYTES = 1 << 30
"""Most bytes that one of LFW's archives may unpack to; they need about 200 MB."""


@dataclass(frozen=True)
class RemoteFile:
    """One of LFW's files at figshare.

    Attributes:
        name: file name, at mirrors and below the data root.
        figshare_id: number of the file at figshare.
        sha256: checksum, hexadecimal.
        folder: the folder that an archive unpacks to; None for a list.
    """

    name: str
    figshare_id: int
    sha256: str
    folder: str | None = None

    @property
    def url(self) -> str:
        """The address at figshare."""
        return f"{FIGSHARE_URLS[0]}{self.figshare_id}"

    def is_present(self, root: Path) -> bool:
        """Whether ``root`` contains the list or the unpacked folder."""
        return (root / self.name).is_file() if self.folder is None else (root / self.folder).is_dir()


LFW_FILES: dict[str, RemoteFile] = {
    file.name: file
    for file in (
        RemoteFile("lfw.tgz", 5976018, "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0", "lfw"),
        RemoteFile(
            "lfw-funneled.tgz",
            5976015,
            "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a",
            "lfw_funneled",
        ),
        RemoteFile("pairsDevTrain.txt", 5976012, "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa"),
        RemoteFile("pairsDevTest.txt", 5976009, "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c"),
        RemoteFile("pairs.txt", 5976006, "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592"),
    )
}


def download_lfw(root: Path, files: Iterable[str], *, progress: bool = True, base_url: str | None = None) -> None:
    """Download the named files that are missing, and unpack archives.

    An archive that was placed in ``root`` by hand is checked and used. Archives are removed after unpacking. If several
    processes call this function, one works and the others wait.

    Args:
        root: the data root; created if missing.
        files: keys of ``LFW_FILES``.
        progress: show progress bars if standard error is a terminal.
        base_url: a mirror that serves the official files by name, such as ``<base_url>/lfw.tgz``; None: the mirror in
            the environment variable SIAMESE_LFW_URL, or figshare if it is not set.

    Raises:
        DataError: a name is unknown, or a file cannot be downloaded, checked, unpacked or written.
    """
    wanted = list(files)
    if unknown := sorted(set(wanted) - set(LFW_FILES)):
        raise DataError(
            f"{', '.join(unknown)}: cannot be downloaded (only {', '.join(LFW_FILES)} can); place the files in {root} "
            "by hand"
        )
    missing = [LFW_FILES[name] for name in dict.fromkeys(wanted) if not LFW_FILES[name].is_present(root)]
    if not missing:
        return  # without the lock, so that a complete data root may be read-only

    from filelock import FileLock  # imported here to keep importing this module fast

    mirror = base_url or os.environ.get(URL_VARIABLE)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            for file in missing:
                if not file.is_present(root):  # another process may have downloaded it while this one waited
                    _obtain(file, root, progress, mirror)
    except OSError as error:
        raise DataError(f"{root}: {reason_of(error)}; set data.root to a folder that can be written") from None


def _obtain(file: RemoteFile, root: Path, progress: bool, mirror: str | None) -> None:
    """Download and unpack one file; the caller holds the lock."""
    path = root / file.name
    if mirror:
        urls = [f"{mirror.rstrip('/')}/{file.name}"]
    else:
        urls = [f"{base}{file.figshare_id}" for base in FIGSHARE_URLS]
    if not path.is_file():
        _fetch_from_any(urls, path, file.sha256, progress)
    elif (found := sha256_of(path)) != file.sha256:
        raise DataError(f"{path}: SHA-256 is {found}, expected {file.sha256}; remove it, or download it again")
    if file.folder is not None:
        for stale in root.glob(f"{temporary_prefix(file.folder)}*"):  # left by a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        unpack(path, root, top=file.folder, max_bytes=MAX_UNPACKED_BYTES, progress=progress)
        path.unlink()


def _fetch_from_any(urls: Sequence[str], destination: Path, sha256: str, progress: bool) -> None:
    """Download from the first address that works; each address continues the partial download of the one before."""
    for url, following in itertools.zip_longest(urls, urls[1:]):
        log.info("downloading %s to %s", url, destination)
        try:
            fetch(url, destination, sha256=sha256, progress=progress)
            return
        except DataError as error:
            if following is None:
                raise
            log.warning("%s; trying %s", error, following)
