"""The decoded images of a data set, kept on disk: an image is decoded again only if its file or an option changes.

There is a folder for each image folder and set of options, with shards of images (`siamese.data.shards`). Which images
a run uses makes no difference to it, so another split or protocol finds what earlier runs decoded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from siamese.config.data import ImageOptions
from siamese.data.copies import find_copies
from siamese.data.decoding import decode_images
from siamese.data.images import SIDE, why_unusable
from siamese.data.pixels import Pixels
from siamese.data.shards import LARGEST, DamagedError, Shard, ShardWriter, shard_files, stat_of
from siamese.errors import DataError
from siamese.files import file_digest, remove_unfinished, replacing, write_text_atomically
from siamese.parallel import READERS, in_order
from siamese.text import count

log = logging.getLogger(__name__)

MOST_SEARCHED = 30_000
"""Most images that are searched for copies: half a minute on two cores, and the time grows with the square."""

MOST_SMALL = 16
"""Most shards that are less than half full. More are merged, so that their number does not grow with every change."""

FORMAT = 7
"""Version of the cache. Raise it if decoding changes: older shards are then not used."""

GONE = -1
"""Size and time in place of those of a file that cannot be found; never those of an image in a shard."""

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
        shards: the opened shards.
        place: int64 [N, 2], number of the shard and row of each name; -1 if it is in none.
        failed: name -> why it cannot be used.
    """

    shards: list[Shard]
    place: Ints
    failed: dict[str, str]

    def missing(self, names: Sequence[str]) -> list[int]:
        """The positions of the names that are still to be decoded."""
        return [k for k in np.flatnonzero(self.place[:, 0] < 0).tolist() if names[k] not in self.failed]


