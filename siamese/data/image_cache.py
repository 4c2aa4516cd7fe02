"""The decoded images of a data set, kept on disk: an image is decoded again only if its file or an option changes.

There is a folder for each image folder and set of options, with shards of images (`siamese.data.shards`). Which images
a run uses makes no difference to it, so another split or protocol finds what earlier runs decoded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from siamese.config.data import ImageOptions
from siamese.data.copies import find_copies
from siamese.data.decoding import decode_images
from siamese.data.images import SIDE
from siamese.data.pixels import Pixels
from siamese.data.shards import LARGEST, DamagedError, Shard, ShardWriter, Stat, shard_files
from siamese.errors import DataError
from siamese.files import remove_unfinished, replacing, write_text_atomically

log = logging.getLogger(__name__)

MOST_SEARCHED = 30_000
"""Most images that are searched for copies: half a minute on two cores, and the time grows with the square."""

MOST_SMALL = 16
"""Most shards that are less than half full. More are merged, so that their number does not grow with every change."""

FORMAT = 5
"""Version of the cache. Raise it if decoding changes: older shards are then not used."""

GONE = -1
"""Size and time in place of those of a file that cannot be found."""

KEY = "folder.json"
"""File that says which image folder and options the shards beside it belong to."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ImageArray:
    """Decoded images.

    Attributes:
        names: file names relative to the image folder, sorted; only files that could be decoded.
        pixels: uint8 [N, C, H, W] in the order of ``names``; C is 1 (grey) or 3 (RGB).
        digests: `siamese.files.file_digest` of each file.
        excluded: file name -> why it could not be used.
        copies: groups of file names, each of copies of one photo; None if not searched (`MOST_SEARCHED`).
    """

    names: list[str]
    pixels: Pixels
    digests: list[str]
    excluded: dict[str, str]
    copies: list[list[str]] | None


class _Found(NamedTuple):
    """Where the images of N names are.

    Attributes:
        place: int64 [N, 2], shard and row of each name; -1 if it is in none.
        failed: name -> why an earlier attempt could not decode it.
        stale: numbers of the shards in which nothing is of use any more.
    """

    place: Ints
    failed: dict[str, str]
    stale: list[int]


def load_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> ImageArray:
    """Find the named images below ``root`` in the cache, after decoding those that are not there.

    An image is decoded again if the size or modification time of its file changed. A file that fails for a reason that
    may pass (an I/O error, a missing permission) is excluded this time, and tried again the next time. If the process
    ends early, what it has decoded is kept. If several processes need images of the same folder, one decodes and the
    others wait.

    Args:
        root: the image folder.
        names: file names relative to ``root``; duplicates are ignored.
        options: size, colour, alignment, crop, interpolation and the cache folder.
        progress: show a progress bar if standard error is a terminal.

    Raises:
        DataError: the cache folder cannot be written.
        TrainingError: a process that decodes was killed.
    """
    names = sorted(set(names))
    stats = _file_stats(root, names)
    folder = cache_folder(root, options)
    shape = (options.channels, options.image_size, options.image_size)
    with _explained(options):
        _create(folder, root, options)
        lock = FileLock(folder / "lock")
        with lock:
            shards = open_shards(folder)
            if len(small := list(filter(is_small, shards))) > MOST_SMALL:
                merge(folder, root, small)
                shards = open_shards(folder)
            found = _find(names, stats, shards)
            excluded = found.failed
            missing = [k for k in np.flatnonzero(found.place[:, 0] < 0).tolist() if names[k] not in excluded]
            if missing:
                excluded = excluded | _decode(
                    root, folder, [names[k] for k in missing], stats[missing], options, progress
                )
                shards = open_shards(folder)
                found = _find(names, stats, shards)
            for number in found.stale:
                shards[number].remove()
            rows = np.flatnonzero(found.place[:, 0] >= 0)
            place, used = found.place[rows], [names[k] for k in rows.tolist()]

            def repair(number: int, reason: str) -> Shard:
                with _explained(options), lock:
                    return rebuild(root, shards[number], options, reason)

            digests = [shards[shard].digests[row] for shard, row in place.tolist()]
            copies = _copies(folder, used, digests, place, shards, repair, progress)
    return ImageArray(used, Pixels(shape, shards, place, repair), digests, excluded, copies)


