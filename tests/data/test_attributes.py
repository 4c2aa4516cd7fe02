"""The file of the key groups: what is read, what is refused, and how it is compared with the test pairs."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from siamese.data.attributes import MOST_VALUES, check_attributes, pair_values, read_attributes
from siamese.data.lists import Pair
from siamese.errors import DataError

PAIRS = [Pair("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", 1), Pair("Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg", 0)]


def written(folder: Path, content: str | bytes) -> Path:
    file = folder / "groups.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    "content",
    [
        "person,gender,age\nAnn,f,\nBob,m,old\n",
        "\ufeffperson,gender,age\r\nAnn,f,\r\nBob,m,old\r\n",
        'person,gender,age\n"Ann", f ,\nAnn,f,\nBob,m,old',
    ],
    ids=["plain", "as spreadsheets write it", "spaces and a name twice"],
)
def test_values_of_people(content: str, tmp_path: Path) -> None:
    attributes = read_attributes(written(tmp_path, content))
    assert check_attributes(attributes, PAIRS) == ""
    assert pair_values(attributes, PAIRS) == {"gender": [("f", "f"), ("f", "m")], "age": [("", ""), ("", "old")]}


def test_values_of_images_and_of_images_that_are_not_listed(tmp_path: Path) -> None:
    attributes = read_attributes(written(tmp_path, "image,pose\nAnn/Ann_0001.jpg,front\n./Bob//Bob_0001.jpg,side\n"))
    assert pair_values(attributes, PAIRS) == {"pose": [("front", ""), ("front", "side")]}
    assert "lacks 1 of 3 test images: their groups are unknown" in check_attributes(attributes, PAIRS)


def test_names_in_another_unicode_normalisation(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD")]
    for listed, other in (names, names[::-1]):
        attributes = read_attributes(written(tmp_path, f"person,gender\n{listed},f\n"))
        assert attributes.values(f"{other}/{other}_0001.jpg") == ["f"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "groups.csv: no such file (expected a CSV file of groups)"),
        ("", "groups.csv:1: no column image or person (expected a header with image or person, then"),
        ("Ann,f\nBob,m\n", "groups.csv:1: no column image or person"),
        ("name,gender\nAnn,f\n", "groups.csv:1: no column image or person"),
        ("gender,person\nf,Ann\n", "groups.csv:1: the first column is 'gender'"),
        ("person;gender\nAnn;f\n", "this header has semicolons: separate the values by commas"),
        ("person\nAnn\n", "groups.csv:1: no attribute"),
        ("person,gender,\nAnn,f,\n", "groups.csv:1: a column without a name"),
        ("person,gender,gender\nAnn,f,m\n", "groups.csv:1: the column gender is there twice"),
        ("person,gender\n", "groups.csv: contains no groups (expected one line for each group"),
        ("person,gender\nAnn,f\nBob,m\nAnn,m\n", "groups.csv:4: person 'Ann' is listed before with other values"),
        ("person,gender\nAnn,f,1\n", "groups.csv:2: not as many values as the header has columns, 2"),
        ("person,gender\nAnn\n", "groups.csv:2: not as many values as the header has columns, 2"),
        ("person,gender\n,f\n", "groups.csv:2: no name in the column person"),
        ("person,gender\nZo\u00e9,f\n".encode("latin-1"), "groups.csv:2: byte 0xe9 is not UTF-8"),
        ("person,gender\nAnn,f\n".encode("utf-16"), "groups.csv:1: byte 0xff is not UTF-8"),
    ],
)
def test_what_is_refused(content: str | bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "groups.csv" if content is None else written(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_attributes(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_that_match_nothing_are_refused(tmp_path: Path) -> None:
    attributes = read_attributes(written(tmp_path, "image,gender\nAnn_0001.jpg,f\n"))
    with pytest.raises(
        DataError, match=r"none of the 3 test images; its first image is 'Ann_0001.jpg', .* 'Ann/Ann_0001"
    ):
        check_attributes(attributes, PAIRS)


def test_an_attribute_without_a_value_is_refused(tmp_path: Path) -> None:
    attributes = read_attributes(written(tmp_path, "person,gender,age\nAnn,f,\nBob,m,\nCid,m,old\n"))
    with pytest.raises(DataError, match=r"groups\.csv: the column age has no value for any test person; remove it"):
        check_attributes(attributes, PAIRS)


def test_a_file_of_images_and_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"groups\.csv:1: columns for both image and person; keep one of them"):
        read_attributes(written(tmp_path, "person,image,pose\nAnn,Ann/Ann_0001.jpg,front\n"))


def test_a_column_that_makes_no_groups_is_refused(tmp_path: Path) -> None:
    pairs = [Pair(f"P{k}/1.jpg", f"P{k + 1}/1.jpg", 0) for k in range(MOST_VALUES)]
    rows = "".join(f"P{k},{k % MOST_VALUES},{k}\n" for k in range(MOST_VALUES + 1))
    attributes = read_attributes(written(tmp_path, f"person,decade,age\n{rows}"))
    with pytest.raises(DataError, match=f"the column age has {MOST_VALUES + 1} values .* remove the column"):
        check_attributes(attributes, pairs)
