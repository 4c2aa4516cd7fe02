"""``outputs/latest`` and ``multirun/latest``: links to the newest finished run and to the newest sweep."""

from __future__ import annotations

import contextlib
from pathlib import Path

LATEST = "latest"
RUNS, SWEEPS = Path("outputs"), Path("multirun")
"""Where runs and sweeps go by default, below the working directory."""


def point_latest(folder: Path, home: Path) -> None:
    """Let ``latest`` in ``home`` (`RUNS` or `SWEEPS`) point to a folder below it; ignore a folder elsewhere.

    A file system without links, or a folder that somebody named ``latest``, is left as it is.
    """
    target = folder.resolve()
    if home.resolve() not in target.parents:
        return
    link = home / LATEST
    with contextlib.suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target.relative_to(home.resolve()), target_is_directory=True)


def run_folder(name: str | Path) -> Path:
    """Return the folder that a name means: the newest finished run for ``latest``, unless a folder has that name."""
    path, link = Path(name), RUNS / LATEST
    if path != Path(LATEST) or path.exists():
        return path
    return RUNS / link.readlink() if link.is_symlink() else link
