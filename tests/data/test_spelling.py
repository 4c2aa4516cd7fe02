"""Names of people and images that differ only in Unicode normalisation are one."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import noise_photo

from siamese.config.data import PairsData
from siamese.config.defaults import data_config
from siamese.config.protocol import View1Protocol
from siamese.data.folder import find_people, skipped_files
from siamese.data.lists import Pair, identities
from siamese.data.pair_list import read_listed_pairs
from siamese.data.protocol import (
    TEST_LIST,
    TEST_PEOPLE_LIST,
    TRAIN_LIST,
    TRAIN_PEOPLE_LIST,
    read_listed,
    read_test_people,
)
from siamese.errors import DataError

Form = Callable[[str], str]

UNRESTRICTED = View1Protocol(name="view1", setting="unrestricted")


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def read_tested(file: Path) -> list[Pair]:
    """The pairs of a list without sets."""
    data = data_config({"name": "pairs", "list": str(file)})
    assert isinstance(data, PairsData)
    return read_listed_pairs(data, test_only=True).test


NAMES = ["José", "Zoë Núñez", "한국"]
FORMS = [(nfc, nfd), (nfd, nfc), (nfc, nfc)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("listed", "on_disk"), FORMS)
def test_a_list_of_pairs_finds_images_in_the_other_form(name: str, listed: Form, on_disk: Form, tmp_path: Path) -> None:
    for image in (f"{name}/{name} 1.png", f"{name}/2.png", "Bob/1.png"):
        noise_photo(tmp_path / on_disk(image))
    rows = [f"{name}/{name} 1.png,{name}/2.png,1", f"Bob/1.png,{name}/2.png,0"]
    (tmp_path / "list.csv").write_text("\n".join(["image1,image2,label", *map(listed, rows)]), encoding="utf-8")
    test = read_tested(tmp_path / "list.csv")
    assert all((tmp_path / image).is_file() for pair in test for image in pair[:2])
    assert {person for image, person in identities(test).items()} == {nfc(name), "Bob"}


def test_both_forms_of_an_image_in_a_list_are_one_image(tmp_path: Path) -> None:
    noise_photo(tmp_path / nfd("é/1.png"))
    noise_photo(tmp_path / "Bob/1.png", seed=1)
    file = tmp_path / "list.csv"
    rows = ["image1,image2,label", f"{nfc('é')}/1.png,Bob/1.png,0"]
    file.write_text("\n".join([*rows, f"{nfd('é')}/1.png,Bob/1.png,1"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"list\.csv:3: this pair is also listed with the other label"):
        read_tested(file)
    file.write_text("\n".join([*rows, f"{nfc('é')}/1.png,{nfd('é')}/1.png,1"]), encoding="utf-8")
    with pytest.raises(DataError, match="is paired with itself"):
        read_tested(file)
    # So they are if both are on disk with the same content; with other content, they are two photos.
    shutil.copytree(tmp_path / nfd("é"), tmp_path / nfc("é"))
    with pytest.raises(DataError, match="is paired with itself"):
        read_tested(file)
    noise_photo(tmp_path / nfc("é/1.png"), seed=2)
    test = read_tested(file)
    assert len(test) == 2


def test_an_image_that_is_in_neither_form_keeps_its_name(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("image1,image2,label\né/1.png,Bob/1.png,0\né/1.png,é/2.png,1\n", encoding="utf-8")
    test = read_tested(file)
    assert [pair.image1 for pair in test] == ["é/1.png", "é/1.png"]


@pytest.mark.parametrize("name", ["é", "Zoë 1", "한국"])
def test_copies_of_a_photo_in_the_other_form_are_one(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for form in (nfc, nfd):
        noise_photo(tmp_path / f"Ada/{form(name)}.png")
        noise_photo(tmp_path / f"{form(name)}/1.png", seed=1)
        noise_photo(tmp_path / f"{form(name)}/2.png", seed=2 if form == nfc else 3)  # other photos of equal names
    people = find_people(tmp_path)
    assert {person: len(photos) for person, photos in people.items()} == {"Ada": 1, nfc(name): 3}
    assert "ignored 2 copies of photos whose names look the same" in caplog.text
    assert [(one.kind, one.files) for one in skipped_files(tmp_path)] == [
        ("copy under a name in another Unicode normalisation", 2)
    ]


@pytest.mark.parametrize(("listed", "on_disk"), FORMS)
def test_lists_in_the_layout_of_lfw_find_images_in_the_other_form(listed: Form, on_disk: Form, tmp_path: Path) -> None:
    for name in ("José", "Zoë", "Ångström", "Bob"):
        for number in (1, 2):
            noise_photo(tmp_path / on_disk(f"lfw/{name}/{name}_{number:04d}.jpg"))
    for file, text in {
        TRAIN_LIST: "1\nJosé\t1\t2\nJosé\t1\tBob\t2\n",
        TEST_LIST: "1\nZoë\t1\t2\nZoë\t1\tÅngström\t2\n",
        TRAIN_PEOPLE_LIST: "2\nJosé\t2\nBob\t2\n",
        TEST_PEOPLE_LIST: "2\nZoë\t2\nÅngström\t2\n",
    }.items():
        (tmp_path / file).write_text(listed(text), encoding="utf-8")
    data = data_config({"name": "lfw", "root": str(tmp_path)})
    found = read_listed(data, UNRESTRICTED)
    people = {**(found.people or {}), **read_test_people(data)}
    names = {*found.image_names(), *(image for images in people.values() for image in images)}
    assert len(names) == 8
    assert all((tmp_path / "lfw" / name).is_file() for name in names)
    assert set(people) == set(map(nfc, ("José", "Zoë", "Ångström", "Bob")))
    (tmp_path / TRAIN_PEOPLE_LIST).write_text(on_disk("2\nJosé\t2\nZoë\t2\n"), encoding="utf-8")
    with pytest.raises(DataError, match="also in the test pairs"):
        read_listed(data, UNRESTRICTED)
