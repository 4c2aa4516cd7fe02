"""``data=pairs``: what a list may look like, what is refused, and how its pairs are divided into sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from configs import section

from siamese.data.lists import Pair, identities
from siamese.data.own import memberships, read_own
from siamese.data.pair_list import read_listed_pairs, read_pair_list
from siamese.errors import DataError


def write_list(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


HEADER = "image1,image2,label"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], ":1: no column image1"),
        (["a.png,b.png,1"], ":1: no column image1"),
        (
            ["image1;image2;label", "a.png;b.png;1"],
            ":1: no column image1 .*; this header has semicolons: separate .* by commas",
        ),
        (["image1\timage2\tlabel", "a.png\tb.png\t1"], ":1: no column image1 .*; this header has tabs: separate"),
        (["image1,image2", "a,b"], ":1: no column label"),
        ([HEADER], "contains no pairs"),
        ([HEADER, "a.png,b.png,yes"], ":2: label is 'yes'"),
        ([HEADER, "a.png,b.png"], ":2: label is None"),
        ([HEADER, "a.png,b.png,1", "a.png,a.png,1"], ":3: 'a.png' is paired with itself"),
        ([HEADER, "../a.png,b.png,1"], ":2: invalid image name '../a.png'"),
        ([HEADER, "x/../../a.png,b.png,1"], ":2: invalid image name"),
        ([HEADER, "/etc/a.png,b.png,1"], ":2: invalid image name '/etc/a.png'"),
        ([HEADER, "x\\a.png,b.png,1"], ":2: invalid image name"),
        ([HEADER, ",b.png,1"], ":2: invalid image name ''"),
        ([HEADER, '"a\nb.png",b.png,1'], ":3: invalid image name"),
        ([HEADER, "a.png,b.png,1", "b.png,a.png,0"], ":3: this pair is also listed with the other label"),
        ([HEADER + ",split", "a.png,b.png,1,dev"], ":2: split is 'dev'"),
        ([HEADER + ",split", "a.png,b.png,1"], ":2: split is None"),
        ([HEADER, '"a.png,b.png,1'], "unexpected end of data"),
    ],
)
def test_malformed_lists(lines: list[str], message: str, tmp_path: Path) -> None:
    file = write_list(tmp_path / "pairs.csv", *lines)
    with pytest.raises(DataError, match=message) as error:
        read_pair_list(file)
    assert "\n" not in str(error.value).replace("\\n", "")


def test_a_list_in_latin_1_and_a_missing_list(tmp_path: Path) -> None:
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


def test_different_spellings_of_a_path_are_one_image(tmp_path: Path) -> None:
    lines = [f"./p{k}//a.png,p{k}/./b.png,1" for k in range(2)]
    (pairs,) = read_pair_list(write_list(tmp_path / "pairs.csv", HEADER, *lines)).values()
    assert pairs == [Pair(f"p{k}/a.png", f"p{k}/b.png", 1) for k in range(2)]
    with pytest.raises(DataError, match="is paired with itself"):
        read_pair_list(write_list(tmp_path / "same.csv", HEADER, "a.png,./a.png,1"))


def chain_of_pairs(people: int) -> list[Pair]:
    """A different pair connects each person with the next one; all images are in one folder."""
    same = [Pair(f"all/{k}a.png", f"all/{k}b.png", 1) for k in range(people)]
    return same + [Pair(f"all/{k}a.png", f"all/{k + 1}b.png", 0) for k in range(people - 1)]


def test_a_list_without_sets_is_divided_by_people(tmp_path: Path) -> None:
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


def pairs_data(file: Path, **options: Any) -> Any:
    return section("data", name="pairs", list=str(file), **options)


def test_a_column_split_decides_the_sets(tmp_path: Path) -> None:
    lines = [f"{split}{k}a,{split}{k}b,{k},{split}" for split in ("train", "val", "test") for k in (0, 1)]
    file = write_list(tmp_path / "pairs.csv", HEADER + ",split", *lines)
    listed = read_listed_pairs(pairs_data(file))
    assert listed.val == [Pair("val0a", "val0b", 0), Pair("val1a", "val1b", 1)]
    assert read_listed_pairs(pairs_data(file), test_only=True) == ([], [], listed.test)
    own = read_own(pairs_data(file))
    members = {member.image: member.split for member in memberships(own, own.val or [], tmp_path, {})}
    assert members == {image: image[:-2] for pair in (*listed.train, *listed.val, *listed.test) for image in pair[:2]}


def test_without_a_column_split_all_pairs_can_be_the_test(tmp_path: Path) -> None:
    file = write_list(tmp_path / "pairs.csv", HEADER, "a,b,1", "a,c,0")
    assert len(read_listed_pairs(pairs_data(file), test_only=True).test) == 2


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_set_needs_both_labels(split: str, tmp_path: Path) -> None:
    lines = [f"{part}{k}a,{part}{k}b,{k},{part}" for part in ("train", "val", "test") for k in (0, 1)]
    lines.remove(f"{split}1a,{split}1b,1,{split}")
    file = write_list(tmp_path / "pairs.csv", HEADER + ",split", *lines)
    with pytest.raises(DataError, match=rf"1 {split} pair, without at least one same pair \(label 1\)"):
        read_listed_pairs(pairs_data(file))


def test_a_missing_image_folder(tmp_path: Path) -> None:
    file = write_list(tmp_path / "pairs.csv", HEADER, "a,b,1", "a,c,0")
    with pytest.raises(DataError, match=re.escape(f"data.root={tmp_path}/none: no such folder; set it to the folder")):
        read_listed_pairs(pairs_data(file, root=str(tmp_path / "none")))
