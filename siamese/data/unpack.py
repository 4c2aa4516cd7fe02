"""Unpack an archive safely: only files and folders inside the target, limited in size, complete or absent."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from tqdm import tqdm

from siamese.errors import DataError, printable, reason_of

log = logging.getLogger(__name__)

MAX_MEMBERS = 100_000
"""Most members of an archive; LFW's have about 19,000."""

_CHUNK = 1 << 16


def unpack(archive: Path, into: Path, *, top: str, max_bytes: int, progress: bool = True) -> None:
    """Unpack the folder ``top`` of a .tgz archive to ``into/top``, which appears only when it is complete.

    Only regular files and folders with relative names inside the target are accepted. Permissions, owners and times are
    ignored. Harmless members outside ``top`` are skipped. An existing target is left unchanged.

    Args:
        archive: a gzip-compressed tar file.
        into: the folder to unpack in; created if missing.
        top: the folder in the archive.
        max_bytes: most bytes of the uncompressed stream including tar's headers; counted while unpacking.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        DataError: the archive is missing, damaged, too large or unsafe, or the disk is full; nothing is left behind.
    """
    target = into / top
    if os.path.lexists(target):
        return
    if not archive.is_file():
        raise DataError(f"{archive}: no such archive; download it")
    temporary: Path | None = None
    try:
        into.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=temporary_prefix(top), dir=into))
        _extract(archive, temporary, top, max_bytes, progress)
        if not (temporary / top).is_dir():
            raise DataError(f"{archive}: contains no folder {top}/; remove it and download the official archive")
        _rename_unless_present(temporary / top, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError) as error:
        reason = printable(str(error)) or type(error).__name__
        raise DataError(f"{archive}: damaged ({reason}); remove it and download it again") from None
    except OSError as error:
        remedy = "free some space or choose another folder"
        raise DataError(f"{archive}: cannot be unpacked into {into}: {reason_of(error)}; {remedy}") from None
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
        # Stream mode reads nothing twice, so exactly the counted bytes are unpacked.
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as tar:
            for number, member in enumerate(tar, start=1):
                if number > MAX_MEMBERS:
                    raise DataError(f"{archive}: more than {MAX_MEMBERS} members; not unpacked")
                _check_member(archive, member)
                if PurePosixPath(member.name).parts[:1] == (top,):
                    tar.extract(member, into, set_attrs=False, filter="data")
                else:
                    log.info("%s: skipped %.80r, which is outside %s/", archive, member.name, top)
                bar.update(compressed.tell() - bar.n)
        # tarfile stops at its end mark, but gzip checks the checksum only at the end of the stream.
        while stream.read(_CHUNK):
            pass


class _BoundedReader:
    """A stream that raises DataError after ``limit`` bytes."""

    def __init__(self, stream: IO[bytes], archive: Path, limit: int) -> None:
        self._stream = stream
        self._archive = archive
        self._limit = limit
        self._given = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._given += len(data)
        if self._given > self._limit:
            raise DataError(f"{self._archive}: unpacks to more than {self._limit / 1e6:.1f} MB; not unpacked")
        return data


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise DataError(f"{archive}: unsafe: {member.name[:80]!r} may be outside the target folder; not unpacked")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise DataError(f"{archive}: unsafe: {member.name[:80]!r} is not a regular file or folder; not unpacked")


def _rename_unless_present(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        # Another process may have unpacked the same archive in the meantime.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not target.is_dir():
            raise


def temporary_prefix(top: str) -> str:
    """Return the prefix of the temporary folder that ``top`` is unpacked in."""
    return f".{top}.unpacking-"
