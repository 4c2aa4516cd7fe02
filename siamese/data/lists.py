"""Read LFW's lists of pairs and of people; an error names the file and the line.

The formats (Huang et al., UMass TR 07-49, 2007), with fields separated by one tab::

    pairsDevTrain.txt, pairsDevTest.txt    pairs.txt (View 2)        peopleDev*.txt   people.txt
    N                                      folds  N                  N                subsets
    name   i      j         (N times)      per fold N same lines,    name   count     per subset: its size,
    name1  i      name2  j  (N times)      then N different ones     (N times)        then that many lines

CRLF line ends, a byte order mark and blank lines at the end are also accepted. An image number is written in ASCII
digits without sign or leading zero and is at most 9999, because LFW names its files ``Name_%04d.jpg``.
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

from siamese.data.spelling import normalised
from siamese.data.union_find import connected_components
from siamese.errors import DataError
from siamese.runs.tables import Prediction
from siamese.text import count

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_INDEX = re.compile(r"[1-9][0-9]{0,3}")
_FORBIDDEN_IN_NAME = re.compile(r"[/\\\x00-\x1f\x7f]|\.\.")
_SAME = "'name i j'"
_DIFFERENT = "'name1 i name2 j'"


People = dict[str, list[str]]
"""Name of a person -> names of their images, relative to the image folder."""


class Pair(NamedTuple):
    """Two image names, relative to the image folder, and the label: 1 = same person, 0 = different people."""

    image1: str
    image2: str
    label: int


def image_name(person: str, index: int) -> str:
    """Return the name of a person's image, relative to the image folder: ``Name/Name_0001.jpg``."""
    return f"{person}/{person}_{index:04d}.jpg"


def forbidden_in_name(name: str) -> bool:
    """Whether a file or folder name contains slashes, ``..`` or control characters."""
    return _FORBIDDEN_IN_NAME.search(name) is not None


def person_of(image: str) -> str:
    """Return the first folder of an image name, which is the person: ``Name/Name_0001.jpg`` -> ``Name``.

    The person's name is in the Unicode form NFC, so that two spellings of a folder are one person.
    """
    return normalised(image.partition("/")[0])


def people_of(pairs: Iterable[Pair]) -> set[str]:
    """Return the names of all people in the pairs."""
    return {person_of(name) for pair in pairs for name in (pair.image1, pair.image2)}


def identities(pairs: Sequence[Pair] | Sequence[Prediction]) -> dict[str, str]:
    """Map each image of the pairs to its person.

    The person is the image's first folder if that agrees with all labels, as in LFW. Otherwise all images that a chain
    of same pairs connects are one person, named after one of these images.
    """
    if all((person_of(pair.image1) == person_of(pair.image2)) == bool(pair.label) for pair in pairs):
        return {image: person_of(image) for pair in pairs for image in (pair.image1, pair.image2)}
    alone = ((image, image) for pair in pairs for image in (pair.image1, pair.image2))
    return connected_components(itertools.chain(alone, ((pair.image1, pair.image2) for pair in pairs if pair.label)))


def people_of_each(pairs: Sequence[Pair] | Sequence[Prediction]) -> list[tuple[str, str]]:
    """Return both people of each pair, by `identities`."""
    person = identities(pairs)
    return [(person[pair.image1], person[pair.image2]) for pair in pairs]


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a View 1 list: the same pairs, then the different pairs, in the list's order.

    Duplicate pairs are kept; their number is logged as a warning.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    lines = _Lines(path)
    (count,) = lines.numbers("only the number of same pairs on the first line, as in pairsDevTrain.txt", fields=1)
    pairs = _read_block(lines, count)
    lines.finish()
    warn_of_duplicates(lines.path, pairs)
    return pairs


def read_folds(path: str | os.PathLike[str]) -> list[list[Pair]]:
    """Read View 2's list: for each fold its same pairs, then as many different pairs.

    Duplicate pairs are kept; their number is logged as a warning.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed; the message names the file and the line.
    """
    lines = _Lines(path)
    folds, count = lines.numbers(
        "the number of folds and the number of same pairs in each, such as '10<TAB>300'", fields=2
    )
    blocks = [_read_block(lines, count) for _ in range(folds)]
    lines.finish()
    warn_of_duplicates(lines.path, [pair for block in blocks for pair in block])
    return blocks


