"""Photos of one's own: folders of people and lists of pairs, from the files to a run and its evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import eval_config, image_options, section, train_config
from conftest import noise_photo, read_rows, run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamese.config.data import FolderData
from siamese.config.schema import TrainConfig
from siamese.data.images import decode
from siamese.data.lists import Pair, identities
from siamese.data.own import deal_people, draw_pairs, find_people, read_own, read_pair_list
from siamese.data.split import people_split
from siamese.errors import ConfigError, DataError
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder

Make = Callable[..., TrainConfig]

RESNET = {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 8}


def folder_data(root: Path, **options: Any) -> FolderData:
    return section("data", name="folder", root=str(root), **options)


def write_list(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten people with one to four photos of many types and sizes, and what lies about in such folders."""
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


# --- folders ----------------------------------------------------------------------------------------------


def test_photos_are_found_and_nothing_else(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = find_people(photos)
    assert sorted(people) == [f"person {k}" for k in range(10)]
    assert len(people["person 3"]) == 5
    assert "person 3/2024/deep.png" in people["person 3"]
    assert {name.partition("/")[0] for names in people.values() for name in names} == set(people)
    assert "1 photos left out that lie in no person's folder" in caplog.text


def test_a_name_that_is_no_text_is_left_out(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = find_people(photos)
    (photos / "person 1" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    assert find_people(photos) == before
    assert "1 photos left out whose names are not UTF-8" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no such folder; name one that holds a folder of photos for each person"),
        (lambda root: root.mkdir(), "no folder in it holds a photo"),
        (lambda root: noise_photo(root / "a.png"), "no folder in it holds a photo"),
        (
            lambda root: [noise_photo(root / str(k // 2) / f"{k}.png") for k in range(10)],
            "5 of its 5 people have two photos",
        ),
    ],
)
def test_a_folder_that_will_not_do(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "photos")
    with pytest.raises(DataError, match=message):
        read_own(folder_data(tmp_path / "photos"))


@given(
    counts=st.lists(st.integers(1, 6), min_size=8, max_size=40).filter(lambda c: sum(n > 1 for n in c) >= 6),
    seed=st.integers(0, 2**31),
    shares=st.tuples(st.floats(0.05, 0.9), st.floats(0.05, 0.9)),
)
def test_people_are_parted(counts: list[int], seed: int, shares: tuple[float, float]) -> None:
    people = {f"p{k}": [f"p{k}/{i}.png" for i in range(n)] for k, n in enumerate(counts)}
    data = folder_data(Path("x"), split_seed=seed, test_fraction=shares[0], val_fraction=shares[1])
    sets = deal_people(people, data)
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


def test_shares_are_as_asked_and_few_move_when_one_goes() -> None:
    people = {f"p{k}": [f"p{k}/1.png", f"p{k}/2.png"] for k in range(200)}
    data = folder_data(Path("x"), test_fraction=0.25, val_fraction=0.2)
    sets = deal_people(people, data)
    assert [len(part) for part in sets] == [120, 30, 50]
    moved = 0
    for gone in list(people)[:20]:
        fewer = deal_people({name: images for name, images in people.items() if name != gone}, data)
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


# --- lists ------------------------------------------------------------------------------------------------

HEADER = "image1,image2,label"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ":1: no column image1"),
        (["a.png,b.png,1"], ":1: no column image1"),
        (["image1;image2;label", "a.png;b.png;1"], ":1: no column image1 .*separated by commas"),
        (["image1,image2", "a,b"], ":1: no column label"),
        ([HEADER], "no pairs in it"),
        ([HEADER, "a.png,b.png,yes"], ":2: label is 'yes'"),
        ([HEADER, "a.png,b.png"], ":2: label is None"),
        ([HEADER, "a.png,b.png,1", "a.png,a.png,1"], ":3: 'a.png' is paired with itself"),
        ([HEADER, "../a.png,b.png,1"], ":2: impossible image '../a.png'"),
        ([HEADER, "x/../../a.png,b.png,1"], ":2: impossible image"),
        ([HEADER, "/etc/a.png,b.png,1"], ":2: impossible image '/etc/a.png'"),
        ([HEADER, "x\\a.png,b.png,1"], ":2: impossible image"),
        ([HEADER, ",b.png,1"], ":2: impossible image ''"),
        ([HEADER, '"a\nb.png",b.png,1'], ":3: impossible image"),
        ([HEADER, "a.png,b.png,1", "b.png,a.png,0"], ":3: this pair is listed with the other label too"),
        ([HEADER + ",split", "a.png,b.png,1,dev"], ":2: split is 'dev'"),
        ([HEADER + ",split", "a.png,b.png,1"], ":2: split is None"),
        ([HEADER, '"a.png,b.png,1'], "unexpected end of data"),
    ],
)
def test_a_list_that_will_not_do(lines: list[str], message: str, tmp_path: Path) -> None:
    file = write_list(tmp_path / "pairs.csv", *lines)
    with pytest.raises(DataError, match=message) as error:
        read_pair_list(file)
    assert "\n" not in str(error.value).replace("\\n", "")


def test_a_list_of_latin_1_or_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(b"image1,image2,label\ncaf\xe9.png,b.png,1\n")
    with pytest.raises(DataError, match=r"latin.csv:2: byte 0xe9 is not UTF-8"):
        read_pair_list(tmp_path / "latin.csv")
    with pytest.raises(DataError, match=r"none.csv: no such file \(expected a CSV file of pairs\)"):
        read_pair_list(tmp_path / "none.csv")


def test_a_list_with_splits_and_other_columns(tmp_path: Path) -> None:
    lines = ["\ufeffsplit,score,image2,image1,label", 'val,0.5,"b, c.png",a.png,0', "test,,d.png,a.png,1"]
    (tmp_path / "pairs.csv").write_text("\r\n".join(lines), encoding="utf-8")
    assert read_pair_list(tmp_path / "pairs.csv") == {
        "val": [Pair("a.png", "b, c.png", 0)],
        "test": [Pair("a.png", "d.png", 1)],
    }


def test_a_file_has_one_name(tmp_path: Path) -> None:
    lines = [f"./p{k}//a.png,p{k}/./b.png,1" for k in range(2)]
    (pairs,) = read_pair_list(write_list(tmp_path / "pairs.csv", HEADER, *lines)).values()
    assert pairs == [Pair(f"p{k}/a.png", f"p{k}/b.png", 1) for k in range(2)]
    with pytest.raises(DataError, match="is paired with itself"):
        read_pair_list(write_list(tmp_path / "same.csv", HEADER, "a.png,./a.png,1"))


def test_who_is_on_an_image_is_told_by_folders_only_where_they_agree_with_the_labels() -> None:
    named = [Pair("x/1.png", "x/2.png", 1), Pair("x/1.png", "y/1.png", 0)]
    assert identities(named) == {"x/1.png": "x", "x/2.png": "x", "y/1.png": "y"}
    flat = [Pair("all/1.png", "all/2.png", 1), Pair("all/2.png", "all/3.png", 1), Pair("all/1.png", "all/4.png", 0)]
    who = identities(flat)
    assert who["all/1.png"] == who["all/2.png"] == who["all/3.png"] != who["all/4.png"]


def chain_of_pairs(people: int) -> list[Pair]:
    """Everybody is connected with the next one by a different pair, images all in one folder."""
    same = [Pair(f"all/{k}a.png", f"all/{k}b.png", 1) for k in range(people)]
    return same + [Pair(f"all/{k}a.png", f"all/{k + 1}b.png", 0) for k in range(people - 1)]


def test_a_list_is_parted_so_that_no_image_is_in_two_sets(tmp_path: Path) -> None:
    lines = [",".join(map(str, pair)) for pair in chain_of_pairs(60)]
    file = write_list(tmp_path / "pairs.csv", HEADER, *lines)
    own = read_own(section("data", name="pairs", list=str(file)))
    assert own.val is None
    seen = [{image for pair in part for image in pair[:2]} for part in (own.train, own.test)]
    assert not seen[0] & seen[1]
    person = identities(chain_of_pairs(60))
    assert not {person[image] for image in seen[0]} & {person[image] for image in seen[1]}
    assert len(own.test) == 24  # a fifth
    assert sorted(map(len, own.test_people.values()))[-1] == 2


def test_the_split_of_connected_people_is_the_same_in_every_process() -> None:
    code = (
        "from siamese.data.split import people_split; from siamese.data.lists import Pair\n"
        "same = [Pair(f'p{k}/1.jpg', f'p{k}/2.jpg', 1) for k in range(40)]\n"
        "different = [Pair(f'p{k}/1.jpg', f'p{(k * 7 + 1) % 40}/2.jpg', 0) for k in range(40)]\n"
        "print([part.tolist() for part in people_split(same + different, 0.2, 0)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


def test_a_list_that_cannot_be_parted_names_its_key(tmp_path: Path) -> None:
    pairs = [Pair("a.png", "b.png", 1), Pair("a.png", "c.png", 0)]
    with pytest.raises(DataError, match=r"data.test_fraction=0.2: one part would be left"):
        people_split(pairs, 0.2, 0, key="data.test_fraction")


# --- photos of any shape ----------------------------------------------------------------------------------


def test_crop_is_a_share_of_the_shorter_side(tmp_path: Path) -> None:
    file = noise_photo(tmp_path / "a.png", size=(100, 60))
    whole = image_options(image_size=30, color=True)
    pixels = np.asarray(Image.open(file))

    def resized(box: tuple[int, int, int, int]) -> np.ndarray:
        image = Image.fromarray(pixels).crop(box).resize((30, 30), Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)

    assert (decode(file, whole.model_copy(update={"crop": 1.0})) == resized((20, 0, 80, 60))).all()
    assert (decode(file, whole.model_copy(update={"crop": 0.5})) == resized((35, 15, 65, 45))).all()
    assert (decode(file, whole.model_copy(update={"crop": 30})) == resized((35, 15, 65, 45))).all()


@pytest.mark.parametrize("crop", [0, 7, 0.0, 1.5, -0.5, "half", True, float("nan")])
def test_impossible_crops(crop: object) -> None:
    with pytest.raises(ValueError, match="neither a number of pixels"):
        image_options(crop=crop)  # type: ignore[arg-type]


# --- runs -------------------------------------------------------------------------------------------------


@pytest.fixture
def own_config(tiny_config: Make, tiny_root: Path, tmp_path: Path) -> Make:
    """A run on the tiny faces as a folder of people."""
    data = {
        "name": "folder", "root": str(tiny_root / "lfw"), "image_size": 32, "cache": str(tmp_path / "cache"),
        "test_pairs": 20, "val_pairs": 10, "train_pairs": 30,
    }  # fmt: skip

    def make(**changes: Any) -> TrainConfig:
        protocol = {"name": "holdout", "setting": "unrestricted"}
        plain = {"model": RESNET, "data": data | changes.pop("data", {}), "protocol": protocol, "max_epochs": 1}
        return tiny_config(**{**plain, **changes})

    return make


def score(path: Path, **options: Any) -> dict[str, Any]:
    run_folder, folder = path / "run", RunFolder(path / f"eval-{len(list(path.iterdir()))}")
    return evaluate(eval_config(run=str(run_folder), **options), folder)


@pytest.mark.parametrize("setting", ["restricted", "unrestricted"])
def test_a_run_on_a_folder_keeps_people_apart(setting: str, own_config: Make, tmp_path: Path) -> None:
    config = own_config(protocol={"name": "holdout", "setting": setting})
    result = run(config, tmp_path / "run")
    assert (result["dataset"], result["protocol"], result["setting"]) == ("folder lfw", "holdout", setting)
    assert (result["n_test"], result["n_val"]) == (20, 10)
    split: dict[str, set[str]] = {}
    for row in read_rows(tmp_path / "run/split.csv"):
        assert row["image"].startswith(row["person"] + "/")
        split.setdefault(row["person"], set()).add(row["split"])
    assert all(len(parts) == 1 for parts in split.values())
    for row in read_rows(tmp_path / "run/predictions.csv"):
        assert split[row["image1"].partition("/")[0]] == {row["split"]}
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "people held out" in page
    assert "View 1" not in page
    again = score(tmp_path)
    assert {key: again[key] for key in ("test/acc", "test/loss", "tp")} == {
        key: result[key] for key in ("test/acc", "test/loss", "tp")
    }
    few = score(tmp_path, protocol={"name": "oneshot", "ways": [2], "trials": 20})
    tested = {person for person, parts in split.items() if parts == {"test"}}
    assert few["n_test_people"] == len(tested)


def test_photos_that_changed_are_told_when_a_run_goes_on_or_is_scored(
    own_config: Make, tiny_root: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for person in (tiny_root / "lfw").iterdir():
        (photos / person.name).mkdir(parents=True)
        for file in person.iterdir():
            (photos / person.name / file.name).symlink_to(file)
    config = own_config(data={"root": str(photos)})
    run(config, tmp_path / "run")
    rest = config.data.model_dump()
    with pytest.raises(
        DataError, match=r"somebody of the test \(.*\) was trained on or validated with in .*run; leave data out"
    ):
        score(tmp_path, data=rest)
    # The same people elsewhere: perhaps others of the same names.
    elsewhere = score(tmp_path, data={**rest, "root": str(tiny_root / "lfw")})
    assert "val/acc" not in elsewhere
    assert elsewhere["n_test"] == 20
    folder = RunFolder(tmp_path / "run")
    folder.record(status="interrupted")
    next(iter(sorted(photos.iterdir()))).rename(photos / "Somebody_Else")
    folder.record(status="done")
    for options in ({}, {"protocol": {"name": "oneshot", "ways": [2], "trials": 5}}):
        with pytest.raises(DataError, match="not as it was when the run was begun"):
            score(tmp_path, **options)
    folder.record(status="interrupted")
    with pytest.raises(DataError, match="not as it was when the run was begun"):
        run(config.model_copy(update={"resume": True}), tmp_path / "run")


def test_a_run_on_a_list_and_scored_on_others(own_config: Make, tiny_root: Path, tmp_path: Path) -> None:
    run(own_config(), tmp_path / "folder/run")
    scored = read_rows(tmp_path / "folder/run/predictions.csv")
    lines = [f"{row['image1']},{row['image2']},{row['label']}" for row in scored]
    own = write_list(tmp_path / "pairs.csv", HEADER, *lines)
    data = {"name": "pairs", "list": str(own), "root": str(tiny_root / "lfw"), "split": "pairs", "image_size": 32}
    held = {"name": "holdout", "setting": "restricted"}
    config = own_config(protocol=held).model_dump() | {
        "data": {**data, "test_fraction": 0.4, "val_fraction": 0.4, "cache": str(tmp_path / "cache")},
        "protocol": held,
    }
    parts = ["train", "val", "test"]
    lines = [f"{line},{parts[k % 3]}" for k, line in enumerate(lines)]
    write_list(own, HEADER + ",split", *lines)
    result = run(train_config(**config), tmp_path / "run")
    assert result["n_train"] + result["n_val"] + result["n_test"] == 30
    assert result["dataset"] == "list pairs.csv"
    # All pairs of another list are for the test; here those that the run on the folder has kept for its own.
    kept = [f"{row['image1']},{row['image2']},{row['label']}" for row in scored if row["split"] == "test"]
    other = write_list(tmp_path / "other.csv", HEADER, *kept)
    assert score(tmp_path / "folder", data={**data, "list": str(other)})["n_test"] == len(kept) == 20


def test_people_trained_on_are_not_tested_as_another_kind_of_data(
    own_config: Make, tiny_config: Make, tmp_path: Path
) -> None:
    run(own_config(), tmp_path / "a/run")
    lfw = tiny_config().data.model_dump() | {"image_size": 32, "crop": 1.0}
    with pytest.raises(DataError, match="was trained on or validated with"):
        score(tmp_path / "a", data=lfw)
    run(tiny_config(max_epochs=1), tmp_path / "b/run")
    photos = own_config().data.model_dump() | {"image_size": 65}
    with pytest.raises(DataError, match="was trained on or validated with"):
        score(tmp_path / "b", data=photos)


def test_a_list_whose_people_are_on_both_sides_is_scored_as_it_was(
    own_config: Make, tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = sorted(folder for folder in (tiny_root / "lfw").iterdir() if len(list(folder.iterdir())) > 1)[:2]
    ones, others = ([f"{folder.name}/{file.name}" for file in sorted(folder.iterdir())] for folder in (a, b))
    pairs = [(ones[0], ones[1], 1), (ones[0], others[0], 0), (others[0], others[1], 1), (ones[1], others[1], 0)]
    lines = [",".join(map(str, (*pair, split))) for split in ("train", "val", "test") for pair in pairs]
    file = write_list(tmp_path / "pairs.csv", HEADER + ",split", *lines)
    data = {"name": "pairs", "list": str(file), "root": str(tiny_root / "lfw"), "image_size": 32}
    config = own_config().model_dump() | {"protocol": {"name": "holdout", "setting": "restricted"}}
    config |= {"data": {**data, "cache": str(tmp_path / "cache")}}
    result = run(train_config(**config), tmp_path / "run")
    assert "figures on the latter are too good for strangers" in caplog.text
    assert score(tmp_path)["test/loss"] == result["test/loss"]


def test_what_does_not_go_together(own_config: Make, tiny_config: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="protocol=view1 is not for data=folder; give protocol=holdout"):
        own_config(protocol={"name": "view1"})
    with pytest.raises(ValueError, match="protocol=holdout is not for data=synthetic; give protocol=view1 or view2"):
        tiny_config(protocol={"name": "holdout"})
    with pytest.raises(ValueError, match="data=pairs tells no names"):
        tiny_config(data={"name": "pairs", "list": "x"}, protocol={"name": "holdout", "setting": "unrestricted"})
    run(own_config(), tmp_path / "run")
    data = own_config().data.model_dump()
    with pytest.raises(ConfigError, match="data=folder: what is scored anew is fitted and calibrated on"):
        score(tmp_path, data=data, flip_average=True)
    with pytest.raises(ConfigError, match=r"data.crop=0.5: the run was trained with data.crop=1.0"):
        score(tmp_path, data={**data, "crop": 0.5})
