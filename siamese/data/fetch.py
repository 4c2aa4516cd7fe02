"""Download a file over HTTP: resumed after interruptions, checked by SHA-256, complete or absent."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast
from urllib import error as urlerror
from urllib import request as urlrequest

from tqdm import tqdm

from siamese.errors import DataError, printable, reason_of

log = logging.getLogger(__name__)

USER_AGENT = "siamese-lfw/0.1 (Python urllib)"

BACKOFF_SECONDS = 1.0
"""Pause before the first retry; doubled before each further one."""

_TRANSIENT_STATUS = frozenset({202, 408, 425, 429, 500, 502, 503, 504})


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
            resumed = _transfer(url, part, progress, timeout)
            if (found := sha256_of(part)) == sha256.lower():
                part.replace(destination)
                return
            part.unlink()
            # If the part was of another file, a download from the start may still succeed.
            raise _TransferError(f"SHA-256 is {found}, expected {sha256}", transient=resumed)
        except _TransferError as failure:
            if not failure.transient or attempt >= retries:
                if part.is_file() and part.stat().st_size == 0:
                    part.unlink()
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


def _transfer(url: str, part: Path, progress: bool, timeout: float) -> bool:
    """Complete ``part`` from the server; return whether existing bytes were kept.

    Raises:
        _TransferError: the network or the server failed, or the disk has too little free space.
        OSError: ``part`` cannot be written.
    """
    start = part.stat().st_size if part.is_file() else 0
    with _request(url, start, timeout) as response:
        match response.status:
            case 200:
                start = 0
                part.unlink(missing_ok=True)  # before the check for free space
            case 206 if start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                pass
            case 206 | 416 if start:  # the part is of another file
                part.unlink()
                return _transfer(url, part, progress, timeout)
            case status:
                reason = f"HTTP {status} {printable(response.reason)}"
                raise _TransferError(reason, transient=status in _TRANSIENT_STATUS)
        size, free = response.length, shutil.disk_usage(part.parent).free
        if size is not None and size > free:
            reason = f"needs {size / 1e6:.1f} MB, but {part.parent} has only {free / 1e6:.1f} MB free"
            raise _TransferError(f"{reason}; free some space", transient=False)
        total = None if size is None else start + size
        disable = None if progress else True
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, leave=False, disable=disable)
        with bar, part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
            received = file.tell()
    if total is not None and received != total:
        raise _TransferError(f"the connection ended after {received} of {total} bytes", transient=True)
    return start > 0


def _request(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """Request the file from byte ``start`` on, and return the answer, whatever its status.

    Raises:
        _TransferError: the address is invalid, or there is no answer.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise _TransferError("the address must begin with http:// or https://", transient=False)
    headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={start}-"} if start else {})
    opener = urlrequest.build_opener(_NoFtp)
    try:
        return cast(http.client.HTTPResponse, opener.open(urlrequest.Request(url, headers=headers), timeout=timeout))
    except urlerror.HTTPError as answer:  # has the same attributes, except for the length
        return cast(http.client.HTTPResponse, answer)
    except (ValueError, http.client.InvalidURL) as error:
        raise _TransferError(f"invalid address: {printable(str(error))}", transient=False) from None
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urlerror.URLError) else error
        raise _TransferError(reason_of(cause), transient=True) from None


class _NoFtp(urlrequest.BaseHandler):
    """Refuse redirects to ftp; urllib refuses those to any other address that is not http or https."""

    def ftp_request(self, request: urlrequest.Request) -> urlrequest.Request:
        """Raise ValueError, whatever the address."""
        raise ValueError(f"redirect to {request.full_url} refused")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body in pieces; network errors become `_TransferError`, to distinguish them from errors of writing."""
    try:
        while chunk := response.read(1 << 16):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _TransferError(reason_of(error), transient=True) from None
