"""File names in another Unicode normalisation: ``é`` may be one character or two, and looks the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from siamese.files import file_digest


def normalised(name: str) -> str:
    """Return a name in the form NFC, in which equal names are equal strings."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def without_copies(root: Path, names: Iterable[str]) -> list[str]:
    """Leave out files whose content and normalised name are those of a file before.

    Args:
        root: the folder that names are relative to.
        names: names of existing files.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalised(name), []).append(name)
    return [name for group in groups.values() for name in (group if len(group) == 1 else _distinct(root, group))]


class Spelling:
    """Finds how the files below a folder spell names that a list may spell in another normalisation.

    Args:
        root: the image folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def __call__(self, name: str) -> str:
        """Return the name of the file on disk; ``name`` itself if there is none.

        Of several copies that only differ in how their name is written, always the same one is returned.
        """
        if name.isascii():
            return name
        found = [""]
        for part in name.split("/"):
            found = [f"{folder}/{entry}" for folder in found for entry in self._entries(folder, part)]
        names = [path[1:] for path in found]
        if name not in names:
            return names[0] if names else name
        wanted = file_digest(self.root / name)
        return next((one for one in names if one == name or file_digest(self.root / one) == wanted), name)

    def _entries(self, folder: str, name: str) -> list[str]:
        path = Path(f"{self.root}{folder}")
        if path not in self._listings:
            entries: dict[str, list[str]] = {}
            for entry in sorted(path.iterdir()) if path.is_dir() else ():
                entries.setdefault(normalised(entry.name), []).append(entry.name)
            self._listings[path] = entries
        return self._listings[path].get(normalised(name), [])


def _distinct(root: Path, names: list[str]) -> list[str]:
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(file_digest(root / name) or name, name)
    return list(found.values())
