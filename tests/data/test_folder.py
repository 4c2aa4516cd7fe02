"""``data=folder``: which photos are found, who is in which set, and the pairs that are drawn."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from configs import section
from conftest import noise_photo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamese.config.data import FolderData
from siamese.data.folder import ENUMERATED, divide_people, draw_pairs, find_people, find_photos
from siamese.data.lists import Pair, People
from siamese.data.own import read_own
from siamese.data.split import SPLITS
from siamese.errors import DataError


def folder_data(root: Path, **options: Any) -> FolderData:
    return section("data", name="folder", root=str(root), **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten people with one to four photos of many types and sizes, and other files that such folders contain."""
    root = tmp_path / "photos"
    endings = ("jpg", "png", "JPEG", "webp", "bmp", "tiff", "gif")
    for person in range(10):
        for k in range(1 + person % 4 if person else 3):
            seed = 10 * person + k
            noise_photo(
                root / f"person {person}" / f"été {k}.{endings[seed % 7]}", seed, (20 + seed % 5, 30 + seed % 7)
            )
    noise_photo(root / "person 3" / "2024" / "deep.png", 99)
    noise_photo(root / "person 3" / ".hidden.png")
    noise_photo(root / "loose.png")
    (root / "person 4" / "notes.txt").write_text("no photo")
    (root / "empty").mkdir()
    (root / ".thumbnails").mkdir()
    noise_photo(root / ".thumbnails" / "a.png")
    (root / "person 3" / "again").symlink_to(root / "person 3")
    return root


