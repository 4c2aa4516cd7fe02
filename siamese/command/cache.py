"""``siamese cache``: what the cache of decoded images holds, and removing what no run can use any more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from siamese.data.image_cache import FORMAT, KEY, in_use, merge, open_shards
from siamese.errors import ConfigError
from siamese.text import count


def cache(folder: Path, prune: bool) -> str:
    """Return a line for each image folder and set of options in a cache, and the total.

    Args:
        folder: the cache, ``data.cache``.
        prune: remove images whose files changed or are gone, and those of older versions of this program.

    Raises:
        ConfigError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of data.cache")
    lines, total, unused = [], 0, 0
    for entry in sorted(path for path in folder.iterdir() if path.is_dir()):
        key = _key(entry)
        if key is None:
            continue
        if key.get("format") != FORMAT or not Path(key["root"]).is_dir():
            size = waste = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
            why = "of another version" if key.get("format") != FORMAT else f"{key['root']} is not there"
            lines.append(f"{_size(size)}, unused: {entry.name} ({why})")
            if prune:
                shutil.rmtree(entry)
        else:
            images, size, waste = _examine(entry, Path(key["root"]), prune)
            if prune:
                size -= waste
            rest = f", of which {_size(waste)} unused" if waste and not prune else ""
            lines.append(f"{_size(size)}{rest}: {count(images, 'image')} of {key['root']}, {_options(key)}")
        total, unused = total + size, unused + waste
    done = "removed" if prune else "unused"
    remedy = "; to remove it: siamese cache --prune" if unused and not prune else ""
    return "\n".join([*lines, f"{folder}: {_size(total)}; {done}: {_size(unused)}{remedy}"])


def _key(entry: Path) -> dict[str, Any] | None:
    """What an entry was made from; None if the folder is no part of the cache."""
    if (entry / KEY).is_file():
        key: dict[str, Any] = json.loads((entry / KEY).read_text(encoding="utf-8"))
        return key
    return {"format": None} if (entry / "lock").is_file() else None  # of format 4 and before


def _examine(entry: Path, root: Path, prune: bool) -> tuple[int, int, int]:
    """The number of images in use, the size of all, and the size of those that are not used, in bytes."""
    with FileLock(entry / "lock"):
        shards = open_shards(entry)
        used = [len(names - shard.failed.keys()) for shard, names in zip(shards, in_use(root, shards), strict=True)]
        kept = [number * shard.size // max(1, len(shard)) for shard, number in zip(shards, used, strict=True)]
        size = sum(shard.size for shard in shards)
        if prune and (chosen := [shard for shard, rest in zip(shards, kept, strict=True) if rest < shard.size]):
            merge(entry, root, chosen)
        return sum(used), size, size - sum(kept)


def _options(key: dict[str, Any]) -> str:
    side = key["image_size"]
    crop = "whole" if key["crop"] is None else f"crop {key['crop']}"
    aligned = "" if key["align"] is None else f", aligned by {key['align']}"
    return f"{side} x {side} {'RGB' if key['color'] else 'grey'}, {crop}, {key['interpolation']}{aligned}"


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
