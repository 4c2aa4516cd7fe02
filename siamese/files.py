"""Write files atomically, recognise a file by its content, and flatten nested mappings."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context that gives a temporary path beside ``path``; it replaces ``path`` at the end, or is removed on an error.

    Other processes see the old or the new content, never a part of it, even if this process is killed. A power cut may
    still lose data, since nothing is synced.

    Raises:
        OSError: the folder is missing or cannot be written; an old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that a killed process left in `replacing`. No process may be writing to the folder."""
    for temporary in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", temporary.name):
            temporary.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file with `replacing`; errors as there."""
    # Not with tempfile: its files are readable only by their owner, whatever the umask.
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


def write_text_atomically(path: Path, text: str) -> None:
    """Write text as UTF-8 with `replacing`; line ends are kept."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_csv_atomically(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV. Floats are written with all digits, so that reading gives the same numbers."""
    with replacing(path) as temporary, temporary.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def file_state(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ once a file has been written, replaced or copied; None if there is no such file.

    They are its times of modification and of change, its size and its inode. Of a folder only that it exists.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return None
    return () if stat.S_ISDIR(found.st_mode) else (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def file_digest(path: Path) -> str:
    """Return 16 hexadecimal digits by which a file is recognised elsewhere; empty if it cannot be read.

    They depend on its size and its first and last 64 KiB: reading thousands of photos whole would take minutes.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(1 << 16)
            file.seek(max(size - (1 << 16), len(start)))
            return hashlib.sha256(str(size).encode() + start + file.read(1 << 16)).hexdigest()[:16]
    except (OSError, ValueError):  # ValueError: a NUL character in the path
        return ""


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into a single one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