def test_photos_are_found_and_nothing_else(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = find_people(photos)
    assert sorted(people) == [f"person {k}" for k in range(10)]
    assert len(people["person 3"]) == 5
    assert "person 3/2024/deep.png" in people["person 3"]
    assert {name.partition("/")[0] for names in people.values() for name in names} == set(people)
    assert "ignored 1 photo that is not in a person's folder" in caplog.text


def test_pictures_of_runs_are_no_photos(photos: Path) -> None:
    """A run that is started in the folder of the photos writes its own folder there."""
    expected = find_people(photos)
    noise_photo(photos / "outputs/2026-11-27/12-00-00/gallery.png")
    (photos / "outputs/2026-11-27/12-00-00/result.json").write_text("{}")
    assert find_people(photos) == expected


def test_the_current_folder_is_a_root_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = find_people(photos)
    monkeypatch.chdir(photos)
    for root in (Path(), Path("./"), Path("../photos")):
        assert find_people(root) == expected
        assert find_photos(root) == find_photos(photos)


def test_a_name_that_is_not_utf8_is_ignored(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = find_people(photos)
    (photos / "person 1" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert find_people(photos) == before
    assert "ignored 1 photo whose name is not UTF-8" in caplog.text


def test_what_is_skipped_is_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        "Ada/1.jpg", "Ada/2.JPG", "Ada/@eaDir/1.jpg/SYNOPHOTO_THUMB.jpg", "Ada/IMG_1.HEIC", "Ada/IMG_2.heic",
        "Ada/IMG_2.mov", "Ada/raw.CR2", "Ada/notes", "Ada/.DS_Store", "Bob/1.png", "Bob/Thumbs.db",
        "Bob/train.py", "Bob/last.ckpt",
        "__MACOSX/Ada/1.jpg",
        "$RECYCLE.BIN/3.jpg", "System Volume Information/4.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(Image.OPEN, "HEIF", raising=False)
        people = find_people(tmp_path)
    assert people == {"Ada": ["Ada/1.jpg", "Ada/2.JPG"], "Bob": ["Bob/1.png"]}
    (told,) = caplog.messages
    assert "2 .heic files (to use them: pip install -e '.[heic]')" in told
    assert "1 .mov file (to use them: save frames that show a face as JPEG)" in told
    for part in (
        "1 .cr2 file (",
        "1 .db file (no photos)",
        "1 .py file (no photos)",
        "1 .ckpt file (no photos)",
        "1 file without an ending (if they are photos: rename them",
        "1 file in @eaDir (made by",
        "__MACOSX",
    ):
        assert part in told
    assert "$RECYCLE.BIN" in told
    assert "System Volume Information" in told


@pytest.mark.parametrize("name", ["José", "Zoë Núñez", "한국", "ﬁ"])
def test_folders_that_differ_in_normalisation_are_one_person(name: str, tmp_path: Path) -> None:
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    for k, form in enumerate(forms):
        noise_photo(tmp_path / form / f"{k}.png")
    assert {person: len(photos) for person, photos in find_people(tmp_path).items()} == {
        unicodedata.normalize("NFC", name): len(forms)
    }


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["export/Ada", "export/Bob"],
            r"only the folder export, with the folders of 2 people; give data\.root=.*/export$",
        ),
        (["data/images/Ada", "data/images/Bob/2024"], r"only the folder data/images, .* data\.root=.*/data/images$"),
        (["data/train/Ada", "data/test/Bob"], r"only the folder data, .* give data\.root=.*/data$"),
        (["train/Ada", "train/Bob", "test/Eve"], r"divided into the sets test, train; give data\.root=.*/train, "),
        (["Train/Ada", "Val/Eve"], r"divided into the sets Train, Val; .* score the run on .*/Val with eval\.py"),
        (["Ada/2024", "Bob/2025", "test/Eve"], None),  # albums of people
        (["train", "test"], None),  # people, although of strange names
        (["export/Ada"], None),  # one person with an album
    ],
)
def test_people_that_lie_deeper_are_noticed(folders: list[str], message: str | None, tmp_path: Path) -> None:
    for folder in folders:
        noise_photo(tmp_path / folder / "1.png")
    if message is None:
        assert set(find_people(tmp_path)) == {folder.split("/")[0] for folder in folders}
    else:
        with pytest.raises(DataError, match=message):
            find_people(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder; choose one that contains a folder of photos for each person"),
        (lambda root: root.mkdir(), "none of its subfolders contains a photo"),
        (lambda root: noise_photo(root / "a.png"), "none of its subfolders contains a photo"),
        (
            lambda root: [noise_photo(root / str(k // 2) / f"{k}.png") for k in range(10)],
            "only 5 people have two or more photos",
        ),
    ],
)
def test_unusable_folders(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(DataError, match=message):
        read_own(folder_data(tmp_path / "photos"))


@given(
    counts=st.lists(st.integers(1, 6), min_size=8, max_size=40).filter(lambda c: sum(n > 1 for n in c) >= 6),
    seed=st.integers(0, 2**31),
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)),
)
def test_each_person_is_in_one_set_and_pairs_are_balanced(
    counts: list[int], seed: int, shares: tuple[float, float]
) -> None:
    people = {f"p{k}": [f"p{k}/{i}.png" for i in range(n)] for k, n in enumerate(counts)}
    data = folder_data(Path("x"), split_seed=seed, test_fraction=shares[0], val_fraction=shares[1])
    sets = divide_people(people, data)
    assert Counter(name for part in sets for name in part) == Counter(list(people))
    for part in sets:
        assert sum(len(images) > 1 for images in part.values()) >= 2
        for number in (2, 6, 200):
            pairs = draw_pairs(part, number, seed, "val")
            assert 0 < len(pairs) <= number
            assert sum(pair.label for pair in pairs) * 2 == len(pairs)
            assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs)
            for one, other, label in pairs:
                assert one in part[one.partition("/")[0]]
                assert other in part[other.partition("/")[0]]
                assert (one.partition("/")[0] == other.partition("/")[0]) == bool(label)
                assert one != other


def test_fractions_are_exact_and_few_people_move_if_one_is_removed() -> None:
    people = {f"p{k}": [f"p{k}/1.png", f"p{k}/2.png"] for k in range(200)}
    data = folder_data(Path("x"), test_fraction=0.25, val_fraction=0.2)
    sets = divide_people(people, data)
    assert [len(part) for part in sets] == [120, 30, 50]
    moved = 0
    for gone in list(people)[:20]:
        fewer = divide_people({name: images for name, images in people.items() if name != gone}, data)
        moved = max(moved, sum(len(set(part) - set(before)) for part, before in zip(fewer, sets, strict=True)))
    assert moved <= 2


