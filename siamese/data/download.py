"""Download LFW's official files: images and lists, each byte checked."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from siamese.data import repository
from siamese.data.fetch import fetch, sha256_of
from siamese.data.unpack import unpack
from siamese.errors import DataError, reason_of

log = logging.getLogger(__name__)

FIGSHARE_URLS = ("https://ndownloader.figshare.com/files/", "https://api.figshare.com/v2/file/download/")
"""Where figshare serves a file by its number. The first one sometimes answers anything but a browser with status 202 or
403 (its firewall's challenge; scikit-learn #32961, neuromorphs/tonic #337); the second one has no such firewall."""

URL_VARIABLE = "SIAMESE_LFW_URL"
"""Environment variable with the address of a mirror."""


@dataclass(frozen=True)
class RemoteFile:
    """One of LFW's files at figshare.

    Attributes:
        name: file name at mirrors.
        figshare_id: number of the file at figshare.
        sha256: checksum, hexadecimal.
        folder: the folder that an archive unpacks to; None for a list.
    """

    name: str
    figshare_id: int
    sha256: str
    folder: str | None = None


FIGSHARE_FILES: dict[str, RemoteFile] = {
    file.folder or file.name: file
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
"""By the name of the list, or of the unpacked folder, below the data root."""


def can_be_downloaded(name: str) -> bool:
    """Whether an image folder or list, named as below the data root, has an official source."""
    return name in FIGSHARE_FILES or repository.has(name)


def download_lfw(root: Path, names: Iterable[str], *, progress: bool = True, base_url: str | None = None) -> None:
    """Download the image folders and lists that are missing, complete or not at all.

    The original and the funneled images, and the lists of pairs, come from figshare. An archive that was placed in
    ``root`` by hand is checked and used; archives are removed after unpacking. The deep-funneled images and the lists
    of people come from the data set's git repository, and then the lists of pairs too. If several processes call this
    function, one works and the others wait.

    Args:
        root: the data root; created if missing.
        names: image folders and lists, named as below the data root.
        progress: show progress bars if standard error is a terminal.
        base_url: a mirror that serves figshare's files by name, such as ``<base_url>/lfw.tgz``; None: the mirror in
            the environment variable SIAMESE_LFW_URL, or figshare if it is not set.

    Raises:
        DataError: a name is unknown, or a file cannot be downloaded, checked, unpacked or written.
    """
    wanted = list(dict.fromkeys(names))
    if unknown := sorted(name for name in wanted if not can_be_downloaded(name)):
        raise DataError(f"{', '.join(unknown)}: cannot be downloaded; place it in {root} by hand")
    if not _missing(root, wanted):
        return  # without the lock, so that a complete data root may be read-only

    from filelock import FileLock  # imported here to keep importing this module fast

    mirror = base_url or os.environ.get(URL_VARIABLE)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            missing = _missing(root, wanted)  # another process may have downloaded some while this one waited
            if any(name not in FIGSHARE_FILES for name in missing):
                repository.check_out(root, [name for name in missing if repository.has(name)], progress=progress)
            for name in _missing(root, missing):
                _obtain(FIGSHARE_FILES[name], root, progress, mirror)
    except OSError as error:
        raise DataError(f"{root}: {reason_of(error)}; set data.root to a folder that can be written") from None


def _missing(root: Path, names: Iterable[str]) -> list[str]:
    return [name for name in names if not (root / name).exists()]


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
        unpack(path, root, top=file.folder, progress=progress)
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
