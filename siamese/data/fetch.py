"""Download a file over HTTP: resumed after interruptions, checked by SHA-256, complete or absent."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, cast
from urllib import error as urlerror
from urllib import request as urlrequest
from urllib.parse import urlsplit

from tqdm import tqdm

from siamese.errors import DataError, printable, reason_of

log = logging.getLogger(__name__)

USER_AGENT = "siamese-lfw/0.1 (Python urllib)"

BACKOFF_SECONDS = 1.0
"""Pause before the first retry; doubled before each further one."""

_CHUNK = 1 << 16
_TRANSIENT_STATUS = frozenset({202, 408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")


def fetch(
    url: str, destination: Path, *, sha256: str, progress: bool = True, retries: int = 3, timeout: float = 30.0
) -> None:
    """Download a file; ``destination`` appears only when it is complete and its checksum is correct.

    The bytes are written to ``<destination>.part``. A partial download, from this call or an earlier one, is continued
    if the server supports it. After network errors, truncated answers and temporary server errors the download is
    retried, with a pause that doubles each time.

    Args:
        url: http or https address; redirects are followed only to such addresses.
        destination: the file to write; its folder is created if missing.
        sha256: the expected checksum, hexadecimal.
        progress: show a progress bar if standard error is a terminal.
        retries: number of further attempts after the first.
        timeout: seconds to wait for each answer of the server.

    Raises:
        DataError: the download failed, the checksum is wrong, or the file cannot be written.
    """
    part = destination.with_name(f"{destination.name}.part")
    for attempt in itertools.count():
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _download_once(url, part, sha256, progress, timeout)
            part.replace(destination)
            return
        except _TransferError as failure:
            if not failure.transient or attempt >= retries:
                _remove_if_empty(part)
                tries = f" ({attempt + 1} attempts)" if attempt else ""
                raise DataError(f"{url}: {failure}{tries}; download it by hand to {destination}") from None
            pause = BACKOFF_SECONDS * 2**attempt
            log.warning("%s: %s; retrying in %g s", url, failure, pause)
            time.sleep(pause)
        except OSError as error:
            with suppress(OSError):  # a part that filled the disk must not stay
                part.unlink(missing_ok=True)
            raise DataError(
                f"{url}: cannot write {part}: {reason_of(error)}; free some space, choose a writable folder, or "
                f"download it by hand to {destination}"
            ) from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _TransferError(Exception):
    """A failed attempt to download; ``transient`` says whether another attempt may succeed."""

    def __init__(self, reason: str, *, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


def _download_once(url: str, part: Path, sha256: str, progress: bool, timeout: float) -> None:
    """Complete ``part`` and check it.

    Raises:
        _TransferError: the transfer failed, or the checksum is wrong; ``part`` is then removed.
        OSError: ``part`` cannot be written.
    """
    resumed = _transfer(url, part, progress, timeout)
    found = sha256_of(part)
    if found != sha256.lower():
        part.unlink()
        # If the part was of another file, a download from the start may still succeed.
        raise _TransferError(f"SHA-256 is {found}, expected {sha256}", transient=resumed)


def _remove_if_empty(part: Path) -> None:
    with suppress(OSError):
        if part.stat().st_size == 0:
            part.unlink()


def _transfer(url: str, part: Path, progress: bool, timeout: float) -> bool:
    """Complete ``part`` from the server; return whether existing bytes were kept.

    Raises:
        _TransferError: the network or the server failed, or the disk has too little free space.
        OSError: ``part`` cannot be written.
    """
    response, start, total = _connect(url, part.stat().st_size if part.is_file() else 0, timeout)
    with response:
        if start == 0:
            part.unlink(missing_ok=True)  # before the check for free space
        if total is not None:
            _check_free_space(total - start, part.parent)
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


def _check_free_space(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        reason = f"needs {size / 1e6:.1f} MB, but {folder} has only {free / 1e6:.1f} MB free"
        raise _TransferError(f"{reason}; free some space", transient=False)


def _connect(url: str, start: int, timeout: float) -> tuple[http.client.HTTPResponse, int, int | None]:
    """Request the file from byte ``start`` on.

    Returns:
        the response, the position of its first byte, and the size of the whole file, None if unknown.
    """
    if _scheme(url) not in ("http", "https"):
        raise _TransferError("the address must begin with http:// or https://", transient=False)
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        answer = _opener().open(urlrequest.Request(url, headers=headers), timeout=timeout)
        response = cast(http.client.HTTPResponse, answer)
    except urlerror.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the file is not longer than the part, so the part is of another file
            return _connect(url, 0, timeout)
        transient = error.code in _TRANSIENT_STATUS
        raise _TransferError(f"HTTP {error.code} {printable(error.msg)}", transient=transient) from None
    except (ValueError, http.client.InvalidURL) as error:
        raise _TransferError(f"invalid address: {printable(str(error))}", transient=False) from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urlerror.URLError) else error
        raise _TransferError(reason_of(cause), transient=True) from None
    if response.status == 200:
        return response, 0, response.length
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and start and content_range and int(content_range[1]) == start:
        return response, start, None if content_range[2] == "*" else int(content_range[2])
    response.close()
    if response.status == 206 and start:
        return _connect(url, 0, timeout)
    transient = response.status in _TRANSIENT_STATUS
    raise _TransferError(f"HTTP {response.status} {printable(response.reason)}", transient=transient)


def _scheme(url: str) -> str:
    """Return the scheme of an address; empty if the address is invalid."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


class _HttpRedirects(urlrequest.HTTPRedirectHandler):
    """Follow redirects only to http and https; urllib's own handler also allows ftp."""

    def redirect_request(
        self,
        req: urlrequest.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urlrequest.Request | None:
        """Build the request for the new address.

        Raises:
            HTTPError: the new address is neither http nor https.
        """
        if _scheme(newurl) not in ("http", "https"):
            raise urlerror.HTTPError(newurl, code, f"{msg} - redirect to {newurl} refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urlrequest.OpenerDirector:
    """Build an opener without urllib's handlers for file:, ftp: and data: addresses."""
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
    """Yield the body in pieces; network errors become `_TransferError`, to distinguish them from errors of writing."""
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(reason_of(error), transient=True) from None