@contextmanager
def _explained(options: ImageOptions) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"data.cache={options.cache}: {error}; set data.cache to a folder that can be written"
        ) from None


def cache_folder(root: Path, options: ImageOptions) -> Path:
    """The folder of the shards of an image folder with these options."""
    digest = hashlib.sha256(json.dumps(_key(root, options)).encode()).hexdigest()[:16]
    return Path(options.cache) / digest


def _key(root: Path, options: ImageOptions) -> dict[str, object]:
    """All that determines an image but its file."""
    fields = ("image_size", "color", "align", "crop", "interpolation")
    return {"format": FORMAT, "root": str(root.resolve()), **{field: getattr(options, field) for field in fields}}


def _create(folder: Path, root: Path, options: ImageOptions) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / KEY).exists():
        write_text_atomically(folder / KEY, json.dumps(_key(root, options)))


def _file_stats(root: Path, names: Sequence[str]) -> Ints:
    """Size and modification time of each file, int64 [N, 2]; `GONE` if it cannot be found."""
    stats = np.full((len(names), 2), GONE, np.int64)
    for k, name in enumerate(names):
        try:
            stat = os.stat(f"{root}/{name}")  # noqa: PTH116 - Path.stat takes 1.5 times as long
            stats[k] = stat.st_size, stat.st_mtime_ns
        except (OSError, ValueError):
            pass
    return stats


def _by_name(names: Sequence[str], stats: Ints) -> dict[str, Stat]:
    return {name: (size, time) for name, (size, time) in zip(names, stats.tolist(), strict=True)}


def open_shards(folder: Path) -> list[Shard]:
    """Open the shards in a folder whose lock is held; remove damaged ones and the rest of a process that was killed."""
    shards = []
    for index in shard_files(folder):
        try:
            shards.append(Shard(index))
        except DamagedError as error:
            log.warning("%s is damaged (%s); its images are decoded again", index, error)
            index.unlink()
    complete = {shard.pixels for shard in shards}
    for pixels in folder.glob("*.pixels"):
        if pixels not in complete:
            pixels.unlink()
    remove_unfinished(folder)
    return shards


def _find(names: Sequence[str], stats: Ints, shards: Sequence[Shard]) -> _Found:
    position = {name: k for k, name in enumerate(names)}
    stats = np.concatenate([stats, [[GONE, GONE]]])  # for position -1, of names that are not asked for
    place = np.full((len(names), 2), -1, np.int64)
    failed = {}
    stale = []
    for number, shard in enumerate(shards):
        at = np.fromiter((position.get(name, -1) for name in shard.names), np.int64, len(shard))
        same = (shard.stats == stats[at]).all(1)
        place[at[same], 0], place[at[same], 1] = number, np.flatnonzero(same)
        useful = bool((same | (at < 0)).any())
        for name, (stat, reason) in shard.failed.items():
            k = position.get(name)
            if k is not None and stat == tuple(stats[k].tolist()):
                failed[name] = reason
            useful |= k is None or name in failed
        if not useful:
            stale.append(number)
    return _Found(place, failed, stale)


def _decode(
    root: Path, folder: Path, names: Sequence[str], stats: Ints, options: ImageOptions, progress: bool
) -> dict[str, str]:
    """Decode images into new shards; return the names of those that cannot be used, and why."""
    log.info("decoding images: %s; later runs read them from %s", f"{len(names):,}", options.cache)
    stat = _by_name(names, stats)
    failed: dict[str, str] = {}
    with ShardWriter(folder, (options.channels, options.image_size, options.image_size)) as writer:
        for part in decode_images(root, names, options, progress):
            writer.add(part.names, [stat[name] for name in part.names], part.digests, part.pixels, part.thumbnails)
            failed |= part.failed
            for name in part.failed.keys() - part.may_pass:
                if stat[name] != (GONE, GONE):
                    writer.fail(name, stat[name], part.failed[name])
    return failed


