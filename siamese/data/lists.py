"""LFW's lists of pairs and of people, parsed strictly: a line that is not what it should be is named.

The formats (Huang et al., UMass TR 07-49, 2007); fields are separated by one tab::

    pairsDevTrain.txt, pairsDevTest.txt    pairs.txt (View 2)        peopleDev*.txt   people.txt
    N                                      folds  N                  N                subsets
    name   i      j         (N times)      per fold N same lines,    name   count     per subset: its size,
    name1  i      name2  j  (N times)      then N different ones     (N times)        then that many lines

Accepted beside the official form: CRLF line ends, a byte order mark, blank lines at the end. An index is
written in ASCII digits without sign or leading zero and lies in 1..9999, since LFW names its files
``Name_%04d.jpg``.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from siamese.data.connected import connected
from siamese.errors import DataError

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_INDEX = re.compile(r"[1-9][0-9]{0,3}")
_FORBIDDEN_IN_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|\.\.")
_SAME = "'name i j'"
_DIFFERENT = "'name1 i name2 j'"


People = dict[str, list[str]]
"""Names of people -> their images, relative to the image folder."""


class Pair(NamedTuple):
    """Two images, named relative to the image folder, and whether they show one person (1) or two (0)."""

    image1: str
    image2: str
    label: int


def image_name(person: str, index: int) -> str:
    """The file of a person's image, relative to the image folder: ``Name/Name_0001.jpg``."""
    return f"{person}/{person}_{index:04d}.jpg"


def forbidden_in_name(name: str) -> bool:
    """Whether a name of a file or folder holds what could lead elsewhere or break a line."""
    return _FORBIDDEN_IN_NAME.search(name) is not None


def person_of(image: str) -> str:
    """The person whose image it is by its first folder: ``Name/Name_0001.jpg`` -> ``Name``."""
    return image.partition("/")[0]


def people_of(pairs: Iterable[Pair]) -> set[str]:
    """The names of all people in the pairs."""
    return {person_of(name) for pair in pairs for name in (pair.image1, pair.image2)}


def identities(pairs: Sequence[Pair]) -> dict[str, str]:
    """Each image of the pairs -> who is on it: its first folder, if that agrees with all labels, as LFW's names do.

    Otherwise as far as the labels tell: one name for all images that a chain of same pairs connects.
    """
    if all((person_of(pair.image1) == person_of(pair.image2)) == bool(pair.label) for pair in pairs):
        return {image: person_of(image) for pair in pairs for image in (pair.image1, pair.image2)}
    alone = ((image, image) for pair in pairs for image in (pair.image1, pair.image2))
    return connected(itertools.chain(alone, ((pair.image1, pair.image2) for pair in pairs if pair.label)))


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a View 1 list, in the list's order: first the same, then the different ones.

    Pairs listed more than once are kept, and a warning says how many there are.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    lines = _Lines(path)
    (count,) = lines.numbers("the number of same pairs alone on the first line, as in pairsDevTrain.txt", fields=1)
    pairs = _read_block(lines, count)
    lines.finish()
    warn_of_duplicates(lines.path, pairs)
    return pairs


def read_folds(path: str | os.PathLike[str]) -> list[list[Pair]]:
    """The folds of View 2's list, each with its same pairs first and then as many different ones.

    Pairs listed more than once are kept, and a warning says how many there are.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    lines = _Lines(path)
    folds, count = lines.numbers("the number of folds and of same pairs in each, as '10<TAB>300'", fields=2)
    blocks = [_read_block(lines, count) for _ in range(folds)]
    lines.finish()
    warn_of_duplicates(lines.path, [pair for block in blocks for pair in block])
    return blocks


def read_people(path: str | os.PathLike[str]) -> list[dict[str, int]]:
    """The people of each subset and the number of their images; a list without subsets gives one.

    Which of the two formats it is shows on the second line: a size alone, or a name and a count.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed, or names a person twice; the message names the
            file and the line.
    """
    lines = _Lines(path)
    (count,) = lines.numbers("the number of people or of subsets alone on the first line", fields=1)
    if lines.next_has_one_field():
        sizes_follow, subsets = True, count
    else:
        sizes_follow, subsets = False, 1
    seen: set[str] = set()
    result = []
    for _ in range(subsets):
        size = lines.numbers("the size of the next subset", fields=1)[0] if sizes_follow else count
        result.append(_read_subset(lines, size, seen))
    lines.finish()
    return result


class _Lines:
    """The lines of a list, given out one by one as fields, with errors that name the line last given out."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Only line feeds end a line: str.splitlines would also split at characters that a name may hold.
        lines = [line.removesuffix("\r") for line in read_text(self.path, "one of LFW's lists").split("\n")]
        while lines and not lines[-1].strip():
            lines.pop()
        self._lines = lines
        self._number = 0

    def error(self, what: str, expected: str) -> DataError:
        return DataError(f"{self.path}:{self._number}: {what} (expected {expected})")

    def fields(self, expected: str) -> list[str]:
        self._number += 1
        if self._number > len(self._lines):
            raise self.error("the list ends too early", expected)
        return self._lines[self._number - 1].split("\t")

    def numbers(self, expected: str, fields: int) -> list[int]:
        found = self.fields(expected)
        if len(found) != fields or not all(map(_NUMBER.fullmatch, found)):
            raise self.error(f"bad count {_shown(found)}", expected)
        return [int(field) for field in found]

    def next_has_one_field(self) -> bool:
        return self._number < len(self._lines) and "\t" not in self._lines[self._number]

    def person(self, name: str) -> str:
        if not name:
            raise self.error("empty name", "a person's name")
        if forbidden_in_name(name) or name != name.strip():
            raise self.error(
                f"impossible name {_shown([name])}",
                "a name without slashes, '..', control characters and blanks around it",
            )
        return name

    def index(self, field: str) -> int:
        if not _INDEX.fullmatch(field):
            raise self.error(f"bad number {_shown([field])}", "a whole number from 1 to 9999")
        return int(field)

    def finish(self) -> None:
        declared, self._number = self._number, self._number + 1
        if declared < len(self._lines):
            surplus = len(self._lines) - declared
            raise self.error(
                f"{surplus} more {'line' if surplus == 1 else 'lines'} than declared",
                f"the end of the list after line {declared}",
            )


