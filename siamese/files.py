"""Files written all or nothing."""

from __future__ import annotations

import secrets
from pathlib import Path


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Holds for readers at any time and for a killed process; not for a power cut, since nothing is synced.

    Raises:
        OSError: the folder is missing or cannot be written; an old file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        # Not tempfile: its files are readable by their owner alone, whatever the umask says.
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for text: UTF-8, line ends as given."""
    write_bytes_atomically(path, text.encode("utf-8"))
