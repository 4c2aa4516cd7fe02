"""The synthetic data set on disk: LFW's layout, reproducible, complete or absent."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese.data.synthetic import __main__ as command
from siamese.data.synthetic import tree as synthetic
from siamese.data.synthetic.plan import FOLDS, SyntheticSpec, make_plan
from siamese.data.synthetic.traits import sample_person
from siamese.data.synthetic.tree import contact_sheet, is_written, render_share, write_lfw_tree
from siamese.errors import DataError

TINY = SyntheticSpec(train_people=14, test_people=8, train_pairs=24, test_pairs=12, view2_pairs=40, seed=3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "faces"
    write_lfw_tree(root, TINY, workers=1)
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="ascii").splitlines()]


def photos_of(row: list[str]) -> tuple[tuple[str, int], tuple[str, int]]:
    name, i, *rest = row
    return ((name, int(i)), (name, int(rest[0]))) if len(rest) == 1 else ((name, int(i)), (rest[0], int(rest[1])))


def people_in(path: Path) -> dict[str, int]:
    head, *people = rows(path)
    assert int(head[0]) == len(people)
    return {name: int(count) for name, count in people}


def fold_rows(root: Path) -> list[list[list[str]]]:
    (folds, number), *pairs = rows(root / "pairs.txt")
    step = 2 * int(number)
    assert int(folds) == FOLDS
    assert len(pairs) == FOLDS * step
    return [pairs[k : k + step] for k in range(0, len(pairs), step)]


def fold_people(root: Path) -> list[set[str]]:
    lines = iter(rows(root / "people.txt"))
    folds = int(next(lines)[0])
    return [{next(lines)[0] for _ in range(int(next(lines)[0]))} for _ in range(folds)]


@pytest.mark.integration
def test_files_do_not_depend_on_the_number_of_workers(tree, tmp_path):
    write_lfw_tree(tmp_path / "two", TINY, workers=2)
    assert digests(tmp_path / "two") == digests(tree)


def test_another_seed_gives_other_people_and_photos(tmp_path):
    first, other = (next(render_share(tmp_path, replace(TINY, seed=seed), 0, 1)) for seed in (3, 4))
    assert first.name != other.name
    assert first.read_bytes() != other.read_bytes()


def test_the_photos_on_disk_are_those_of_the_lists(tree):
    train, test = people_in(tree / "peopleDevTrain.txt"), people_in(tree / "peopleDevTest.txt")
    assert (len(train), len(test)) == (14, 8)
    assert not set(train) & set(test)
    assert set().union(*fold_people(tree)) == set(train) | set(test)
    names = [f"{name}/{name}_{k:04d}.jpg" for name, n in (train | test).items() for k in range(1, n + 1)]
    found = [path.relative_to(tree / "lfw").as_posix() for path in (tree / "lfw").rglob("*.jpg")]
    assert sorted(names) == sorted(found)
    assert all(name.replace("_", "").isalpha() and name.isascii() for name in train | test)
    with Image.open(tree / "lfw" / names[0]) as photo:
        assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (250, 250))
    assert json.loads((tree / "synthetic.json").read_text())["train_people"] == 14


@pytest.mark.parametrize(("subset", "pairs"), [("DevTrain", 24), ("DevTest", 12)])
def test_view_1_pairs_are_balanced_distinct_and_of_their_own_people(tree, subset, pairs):
    people = people_in(tree / f"people{subset}.txt")
    (number,), *lines = rows(tree / f"pairs{subset}.txt")
    assert int(number) * 2 == len(lines) == pairs
    assert [len(line) for line in lines] == [3] * (pairs // 2) + [4] * (pairs // 2)
    check_pairs(lines, people)


def check_pairs(lines: list[list[str]], people: dict[str, int]) -> None:
    seen = [frozenset(photos_of(line)) for line in lines]
    assert all(len(pair) == 2 for pair in seen)
    assert len(set(seen)) == len(seen)
    for line, pair in zip(lines, seen, strict=True):
        assert all(1 <= k <= people[name] for name, k in pair)
        assert len({name for name, _ in pair}) == (1 if len(line) == 3 else 2)


def test_view_2_folds_are_balanced_and_share_nobody(tree):
    everybody = people_in(tree / "peopleDevTrain.txt") | people_in(tree / "peopleDevTest.txt")
    folds = fold_people(tree)
    assert sum(map(len, folds)) == len(set().union(*folds)) == len(everybody)
    for lines, members in zip(fold_rows(tree), folds, strict=True):
        assert [len(line) for line in lines] == [3] * 2 + [4] * 2
        assert {name for line in lines for name, _ in photos_of(line)} <= members
        check_pairs(lines, everybody)


def test_a_complete_tree_is_left_alone(tree, monkeypatch):
    monkeypatch.setattr(synthetic, "_render_all", lambda *_: pytest.fail("drew again"))
    before = (tree / "synthetic.json").stat().st_mtime_ns
    write_lfw_tree(tree, TINY)
    assert (tree / "synthetic.json").stat().st_mtime_ns == before
    assert is_written(tree, TINY)
    assert not is_written(tree, SyntheticSpec())


def test_a_new_generator_version_makes_a_tree_stale(tree, monkeypatch):
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", 10**6)
    assert not is_written(tree, TINY)


@pytest.mark.parametrize("content", ["photo.jpg", "synthetic.json"])
def test_a_folder_with_other_files_is_refused_and_kept(tmp_path, content):
    root = tmp_path / "mine"
    root.mkdir()
    (root / content).write_text("{}")
    with pytest.raises(DataError, match=r"mine.*data\.root"):
        write_lfw_tree(root, TINY)
    assert (root / content).read_text() == "{}"


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_render_all", lambda *_: None)
    (tmp_path / "empty").mkdir()
    write_lfw_tree(tmp_path / "empty", TINY)
    assert is_written(tmp_path / "empty", TINY)


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_lists", interrupt)
    monkeypatch.setattr(synthetic, "_render_all", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        write_lfw_tree(tmp_path / "faces", TINY)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


@pytest.mark.integration
def test_a_failed_worker_is_an_error_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_manifest", lambda _: {})
    monkeypatch.setattr(synthetic.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="draws faces"):
        write_lfw_tree(tmp_path / "faces", TINY, workers=2)
    assert not (tmp_path / "faces").exists()


def test_leftovers_of_a_killed_process_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "_render_all", lambda *_: None)
    (tmp_path / ".faces.unfinished" / "lfw" / "Old").mkdir(parents=True)
    write_lfw_tree(tmp_path / "faces", TINY)
    assert not (tmp_path / "faces" / "lfw" / "Old").exists()
    assert not (tmp_path / ".faces.unfinished").exists()


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.root") as caught:
        write_lfw_tree(tmp_path / "file" / "faces", TINY)
    assert "\n" not in str(caught.value)


def test_the_contact_sheet_has_a_row_for_each_person(tmp_path, monkeypatch):
    small = contact_sheet(1, people=2, photos=3, side=50)
    assert small.size == (3 * 54 + 4, 2 * 54 + 4)
    monkeypatch.setattr(command, "contact_sheet", lambda _: small)
    command.main(["--contact-sheet", str(tmp_path / "docs" / "faces.png"), "--seed", "1"])
    with Image.open(tmp_path / "docs" / "faces.png") as picture:
        assert picture.size == small.size


def test_the_groups_are_those_of_the_drawn_people(tree):
    with (tree / "groups.csv").open(newline="", encoding="utf-8") as file:
        groups = {row.pop("person"): row for row in csv.DictReader(file)}
    assert groups.keys() == make_plan(TINY).people.keys()
    for index, name in enumerate(make_plan(TINY).people):
        person = sample_person(np.random.default_rng([TINY.seed, index, 0]))
        assert (groups[name]["glasses"] == "yes") == (person.glasses != "none")
        assert (groups[name]["gender"] == "male") or person.beard == "none"
    assert all(len({row[column] for row in groups.values()}) > 1 for column in ("gender", "age_group", "skin_tone"))


def test_a_tree_of_an_older_version_gets_its_groups(tree, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(tree, old)
    (old / "groups.csv").unlink()
    write_lfw_tree(old, TINY)
    assert digests(old) == digests(tree)