def read_text(path: Path, expected: str) -> str:
    """The text of a list, without a byte order mark.

    Raises:
        DataError: it is missing, no regular file, or not UTF-8; ``expected`` says what it should be.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            raise DataError(f"{path}: is not a regular file (expected {expected})")
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (expected {expected})") from None
    except (OSError, ValueError) as error:  # ValueError: a path that cannot be, with a NUL in it
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise DataError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8 (expected text in UTF-8)") from None


def read_table(path: Path, columns: Sequence[str], expected: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """The rows of a CSV file with a header, each with where it stands, as ``FILE:LINE``; other columns may be there.

    Args:
        path: of the file.
        columns: that must be there.
        expected: of the header, for the message.

    Raises:
        DataError: it is missing, not UTF-8, no CSV, lacks a column, or has no row.
    """
    # The line ends are left to csv: a quoted name may hold one.
    reader = csv.DictReader(io.StringIO(read_text(path, "a CSV file of pairs"), newline=""), strict=True)
    row = None
    try:
        if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
            raise DataError(f"{path}:1: no column {missing[0]} (expected a header with {expected})")
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error} (expected values separated by commas)") from None
    if row is None:
        raise DataError(f"{path}: no pairs in it (expected a line for each below the header)")


def _read_block(lines: _Lines, count: int) -> list[Pair]:
    """``count`` same lines, then ``count`` different ones."""
    same = [_read_same(lines, f"{_SAME}, {count} times") for _ in range(count)]
    return same + [_read_different(lines, f"{_DIFFERENT}, {count} times") for _ in range(count)]


def _read_same(lines: _Lines, expected: str) -> Pair:
    fields = lines.fields(expected)
    if len(fields) == 4:
        raise lines.error(f"a different pair {_shown(fields)} where a same pair belongs", expected)
    if len(fields) != 3:
        raise lines.error(f"{_shown(fields)} is not a same pair", expected)
    person = lines.person(fields[0])
    first, second = lines.index(fields[1]), lines.index(fields[2])
    if first == second:
        raise lines.error(f"image {first} of {_shown([person])} is paired with itself", "two different images")
    return Pair(image_name(person, first), image_name(person, second), 1)


def _read_different(lines: _Lines, expected: str) -> Pair:
    fields = lines.fields(expected)
    if len(fields) == 3:
        raise lines.error(f"a same pair {_shown(fields)} where a different pair belongs", expected)
    if len(fields) != 4:
        raise lines.error(f"{_shown(fields)} is not a different pair", expected)
    person1, person2 = lines.person(fields[0]), lines.person(fields[2])
    if person1 == person2:
        raise lines.error(f"both names are {_shown([person1])}", "two different people")
    return Pair(image_name(person1, lines.index(fields[1])), image_name(person2, lines.index(fields[3])), 0)


def _read_subset(lines: _Lines, size: int, seen: set[str]) -> dict[str, int]:
    """``size`` people, none of whom is in ``seen``, to which they are added."""
    subset: dict[str, int] = {}
    for _ in range(size):
        fields = lines.fields(f"'name count', {size} times")
        if len(fields) != 2:
            raise lines.error(f"{_shown(fields)} is not a person", f"'name count', {size} times")
        person, count = lines.person(fields[0]), lines.index(fields[1])
        if person in seen:
            raise lines.error(f"{_shown([person])} is listed twice", "every person once")
        seen.add(person)
        subset[person] = count
    return subset


def warn_of_duplicates(path: Path, pairs: Iterable[Pair]) -> None:
    """Log how many pairs are listed more than once, if any are."""
    seen = set()
    duplicates = 0
    for pair in pairs:
        images = frozenset((pair.image1, pair.image2))
        duplicates += images in seen
        seen.add(images)
    if duplicates:
        log.warning("%s: pairs listed more than once: %d (kept)", path, duplicates)


def _shown(fields: list[str]) -> str:
    """The fields as one printable word of bounded length, tabs and other unprintable characters escaped."""
    text = "\t".join(fields)
    return repr(text if len(text) <= 80 else text[:77] + "...")
