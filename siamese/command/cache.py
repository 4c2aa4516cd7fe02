"""``siamese cache``: what the cache of decoded images holds, and removing what no run can use any more."""

from __future__ import annotations

import errno
import json
import re
import shutil
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from siamese.data.image_cache import FORMAT, KEY, decoder, in_use, merge, read_shards
from siamese.errors import ConfigError, DataError
from siamese.text import count, shell_words


def cache(folder: Path, prune: bool) -> str:
    """Return a line for each image folder and set of options in a cache, and the total.

    Args:
        folder: the cache, ``data.cache``.
        prune: remove images whose files changed or are gone, and those of older versions of this program.

    Raises:
        ConfigError: there is no such folder, or it is not a cache.
        DataError: the disk is full, or a file cannot be removed; what was not removed can still be used.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder: nothing is cached yet, or give the folder of data.cache")
    entries = sorted(folder.iterdir())
    if entries and not any(re.fullmatch(r"[0-9a-f]{16}|arithmetic-.*\.json", entry.name) for entry in entries):
        raise ConfigError(f"{folder}: not a cache of decoded images; give the folder of data.cache")
    lines, total, unused = [], 0, 0
    for entry in filter(Path.is_dir, entries):
        key = _key(entry)
        if key is None:
            continue
        try:
            with FileLock(entry / "lock", timeout=0) if prune else nullcontext():
                old = key["format"] < FORMAT or key["decoder"] != decoder(key["align"])
                line, size, waste = (_old if old else _examine)(entry, key, prune)
        except Timeout:
            lines.append(f"{entry.name}, {key['root']}: in use by a process that decodes images")
            continue
        except OSError as error:
            room = "; free as much as its largest file takes, or delete it" if error.errno == errno.ENOSPC else ""
            raise DataError(f"{entry}: {error.strerror}{room}") from None
        lines.append(line)
        total, unused = total + size, unused + waste
    done = "removed" if prune else "unused"
    command = shell_words(["python", "-m", "siamese", "cache", str(folder), "--prune"])
    remedy = f"; to remove it, with all drives connected that hold photos: {command}" if unused and not prune else ""
    return "\n".join([*lines, f"{folder}: {_size(total)}; {done}: {_size(unused)}{remedy}"])


def _key(entry: Path) -> dict[str, Any] | None:
    """What an entry was made from; None if the folder is no entry of the cache, or of a later version."""
    if re.fullmatch("[0-9a-f]{16}", entry.name) is None:
        return None
    with suppress(OSError, ValueError, AttributeError):
        key: dict[str, Any] = json.loads((entry / KEY).read_text(encoding="utf-8"))
        return key if {"root", "image_size"} < key.keys() and key.get("format", FORMAT + 1) <= FORMAT else None
    return {"format": 4, "root": "", "image_size": 0} if any(entry.glob("*/pixels.npy")) else None


def _old(entry: Path, key: dict[str, Any], prune: bool) -> tuple[str, int, int]:
    """Describe an entry of an older version; also return its size, twice, in bytes."""
    size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
    if prune:
        shutil.rmtree(entry)
    whose = "of another version of this program or of Pillow"
    return f"{_size(size)}, unused: {entry.name}, {key['root']} ({whose})", 0 if prune else size, size


def _examine(entry: Path, key: dict[str, Any], prune: bool) -> tuple[str, int, int]:
    """Describe an entry; also return the size of its images, and of those that are not used, in bytes."""
    size = sum(file.stat().st_size for file in entry.glob("*.pixels"))  # also what a process that was killed left
    shards = read_shards(entry, clean=prune)
    used = in_use(Path(key["root"]), shards, missing_too=False)
    kept = [
        len(names - shard.failed.keys()) * shard.size // max(1, len(shard))
        for shard, names in zip(shards, used, strict=True)
    ]
    waste = size - sum(kept)
    if prune:
        wasteful = [k for k, shard in enumerate(shards) if kept[k] < shard.size]
        if wasteful:
            merge(entry, [shards[k] for k in wasteful], [used[k] for k in wasteful])
            for file in entry.glob("copies-*.json"):
                file.unlink()
        size -= waste
    images = sum(len(names - shard.failed.keys()) for shard, names in zip(shards, used, strict=True))
    if prune and not images:
        shutil.rmtree(entry)
    rest = f", of which {_size(waste)} unused" if waste and not prune else ""
    root = Path(key["root"])
    gone = "" if root.is_dir() and any(root.iterdir()) else " (this folder is not there, or empty)"
    return f"{_size(size)}{rest}: {count(images, 'image')} of {key['root']}{gone}, {_options(key)}", size, waste


def _options(key: dict[str, Any]) -> str:
    side = key["image_size"]
    crop = "whole" if key["crop"] is None else f"crop {key['crop']}"
    aligned = "" if key["align"] is None else f", aligned by {key['align']}"
    return f"{side} x {side} {'RGB' if key['color'] else 'grey'}, {crop}, {key['interpolation']}{aligned}"


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 or not number else f"{number / 1e3:,.1f} kB"
