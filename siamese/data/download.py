"""LFW's official files: fetched with resume and checksum, unpacked safely, there whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import itertools
import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib import error as urlerror
from urllib import request as urlrequest
from urllib.parse import urlsplit

from tqdm import tqdm

from siamese.errors import DataError, one_line

log = logging.getLogger(__name__)

FIGSHARE_URLS = ("https://ndownloader.figshare.com/files/", "https://api.figshare.com/v2/file/download/")
"""Where figshare serves a file by its number. At times the first answers 202 or 403 to anything but a browser
(its firewall's challenge; scikit-learn #32961, neuromorphs/tonic #337); the second is spared that."""

URL_VARIABLE = "SIAMESE_LFW_URL"
USER_AGENT = "siamese-lfw/0.1 (Python urllib)"
BACKOFF_SECONDS = 1.0
"""Wait before the first retry; doubled before each further one."""
MAX_MEMBERS = 100_000
"""Members an archive may have; LFW's have about 19,000."""
MAX_UNPACKED_BYTES = 1 << 30
"""Bytes that one of LFW's archives may unpack to; they take some 200 MB."""

_CHUNK = 1 << 16
_TRANSIENT_STATUS = frozenset({202, 408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


@dataclass(frozen=True)
class RemoteFile:
    """One of LFW's files.

    Attributes:
        name: of the file, at mirrors and below the data root.
        figshare_id: its number at figshare.
        sha256: checksum, hexadecimal.
        folder: for an archive, the folder that it unpacks to; None: a list, used as it is.
    """

    name: str
    figshare_id: int
    sha256: str
    folder: str | None = None

    @property
    def url(self) -> str:
        """The official address."""
        return f"{FIGSHARE_URLS[0]}{self.figshare_id}"

    def is_present(self, root: Path) -> bool:
        """Whether nothing is left to do: the list, or the unpacked folder, lies in ``root``."""
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
    """Fetch what is missing of the named files, and unpack archives; what is there is left alone.

    An archive that already lies in ``root``, placed there by hand, is checked and used; after a successful
    unpack it is removed in either case. Several processes may do this at once: one works, the others wait.

    Args:
        root: the data root; made when missing.
        files: keys of ``LFW_FILES``.
        progress: show bars when standard error is a terminal.
        base_url: a mirror that serves the official files by name, ``<base_url>/lfw.tgz``; None: the
            one in the environment variable SIAMESE_LFW_URL, else figshare.

    Raises:
        DataError: an unknown name, or a file that cannot be fetched, checked, unpacked or written.
    """
    wanted = list(files)
    if unknown := sorted(set(wanted) - set(LFW_FILES)):
        raise DataError(f"{', '.join(unknown)}: cannot be downloaded, only {', '.join(LFW_FILES)}; place it by hand")
    missing = [LFW_FILES[name] for name in dict.fromkeys(wanted) if not LFW_FILES[name].is_present(root)]
    if not missing:
        return  # before the lock, so that a complete data root may be read-only

    from filelock import FileLock  # here, for the importing of this module to stay quick

    mirror = base_url or os.environ.get(URL_VARIABLE)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            for file in missing:
                if not file.is_present(root):  # another process may have brought it while this one waited
                    _obtain(file, root, progress, mirror)
    except OSError as error:
        raise DataError(f"{root}: {_reason(error)}; set data.root to a folder that can be written") from None


def _obtain(file: RemoteFile, root: Path, progress: bool, mirror: str | None) -> None:
    """Bring one missing file into ``root``; called with the lock held."""
    path = root / file.name
    if mirror:
        urls = [f"{mirror.rstrip('/')}/{file.name}"]
    else:
        urls = [f"{base}{file.figshare_id}" for base in FIGSHARE_URLS]
    if not path.is_file():
        _fetch_from_any(urls, path, file.sha256, progress)
    elif (got := _sha256(path)) != file.sha256:
        raise DataError(f"{path}: its SHA-256 is {got}, expected {file.sha256}; remove it, or download it again")
    if file.folder is not None:
        for stale in root.glob(f"{_temporary_prefix(file.folder)}*"):  # left by a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        unpack(path, root, top=file.folder, max_bytes=MAX_UNPACKED_BYTES, progress=progress)
        path.unlink()


def _fetch_from_any(urls: Sequence[str], destination: Path, sha256: str, progress: bool) -> None:
    """From the first address that gives it; what one leaves half done, the next goes on with."""
    for url, following in itertools.zip_longest(urls, urls[1:]):
        log.info("downloading %s to %s", url, destination)
        try:
            fetch(url, destination, sha256=sha256, progress=progress)
            return
        except DataError as error:
            if following is None:
                raise
            log.warning("%s; now trying %s", error, following)


# --- fetching ---


class _TransferError(Exception):
    """Why an attempt to download failed, and whether another one may succeed."""

    def __init__(self, reason: str, *, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str,
    progress: bool = True,
    retries: int = 3,
    timeout: float = 30.0,
) -> None:
    """Download a file; ``destination`` appears when it is whole and its checksum right, and never before.

    The bytes go to ``<destination>.part``. A part left by a broken connection, in this call or before it, is
    gone on with where the server allows it. Network errors, short answers and the server's own troubles are
    tried again after a pause that doubles each time.

    Args:
        url: http or https; redirects are followed to such addresses only.
        destination: the file to write; its folder is made when missing.
        sha256: the expected checksum, hexadecimal.
        progress: show a bar when standard error is a terminal.
        retries: further attempts after the first one.
        timeout: seconds to wait for the server at any one time.

    Raises:
        DataError: the download failed, or its checksum is wrong, or it cannot be written.
    """
    part = destination.with_name(f"{destination.name}.part")
    for attempt in itertools.count():
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            resumed = _transfer(url, part, progress, timeout)
            got = _sha256(part)
            if got == sha256.lower():
                part.replace(destination)
                return
            part.unlink()
            # A part from an earlier call may have been another file's: from the start it may yet be right.
            raise _TransferError(f"its SHA-256 is {got}, expected {sha256}", transient=resumed)
        except _TransferError as failure:
            if not failure.transient or attempt >= retries:
                _remove_if_empty(part)
                tries = f" ({attempt + 1} attempts)" if attempt else ""
                raise DataError(f"{url}: {failure}{tries}; download it by hand to {destination}") from None
            pause = BACKOFF_SECONDS * 2**attempt
            log.warning("%s: %s; trying again in %g s", url, failure, pause)
            time.sleep(pause)
        except OSError as error:
            with suppress(OSError):  # a part that filled the disk must not stay
                part.unlink(missing_ok=True)
            raise DataError(
                f"{url}: cannot write {part}: {_reason(error)}; make room, or name a folder that can be "
                f"written, or download it by hand to {destination}"
            ) from None


def _remove_if_empty(part: Path) -> None:
    with suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()


def _transfer(url: str, part: Path, progress: bool, timeout: float) -> bool:
    """Complete ``part`` from the server; whether bytes that lay there before were kept.

    Raises:
        _TransferError: the network, the server or too little room.
        OSError: ``part`` cannot be written.
    """
    response, start, total = _connect(url, part.stat().st_size if part.is_file() else 0, timeout)
    with response:
        if start == 0:
            part.unlink(missing_ok=True)  # its room counts as free
        if total is not None:
            _check_room(total - start, part.parent)
        bar = tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=part.stem,
            leave=False,
            disable=None if progress else True,
        )
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
            received = file.tell()
    if total is not None and received != total:
        raise _TransferError(f"the connection ended after {received} of {total} bytes", transient=True)
    return start > 0


def _check_room(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        reason = f"{_megabytes(size)} to come, but only {_megabytes(free)} free in {folder}; make room there"
        raise _TransferError(reason, transient=False)


def _connect(url: str, start: int, timeout: float) -> tuple[http.client.HTTPResponse, int, int | None]:
    """The answer to a request for the file from byte ``start`` on: (answer, first byte, size of the file)."""
    if _scheme(url) not in ("http", "https"):
        raise _TransferError("not an address that begins with http:// or https://", transient=False)
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = _opener().open(urlrequest.Request(url, headers=headers), timeout=timeout)
        response = cast(http.client.HTTPResponse, answer)
    except urlerror.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing lies behind our part: it cannot be this file's beginning
            return _connect(url, 0, timeout)
        transient = error.code in _TRANSIENT_STATUS
        raise _TransferError(f"HTTP {error.code} {_printable(error.msg)}", transient=transient) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise _TransferError(f"not a usable address: {_printable(str(error))}", transient=False) from None
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(_reason(error), transient=True) from None
    if response.status == 200:
        return response, 0, response.length
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and start and content_range and int(content_range[1]) == start:
        return response, start, None if content_range[2] == "*" else int(content_range[2])
    response.close()
    if response.status == 206 and start:
        return _connect(url, 0, timeout)
    transient = response.status in _TRANSIENT_STATUS
    raise _TransferError(f"HTTP {response.status} {_printable(response.reason)}", transient=transient)


def _scheme(url: str) -> str:
    """The scheme of an address, empty when it is none."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


class _HttpRedirects(urlrequest.HTTPRedirectHandler):
    """Follows redirects, but only to http and https: urllib's own would go to ftp too."""

    def redirect_request(
        self,
        req: urlrequest.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urlrequest.Request | None:
        """The request that follows.

        Raises:
            HTTPError: the new address is of another kind.
        """
        if _scheme(newurl) not in ("http", "https"):
            raise urlerror.HTTPError(newurl, code, f"{msg} - redirect to {newurl} refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urlrequest.OpenerDirector:
    """An opener without urllib's handlers of file:, ftp: and data: addresses."""
    opener = urlrequest.OpenerDirector()
    for handler in (
        urlrequest.ProxyHandler(),
        urlrequest.HTTPHandler(),
        urlrequest.HTTPSHandler(),
        urlrequest.HTTPDefaultErrorHandler(),
        urlrequest.HTTPErrorProcessor(),
        _HttpRedirects(),
        urlrequest.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body in pieces; errors of the network are told apart here from those of writing."""
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(_reason(error), transient=True) from None


# --- unpacking ---


def unpack(archive: Path, into: Path, *, top: str, max_bytes: int, progress: bool = True) -> None:
    """Unpack the folder ``top`` of a .tgz archive to ``into/top``, which appears when it is complete.

    Only regular files and folders are accepted, with relative names that stay inside; permissions, owners and
    times are not taken over. Harmless members beside ``top`` are skipped. A target that is there already is
    left alone.

    Args:
        archive: a gzip-compressed tar file.
        into: the folder to unpack in; made when missing.
        top: the folder in the archive.
        max_bytes: bound on the uncompressed stream, tar's own headers included; counted, not believed.
        progress: show a bar when standard error is a terminal.

    Raises:
        DataError: the archive is missing, damaged, too large or unsafe, or there is no room; nothing is left.
    """
    target = into / top
    if os.path.lexists(target):
        return
    if not archive.is_file():
        raise DataError(f"{archive}: no such archive; download it")
    temporary: Path | None = None
    try:
        into.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(top), dir=into))
        _extract(archive, temporary, top, max_bytes, progress)
        if not (temporary / top).is_dir():
            raise DataError(f"{archive}: holds no folder {top}/; remove it, and download the right one")
        _rename_unless_present(temporary / top, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        reason = _printable(str(error)) or type(error).__name__
        raise DataError(f"{archive}: damaged ({reason}); remove it, and download it again") from None
    except OSError as error:
        remedy = "make room there, or name another folder"
        raise DataError(f"{archive}: cannot be unpacked into {into}: {_reason(error)}; {remedy}") from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, into: Path, top: str, max_bytes: int, progress: bool) -> None:
    bar = tqdm(
        total=archive.stat().st_size,
        unit="B",
        unit_scale=True,
        desc=f"unpacking {archive.name}",
        leave=False,
        disable=None if progress else True,
    )
    with bar, archive.open("rb") as compressed, gzip.open(compressed) as plain:
        stream = _BoundedReader(cast(IO[bytes], plain), archive, max_bytes)
        # In stream mode nothing is read twice, so what is counted is what is unpacked.
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
            for number, member in enumerate(tar, start=1):
                if number > MAX_MEMBERS:
                    raise DataError(f"{archive}: more than {MAX_MEMBERS} members; not unpacked")
                _check_member(archive, member)
                if PurePosixPath(member.name).parts[:1] == (top,):
                    tar.extract(member, into, set_attrs=False, filter="data")
                else:
                    log.info("%s: skipped %.80r, which is not below %s/", archive, member.name, top)
                bar.update(compressed.tell() - bar.n)
        # tarfile stops at its end mark; only at the stream's end does gzip compare the checksum.
        while stream.read(_CHUNK):
            pass


class _BoundedReader:
    """A stream that refuses to give more than ``limit`` bytes."""

    def __init__(self, stream: IO[bytes], archive: Path, limit: int) -> None:
        self._stream = stream
        self._archive = archive
        self._limit = limit
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._given += len(data)
        if self._given > self._limit:
            raise DataError(f"{self._archive}: unpacks to more than {_megabytes(self._limit)}; not unpacked")
        return data


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise DataError(f"{archive}: unsafe: {member.name[:80]!r} could lie outside; not unpacked")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise DataError(f"{archive}: unsafe: {member.name[:80]!r} is no plain file or folder; not unpacked")


def _rename_unless_present(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        # Another process was first: what it unpacked is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.is_dir():
            raise


def _temporary_prefix(top: str) -> str:
    return f".{top}.unpacking-"


# --- words and sums ---


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: BaseException) -> str:
    """What went wrong in the operating system's words, without its number and the file's name."""
    cause = error.reason if isinstance(error, urlerror.URLError) else error
    text = cause if isinstance(cause, str) else getattr(cause, "strerror", None) or str(cause)
    return _printable(text) or type(cause).__name__


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in one_line(text))