def rebuild(root: Path, shard: Shard, options: ImageOptions, reason: str) -> Shard:
    """Decode the images of a damaged shard again, to the same rows; the caller holds the lock of its folder.

    Raises:
        DataError: an image changed since the shard was written, so that it cannot be restored.
    """
    log.warning("%s is damaged (%s); decoding its images again: %s", shard.pixels, reason, f"{len(shard):,}")
    thumbnails = []
    with replacing(shard.pixels) as temporary, temporary.open("xb") as file:
        for part in decode_images(root, shard.names, options):
            for name, image in zip(part.names, part.pixels, strict=True):
                if part.failed or zlib.crc32(image) != shard.crcs[file.tell() // shard.bytes_each]:
                    shard.remove()
                    raise DataError(
                        f"{root / next(iter(part.failed), name)}: changed since it was decoded, and {shard.pixels} is "
                        "damaged; run the same command again"
                    )
                file.write(image.data)
            thumbnails.append(part.thumbnails.tobytes())
        file.write(b"".join(thumbnails))
    return Shard(shard.index)


def in_use(root: Path, shards: Sequence[Shard]) -> list[set[str]]:
    """The names in each shard whose file has not changed, each in the last shard that has it.

    Args:
        root: the image folder.
        shards: in the order in which they were written.
    """
    latest = {name: number for number, shard in enumerate(shards) for name in (*shard.names, *shard.failed)}
    names = list(latest)
    current = _by_name(names, _file_stats(root, names))
    used: list[set[str]] = [set() for _ in shards]
    for number, shard in enumerate(shards):
        stats = dict(zip(shard.names, map(tuple, shard.stats.tolist()), strict=True))
        stats |= {name: stat for name, (stat, _) in shard.failed.items()}
        used[number] = {name for name, stat in stats.items() if latest[name] == number and current[name] == stat}
    return used


def merge(folder: Path, root: Path, shards: Sequence[Shard]) -> None:
    """Write shards as few large ones, without what is not used; the caller holds the lock of their folder."""
    with ShardWriter(folder, shards[0].shape) as writer:
        for shard, used in zip(shards, in_use(root, shards), strict=True):
            for row, image, thumbnail in shard.images():
                if (name := shard.names[row]) in used:
                    size, time = shard.stats[row].tolist()
                    writer.add([name], [(size, time)], [shard.digests[row]], image[None], thumbnail[None])
            for name in used & shard.failed.keys():
                writer.fail(name, *shard.failed[name])
    for shard in shards:
        shard.remove()


def is_small(shard: Shard) -> bool:
    """Whether a shard is less than half full."""
    return 2 * len(shard) * shard.bytes_each < LARGEST


def _copies(
    folder: Path, names: Sequence[str], digests: Sequence[str], place: Ints, shards: list[Shard],
    repair: Callable[[int, str], Shard], progress: bool,
) -> list[list[str]] | None:  # fmt: skip
    """Groups of copies of one photo among some images, from a file if these images have been searched before."""
    if len(names) > MOST_SEARCHED:
        return None
    key = hashlib.sha256(json.dumps([list(names), list(digests)]).encode()).hexdigest()[:16]
    file = folder / f"copies-{key}.json"
    with suppress(FileNotFoundError, ValueError):
        known: list[list[str]] = json.loads(file.read_text(encoding="utf-8"))
        return known
    small = np.zeros((len(names), SIDE, SIDE), np.uint8)
    for number in np.unique(place[:, 0]).tolist():
        here = place[:, 0] == number
        try:
            thumbnails = shards[number].thumbnails()
        except DamagedError as error:
            shards[number] = repair(number, str(error))
            thumbnails = shards[number].thumbnails()
        small[here] = thumbnails[place[here, 1]]
    groups = [[names[row] for row in group] for group in find_copies(small, progress)]
    write_text_atomically(file, json.dumps(groups))
    return groups