def test_pairs_of_many_photos_are_spread_over_the_people() -> None:
    people = {f"p{k}": [f"p{k}/{i}.png" for i in range(300 if k == 0 else 3)] for k in range(50)}
    same = Counter(pair.image1.partition("/")[0] for pair in draw_pairs(people, 200, 0, "train") if pair.label)
    assert set(same.values()) == {2}
    assert sum(same.values()) == 100
    assert (
        draw_pairs(people, 200, 0, "train")
        == draw_pairs(people, 200, 0, "train")
        != draw_pairs(people, 200, 1, "train")
    )


def slow_draw_pairs(people: People, number: int, seed: int, split: str, enumerated: int = ENUMERATED) -> list[Pair]:
    """Reference for `draw_pairs`: lists all pairs of each person, and all photos."""

    def of_person(photos: list[str]) -> Iterator[tuple[str, str]]:
        n = len(photos)
        if n <= enumerated:
            pairs = list(itertools.combinations(range(n), 2))
            yield from ((photos[i], photos[j]) for i, j in (pairs[k] for k in rng.permutation(len(pairs))))
            return
        seen: set[tuple[int, int]] = set()
        while len(seen) < n * (n - 1) // 4:
            i, j = sorted(rng.integers(n, size=2).tolist())
            if i != j and (i, j) not in seen:
                seen.add((i, j))
                yield photos[i], photos[j]

    def across() -> Iterator[tuple[str, str]]:
        names = list(people)
        photos = [(name, photo) for name in names for photo in people[name]]
        if len(photos) <= enumerated:
            pairs = [(a, b) for (x, a), (y, b) in itertools.combinations(photos, 2) if x != y]
            yield from (pairs[k] for k in rng.permutation(len(pairs)))
            return
        total = (len(photos) ** 2 - sum(len(images) ** 2 for images in people.values())) // 2
        seen: set[frozenset[str]] = set()
        while len(seen) < total // 2:
            one, other = (names[k] for k in rng.choice(len(names), 2, replace=False))
            first, second = (people[name][rng.integers(len(people[name]))] for name in (one, other))
            if (pair := frozenset((first, second))) not in seen:
                seen.add(pair)
                yield first, second

    rng = np.random.default_rng([seed, SPLITS.index(split)])
    pools = [of_person(photos) for photos in people.values()]
    same: list[Pair] = []
    while pools and len(same) < number // 2:
        left = []
        for k in rng.permutation(len(pools)):
            found = next(pools[k], None)
            if found is not None and len(same) < number // 2:
                same.append(Pair(min(found), max(found), 1))
                left.append(pools[k])
        pools = left
    different = [Pair(min(pair), max(pair), 0) for pair in itertools.islice(across(), len(same))]
    same = same[: len(different)]
    return sorted(same) + sorted(different)


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    enumerated=st.integers(0, 80),  # from "all pairs are drawn at random" to "all pairs are listed"
    number=st.integers(0, 400),
    seed=st.integers(0, 2**31),
    split=st.sampled_from(SPLITS),
)
def test_pairs_are_those_of_the_slow_reference(
    counts: list[int], enumerated: int, number: int, seed: int, split: str
) -> None:
    people = {f"p{k}": [f"p{k}/{i}.png" for i in range(n)] for k, n in enumerate(counts) if n}
    with mock.patch("siamese.data.folder.ENUMERATED", enumerated):
        assert draw_pairs(people, number, seed, split) == slow_draw_pairs(people, number, seed, split, enumerated)


@pytest.mark.parametrize(("photos", "number"), [(199, 40), (200, 3000), (201, 40)])
def test_pairs_of_people_with_many_photos_are_those_of_the_slow_reference(photos: int, number: int) -> None:
    people = {f"p{k}": [f"p{k}/{i}.png" for i in range(photos)] for k in range(5)}
    assert draw_pairs(people, number, 3, "test") == slow_draw_pairs(people, number, 3, "test")


def test_photos_of_a_folder_are_found_at_any_depth(photos: Path) -> None:
    found = find_photos(photos)
    assert found == find_photos(photos)
    assert {"loose.png", "person 3/2024/deep.png"} < set(found)
    with pytest.raises(DataError, match="contains no photo"):
        find_photos(photos / "empty")
