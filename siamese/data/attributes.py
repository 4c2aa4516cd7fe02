"""The file of the key ``groups``: which value each image or person has of one or more attributes, such as gender.

A CSV file. Its first column is ``image`` (as in the data set: ``Name/Name_0001.jpg``) or ``person`` (the first folder
of an image), each other column is an attribute. An empty cell means that the value is unknown.

Imports no torch, so that the file is checked quickly before a run starts.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from siamese.data.lists import Pair, person_of, read_table
from siamese.data.spelling import normalised
from siamese.errors import DataError
from siamese.runs.tables import Prediction
from siamese.text import count

MOST_VALUES = 30
"""More values of one attribute are an error: a column such as an age in years makes groups of hardly any pairs."""


class Attributes(NamedTuple):
    """What a file of groups says.

    Attributes:
        path: the file.
        unit: ``image`` or ``person``.
        names: the attributes.
        rows: image or person -> the values of all attributes, in the order of ``names``; empty if unknown.
    """

    path: Path
    unit: str
    names: Sequence[str]
    rows: Mapping[str, Sequence[str]]

    def unit_of(self, image: str) -> str:
        """The name under which the file would list an image: its own or its person's."""
        return person_of(image) if self.unit == "person" else normalised(image)

    def values(self, image: str) -> Sequence[str]:
        """The values of all attributes of an image; empty if unknown."""
        return self.rows.get(self.unit_of(image)) or [""] * len(self.names)


def read_attributes(path: Path) -> Attributes:
    """Read a file of groups.

    Raises:
        DataError: the file is missing, not UTF-8 or malformed, lacks a column, or lists a name twice with different
            values; the message names the file and the line.
    """
    header = "image or person, then one or more attributes such as gender, separated by commas"
    unit, names = "", list[str]()
    rows: dict[str, list[str]] = {}
    for where, row in read_table(path, ["image or person"], header, row_of="group"):
        if not unit:
            unit, names = _columns(path, list(row), header)
        if None in row or None in row.values():
            raise DataError(f"{where}: not as many values as the header has columns, {len(names) + 1}")
        cells = {column: (value or "").strip() for column, value in row.items()}
        name, values = cells[unit], [cells[attribute] for attribute in names]
        if not name:
            raise DataError(f"{where}: no name in the column {unit}")
        name = normalised(posixpath.normpath(name))
        if rows.setdefault(name, values) != values:
            raise DataError(f"{where}: {unit} {name!r} is listed before with other values; remove one of the two lines")
    return Attributes(path, unit, names, rows)


def _columns(path: Path, columns: list[str | None], expected: str) -> tuple[str, list[str]]:
    unit, *names = [column for column in columns if column is not None]
    if unit not in ("image", "person"):
        raise DataError(f"{path}:1: the first column is {unit!r} (expected a header with {expected})")
    if not names or "" in map(str.strip, names):
        raise DataError(f"{path}:1: {'a column without a name' if names else 'no attribute'} (expected {expected})")
    if {"image", "person"} & set(names):
        raise DataError(f"{path}:1: columns for both image and person; keep one of them, as the first column")
    return unit, names


def check_attributes(attributes: Attributes, pairs: Sequence[Pair] | Sequence[Prediction]) -> str:
    """Check a file of groups against the test pairs.

    Returns:
        a warning if some of the test images or people are not in the file; otherwise empty.

    Raises:
        DataError: it has none of them, or no value or too many values of an attribute.
    """
    images = {image for pair in pairs for image in (pair.image1, pair.image2)}
    units = {attributes.unit_of(image) for image in images}
    listed = units & attributes.rows.keys()
    plural = "images" if attributes.unit == "image" else "people"
    if not listed:
        raise DataError(
            f"{attributes.path}: has none of the {len(units):,} test {plural}; its first {attributes.unit} is "
            f"{next(iter(attributes.rows))!r}, but the test has for example {min(units)!r}"
        )
    for name, values in zip(
        attributes.names, zip(*(attributes.rows[unit] for unit in listed), strict=True), strict=True
    ):
        if set(values) == {""}:
            raise DataError(
                f"{attributes.path}: the column {name} has no value for any test {attributes.unit}; remove it"
            )
        if len(distinct := set(values)) > MOST_VALUES:
            raise DataError(
                f"{attributes.path}: the column {name} has {len(distinct)} values in the test (at most {MOST_VALUES}); "
                "combine them into groups, such as 20-39, or remove the column"
            )
    if missing := len(units) - len(listed):
        return (
            f"{attributes.path} lacks {missing:,} of {count(len(units), f'test {attributes.unit}', f'test {plural}')}: "
            "their groups are unknown"
        )
    return ""


def pair_values(
    attributes: Attributes, pairs: Iterable[Pair] | Iterable[Prediction]
) -> dict[str, list[tuple[str, str]]]:
    """Return, for each attribute, the values of both images of each pair; empty if unknown."""
    both = [(attributes.values(pair.image1), attributes.values(pair.image2)) for pair in pairs]
    return {name: [(one[k], other[k]) for one, other in both] for k, name in enumerate(attributes.names)}
