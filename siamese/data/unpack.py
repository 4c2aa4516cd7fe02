"""Unpack an archive: only files and folders inside the target, complete or absent."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from siamese.errors import DataError, reason_of


def unpack(archive: Path, into: Path, *, top: str, progress: bool = True) -> None:
    """Unpack the folder ``top`` of an archive to ``into/top``, which appears only when it is complete.

    The caller has compared the archive's checksum with that of the official file, and no other process unpacks it.
    tarfile's data filter refuses members outside the target, links that lead there, and devices. Permissions, owners
    and times are ignored. Members outside ``top`` are skipped.

    Args:
        archive: a tar file, compressed or not.
        into: an existing folder to unpack in; it must not contain ``top``.
        top: the folder in the archive.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        DataError: the archive is missing, damaged or unsafe, or the disk is full; nothing is left behind.
    """
    prefix = f".{top}.unpacking-"
    for stale in into.glob(f"{prefix}*"):  # left by a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with TemporaryDirectory(prefix=prefix, dir=into) as temporary, tarfile.open(archive) as tar:
            description, disable = f"unpacking {archive.name}", None if progress else True
            for member in tqdm(tar, desc=description, unit=" files", leave=False, disable=disable):
                tar.extract(member, temporary, set_attrs=False, filter="data")
            Path(temporary, top).rename(into / top)
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        remedy = f"free some space, choose another folder, or remove {archive.name} to download it again"
        raise DataError(f"{archive}: cannot be unpacked into {into}: {reason_of(error)}; {remedy}") from None