def load_images(root: Path, names: Sequence[str], options: ImageOptions, progress: bool = False) -> ImageArray:
    """Find the named images below ``root`` in the cache, after decoding those that are not there.

    An image is decoded again if the size or modification time of its file changed, or if it is another file (by its
    inode) with another `file_digest`. A file that fails for a reason that
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
    folder = cache_folder(root, options)
    shape = (options.channels, options.image_size, options.image_size)
    lock = FileLock(folder / "lock")
    with _explained(options):
        folder.mkdir(parents=True, exist_ok=True)
        stats, gone = _file_stats(root, names)
        found = _find(root, names, stats, read_shards(folder), gone)  # shards never change: no need for the lock
        if found.missing(names):
            with _waiting(lock, folder):
                if not (folder / KEY).exists():
                    write_text_atomically(folder / KEY, json.dumps(_key(root, options)))
                shards = _tidy(folder, root)
                stats, gone = _file_stats(root, names)  # they may have changed during the wait
                found = _find(root, names, stats, shards, gone)
                if missing := found.missing(names):
                    gone |= _decode(root, folder, names, stats, missing, options, progress)
                    found = _find(root, names, stats, read_shards(folder), gone)
        rows = np.flatnonzero(found.place[:, 0] >= 0)
        place, used = found.place[rows], [names[k] for k in rows.tolist()]
        digests = [found.shards[shard].digests[row] for shard, row in place.tolist()]

        def repair(shard: Shard, reason: str) -> Shard:
            with _explained(options), _waiting(lock, folder):
                return rebuild(root, shard, options, reason)

        pixels = Pixels(shape, found.shards, place, repair)
        copies = _copies(folder, used, digests, pixels, progress)
    return ImageArray(used, pixels, digests, found.failed, copies)


@contextmanager
def _waiting(lock: FileLock, folder: Path) -> Iterator[None]:
    """Hold the lock; say so if another process has it for long."""
    try:
        lock.acquire(timeout=2)
    except Timeout:
        log.info("waiting for another process that decodes images into %s ...", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tidy(folder: Path, root: Path) -> list[Shard]:
    """Remove what killed processes left, damaged shards, and merge small ones; the caller holds the lock."""
    shards = read_shards(folder, clean=True)
    small = [shard for shard in shards if 2 * shard.size < LARGEST]
    if len(small) <= MOST_SMALL:
        return shards
    log.info("merging %s of the image cache", count(len(small), "small file"))
    used = in_use(root, shards, missing_too=True)
    try:
        merge(folder, small, [names for shard, names in zip(shards, used, strict=True) if shard in small])
    except OSError as error:
        log.warning("%s: could not merge small files of the image cache (%s)", folder, error)
    return read_shards(folder)


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
    fields = {field: getattr(options, field) for field in ("image_size", "color", "align", "crop", "interpolation")}
    return {"format": FORMAT, "decoder": decoder(options.align), "root": str(root.resolve()), **fields}


def decoder(align: str | None) -> str:
    """The libraries whose versions may change pixels."""
    found = f"Pillow {PIL.__version__}"
    return f"{found}, OpenCV {version('opencv-python-headless')}" if align else found


def _file_stats(root: Path, names: Sequence[str]) -> tuple[Ints, dict[str, str]]:
    """The `Stat` of each file, int64 [N, 3], `GONE` if it cannot be found; and why not, for each such name."""
    stats = np.full((len(names), 3), GONE, np.int64)
    gone = {}
    for k, name in enumerate(names):
        try:
            stats[k] = stat_of(f"{root}/{name}")
        except (OSError, ValueError) as error:
            gone[name] = why_unusable(error)
    return stats, gone


def read_shards(folder: Path, clean: bool = False) -> list[Shard]:
    """Open the shards in a folder, except for damaged ones.

    Args:
        folder: their folder.
        clean: the lock is held: remove damaged shards, and what a process that was killed left.

    Raises:
        OSError: a shard cannot be opened for a reason that may pass.
    """
    shards = []
    for index in shard_files(folder):
        try:
            shards.append(Shard(index))
        except DamagedError as error:
            if clean:
                log.warning("%s is damaged (%s); its images are decoded again", index, error)
                index.unlink(missing_ok=True)
    if clean:
        complete = {shard.pixels for shard in shards}
        for pixels in folder.glob("*.pixels"):
            if pixels not in complete:
                pixels.unlink()
        remove_unfinished(folder)
    return shards


def _find(
    root: Path, names: Sequence[str], stats: Ints, shards: list[Shard], unusable: Mapping[str, str]
) -> _Found:  # fmt: skip
    """Find images in shards; those in none, and not in ``unusable`` (with the reasons), are missing."""
    position = {name: k for k, name in enumerate(names)}
    known = np.concatenate([stats, [[GONE] * 3]])  # position -1 stands for names that are not asked for
    place = np.full((len(names), 2), -1, np.int64)
    failed = dict(unusable)
    for number, shard in enumerate(shards):
        at = np.fromiter((position.get(name, -1) for name in shard.names), np.int64, len(shard))
        same = (shard.stats[:, :2] == known[at, :2]).all(1) & (known[at, 0] != GONE)
        # Files that an archive dates alike may have been renamed. On some drives, inodes are new at every start.
        others = np.flatnonzero(same & (shard.stats[:, 2] != known[at, 2])).tolist()
        digests = in_order(file_digest, [root / shard.names[row] for row in others], workers=READERS)
        same[others] = [digest == shard.digests[row] for row, digest in zip(others, digests, strict=True)]
        place[at[same], 0], place[at[same], 1] = number, np.flatnonzero(same)
        for name, (stat, reason) in shard.failed.items():
            if stat == tuple(known[position.get(name, -1)].tolist()):
                failed[name] = reason
    return _Found(shards, place, failed)


def _decode(
    root: Path, folder: Path, names: Sequence[str], stats: Ints, missing: Sequence[int], options: ImageOptions,
    progress: bool,
) -> dict[str, str]:  # fmt: skip
    """Decode the missing images into new shards; return the names of those that cannot be used, and why.

    ``stats`` gets those that the files had when they were decoded.
    """
    log.info("decoding images: %s; later runs read them from %s", f"{len(missing):,}", options.cache)
    failed: dict[str, str] = {}
    position = {names[k]: k for k in missing}
    with ShardWriter(folder, (options.channels, options.image_size, options.image_size)) as writer:
        for part in decode_images(root, list(position), options, progress):
            writer.add(part.names, part.stats, part.digests, part.records)
            stats[[position[name] for name in part.names]] = np.array(part.stats, np.int64).reshape(-1, 3)
            failed |= part.failed
            for name in part.failed.keys() - part.may_pass:
                size, time, inode = stats[position[name]].tolist()
                if size != GONE:
                    writer.fail(name, (size, time, inode), part.failed[name])
    return failed


def rebuild(root: Path, shard: Shard, options: ImageOptions, reason: str) -> Shard:
    """Decode the damaged images of a shard again, to the same rows; the caller holds the lock of its folder.

    Raises:
        DataError: the shard is no longer there, or an image changed since it was written and cannot be restored.
    """
    if not shard.index.exists():
        raise DataError(f"{shard.pixels}: removed from the cache while it was used")
    mended = None
    with suppress(DamagedError):  # cut short
        mended = Shard(shard.index)  # another process may have been here
    source = mended or shard
    bad = [row for row in range(len(source)) if not source.is_sound(row)]
    if mended and not bad:
        return mended
    log.warning("%s; decoding again what is damaged: %s", reason, count(len(bad), "image"))
    row_of = {source.names[row]: row for row in bad}
    with replacing(shard.pixels) as temporary, temporary.open("xb") as file:
        for row in range(len(source)):
            if source.names[row] not in row_of:
                file.seek(row * source.size // len(source))
                file.write(source.read(row).data)
        for part in decode_images(root, list(row_of), options):
            for name, record in zip(part.names, part.records, strict=True):
                row = row_of.pop(name)
                if zlib.crc32(record) != source.crcs[row]:
                    row_of[name] = row
                    break
                file.seek(row * source.size // len(source))
                file.write(record.data)
            if row_of.keys() & {*part.names, *part.failed}:
                break
    if row_of:
        shard.index.unlink(missing_ok=True)
        raise DataError(f"{root / next(iter(row_of))}: changed since it was decoded, and {shard.pixels} is damaged")
    return Shard(shard.index)


def in_use(root: Path, shards: Sequence[Shard], missing_too: bool) -> list[set[str]]:
    """The names in each shard whose file is what it was when it was decoded, each in the last such shard.

    Args:
        root: the image folder.
        shards: in the order in which they were written.
        missing_too: count images whose file is not there; its drive may not be connected.
    """
    names = sorted({name for shard in shards for name in (*shard.names, *shard.failed)})
    current = {
        name: (size, time) for name, (size, time, _) in zip(names, _file_stats(root, names)[0].tolist(), strict=True)
    }
    latest: dict[str, int] = {}
    for number, shard in enumerate(shards):
        stats = dict(zip(shard.names, shard.stats.tolist(), strict=True))
        for name, stat in (stats | {name: stat for name, (stat, _) in shard.failed.items()}).items():
            if tuple(stat[:2]) == current[name] or (missing_too and current[name][0] == GONE):
                latest[name] = number
    used: list[set[str]] = [set() for _ in shards]
    for name, number in latest.items():
        used[number].add(name)
    return used


def merge(folder: Path, shards: Sequence[Shard], used: Sequence[set[str]]) -> None:
    """Write what is used of some shards to few large ones; the caller holds the lock.

    Each shard is removed as soon as what is used of it is written, so that this needs room for one more shard only.
    """
    with ShardWriter(folder, shards[0].shape) as writer:
        for shard, names in sorted(zip(shards, used, strict=True), key=lambda one: len(one[1])):
            for row, name in enumerate(shard.names):
                if name in names and shard.is_sound(row):
                    size, time, inode = shard.stats[row].tolist()
                    writer.add([name], [(size, time, inode)], [shard.digests[row]], shard.read(row)[None])
            for name in names & shard.failed.keys():
                writer.fail(name, *shard.failed[name])
            if names:
                writer.save()
            shard.remove()


def _copies(
    folder: Path, names: Sequence[str], digests: Sequence[str], pixels: Pixels, progress: bool
) -> list[list[str]] | None:
    """Groups of copies of one photo among some images, from a file if these images have been searched before."""
    if len(names) > MOST_SEARCHED:
        return None
    key = hashlib.sha256(json.dumps([list(names), list(digests)]).encode()).hexdigest()[:16]
    file = folder / f"copies-{key}.json"
    with suppress(FileNotFoundError, ValueError):
        known: list[list[str]] = json.loads(file.read_text(encoding="utf-8"))
        return known
    small = pixels.thumbnails().reshape(-1, SIDE, SIDE) if names else np.empty((0, SIDE, SIDE), np.uint8)
    groups = [[names[row] for row in group] for group in find_copies(small, progress)]
    with suppress(OSError):  # the cache may be read-only, or the disk full: the next run searches again
        write_text_atomically(file, json.dumps(groups))
    return groups
