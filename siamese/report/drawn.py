"""Record what a run page was drawn from, so that it is redrawn only if it is out of date."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from siamese.config.defaults import configuration_folder
from siamese.files import file_state, write_text_atomically

FILE = ".report.json"
"""The record, in the run folder."""

LIBRARIES = ("jinja2", "matplotlib", "numpy", "pillow", "pillow-heif", "pyyaml", "scipy")
"""Packages that determine how a page looks and which photos can be read."""


class Drawn:
    """The files that a run page is drawn from and those it consists of, each with its state.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._states: dict[str, tuple[int, ...] | None] = {}

    def note(self, file: Path) -> Path:
        """Note the present state of a file, which need not exist, and return its path.

        Call it before the file is read, so that a later change is noticed, or after the file is written.
        """
        name = str(file.relative_to(self._folder) if file.is_relative_to(self._folder) else file.absolute())
        self._states.setdefault(name, file_state(file))
        return file

    def save(self) -> None:
        """Write the record.

        Raises:
            OSError: the folder cannot be written.
        """
        record = {"code": code_version(), "folder": str(self._folder.resolve()), "files": self._states}
        write_text_atomically(self._folder / FILE, json.dumps(record))


def is_up_to_date(folder: Path) -> bool:
    """Whether the run page was drawn by this code, and no file has changed, appeared or disappeared since."""
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if (record["code"], record["folder"]) != (code_version(), str(folder.resolve())):
            return False
        recorded = {name: state if state is None else tuple(state) for name, state in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(file_state(folder / name) == state for name, state in recorded.items())


@cache
def code_version() -> str:
    """Return a digest of the source of this package, its libraries, and the place of the configuration files.

    The version number alone is the same for all commits between two releases.
    """
    package = Path(__file__).resolve().parent.parent
    found = hashlib.sha256(str(configuration_folder()).encode())
    for file in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".j2", ".js")):
        found.update(str(file.relative_to(package)).encode())
        found.update(file.read_bytes())
    for library in LIBRARIES:
        found.update(f"{library} {_version(library)}".encode())
    return found.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