def read_people(path: str | os.PathLike[str]) -> list[dict[str, int]]:
    """Read a list of people: for each subset, names of people -> numbers of their images.

    A list without subsets is returned as one subset. The second line shows which format it is: the size of a subset, or
    a name and a count.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed, or names a person twice; the message names the
            file and the line.
    """
    lines = _Lines(path)
    (count,) = lines.numbers("only the number of people or of subsets on the first line", fields=1)
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
    """Iterate over the lines of a list as fields; errors name the current line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        # Not str.splitlines: it also splits at other characters, which a name may contain.
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
            raise self.error(f"invalid count {_shown(found)}", expected)
        return [int(field) for field in found]

    def next_has_one_field(self) -> bool:
        return self._number < len(self._lines) and "\t" not in self._lines[self._number]

    def person(self, name: str) -> str:
        if not name:
            raise self.error("empty name", "a person's name")
        if forbidden_in_name(name) or name != name.strip():
            raise self.error(
                f"invalid name {_shown([name])}",
                "a name without slashes, '..', control characters, leading or trailing spaces",
            )
        return normalised(name)

    def index(self, field: str) -> int:
        if not _INDEX.fullmatch(field):
            raise self.error(f"invalid image number {_shown([field])}", "an integer from 1 to 9999")
        return int(field)

    def finish(self) -> None:
        declared, self._number = self._number, self._number + 1
        if declared < len(self._lines):
            surplus = len(self._lines) - declared
            raise self.error(
                f"{count(surplus, 'more line')} than the header announces",
                f"the end of the list after line {declared}",
            )


def read_text(path: Path, expected: str) -> str:
    """Read a text file in UTF-8, without its byte order mark.

    Args:
        path: the file.
        expected: what the file should be, for the error message.

    Raises:
        DataError: the file is missing, is not a regular file, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():  # reading would wait for a pipe, and never end for a device
            raise DataError(f"{path}: not a regular file (expected {expected})")
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (expected {expected})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise DataError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8 (expected text in UTF-8)") from None


def read_table(
    path: Path, columns: Sequence[str], expected: str, row_of: str = "pair"
) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Iterate over the rows of a CSV file with a header.

    Args:
        path: the file.
        columns: required columns, ``a or b`` for one of two; the file may have others.
        expected: what the header should be, for the error message.
        row_of: what a row describes, for error messages.

    Yields:
        ``FILE:LINE`` and the row.

    Raises:
        DataError: the file is missing, not UTF-8 or not CSV, lacks a column or has one twice, or has no row.
    """
    # newline="": csv handles line ends itself, and a quoted value may contain one. StringIO would take four bytes for
    # each character.
    content = io.BytesIO(read_text(path, f"a CSV file of {row_of}s").encode())
    reader = csv.DictReader(io.TextIOWrapper(content, "utf-8", newline=""), strict=True)
    row = None
    try:
        header = list(reader.fieldnames or [])
        if missing := [name for name in columns if not {*name.split(" or ")} & {*header}]:
            separators = {";": "semicolons", "\t": "tabs"}
            other = [word for mark, word in separators.items() if mark in ",".join(header)]
            cause = f"; this header has {other[0]}: separate the values by commas" if other else ""
            raise DataError(f"{path}:1: no column {missing[0]} (expected a header with {expected}){cause}")
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise DataError(f"{path}:1: the column {twice[0]} is there twice; rename or remove one of the two")
        for row in reader:
            yield f"{path}:{reader.line_num}", row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error} (expected values separated by commas)") from None
    if row is None:
        raise DataError(f"{path}: contains no {row_of}s (expected one line for each {row_of} after the header)")


def _read_block(lines: _Lines, count: int) -> list[Pair]:
    """Read ``count`` same pairs, then ``count`` different pairs."""
    same = [_read_same(lines, f"{count} lines of the form {_SAME}") for _ in range(count)]
    return same + [_read_different(lines, f"{count} lines of the form {_DIFFERENT}") for _ in range(count)]


def _read_same(lines: _Lines, expected: str) -> Pair:
    fields = lines.fields(expected)
    if len(fields) == 4:
        raise lines.error(f"a different pair {_shown(fields)} instead of a same pair", expected)
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
        raise lines.error(f"a same pair {_shown(fields)} instead of a different pair", expected)
    if len(fields) != 4:
        raise lines.error(f"{_shown(fields)} is not a different pair", expected)
    person1, person2 = lines.person(fields[0]), lines.person(fields[2])
    if person1 == person2:
        raise lines.error(f"both names are {_shown([person1])}", "two different people")
    return Pair(image_name(person1, lines.index(fields[1])), image_name(person2, lines.index(fields[3])), 0)


def _read_subset(lines: _Lines, size: int, seen: set[str]) -> dict[str, int]:
    """Read ``size`` people and add them to ``seen``; a person who is already there is an error."""
    subset: dict[str, int] = {}
    for _ in range(size):
        fields = lines.fields(f"{size} lines of the form 'name count'")
        if len(fields) != 2:
            raise lines.error(f"{_shown(fields)} is not a person", f"{size} lines of the form 'name count'")
        person, count = lines.person(fields[0]), lines.index(fields[1])
        if person in seen:
            raise lines.error(f"{_shown([person])} is listed twice", "each person once")
        seen.add(person)
        subset[person] = count
    return subset


def warn_of_duplicates(path: Path, pairs: Sequence[Pair]) -> None:
    """Log the number of duplicate pairs, if there are any."""
    if duplicates := len(pairs) - len({(min(pair[:2]), max(pair[:2])) for pair in pairs}):
        log.warning("%s: %s (kept)", path, count(duplicates, "duplicate pair"))


def _shown(fields: list[str]) -> str:
    """Format fields for a message: at most 80 characters, with unprintable characters escaped."""
    text = "\t".join(fields)
    return repr(text if len(text) <= 80 else text[:77] + "...")
