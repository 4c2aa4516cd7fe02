"""Files written all or nothing, and nested mappings as flat keys."""

from __future__ import annotations

import csv
import io
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; takes its place when the block ends well, else it is removed.

    A reader sees the old or the new content, never a part. Holds for readers at any time and for a killed process;
    not for a power cut, since nothing is synced.

    Raises:
        OSError: the folder is missing or cannot be written; an old file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a process killed within `replacing` has left in a folder, in which nobody else may be writing."""
    for temporary in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{12}\.tmp", temporary.name):
            temporary.unlink(missing_ok=True)


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file as `replacing` does; errors as there."""
    # Not tempfile: its files are readable by their owner alone, whatever the umask says.
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(data)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for text: UTF-8, line ends as given."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_csv_atomically(path: Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV; floats in full, so that reading gives the same numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
