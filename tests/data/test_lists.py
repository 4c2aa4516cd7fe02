"""LFW's lists: accepted variants, the message for each mistake, and that any other content is refused."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from siamese.data.lists import Pair, identities, image_name, read_folds, read_pairs, read_people
from siamese.errors import DataError

LFW_ROOT = Path(os.environ.get("LFW_ROOT") or Path(__file__).parents[3] / "shared" / "lfw")
needs_lfw = pytest.mark.skipif(not (LFW_ROOT / "pairsDevTrain.txt").is_file(), reason="LFW's lists are not here")

VIEW1 = "2\nAda\t1\t2\nBen\t3\t1\nAda\t1\tBen\t2\nBen\t9999\tCy_Z.\t1\n"
FOLDS = "2\t1\nAda\t1\t2\nAda\t1\tBen\t2\nCy\t1\t2\nCy\t3\tDee\t1\n"

READERS: list[Callable[[Path], object]] = [read_pairs, read_folds, read_people]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# --- what is accepted ---


def test_view1_list(write):
    assert read_pairs(write(VIEW1)) == [
        Pair("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", 1),
        Pair("Ben/Ben_0003.jpg", "Ben/Ben_0001.jpg", 1),
        Pair("Ada/Ada_0001.jpg", "Ben/Ben_0002.jpg", 0),
        Pair("Ben/Ben_9999.jpg", "Cy_Z./Cy_Z._0001.jpg", 0),
    ]


def test_view2_list(write):
    first, second = read_folds(write(FOLDS))
    assert first == [
        Pair("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", 1),
        Pair("Ada/Ada_0001.jpg", "Ben/Ben_0002.jpg", 0),
    ]
    assert second == [
        Pair("Cy/Cy_0001.jpg", "Cy/Cy_0002.jpg", 1),
        Pair("Cy/Cy_0003.jpg", "Dee/Dee_0001.jpg", 0),
    ]


def test_people_list_of_one_and_of_several_subsets(write):
    assert read_people(write("2\nAda\t3\nBen\t1\n")) == [{"Ada": 3, "Ben": 1}]
    assert read_people(write("2\n1\nAda\t3\n2\nBen\t1\nCy\t2\n")) == [{"Ada": 3}, {"Ben": 1, "Cy": 2}]
    assert read_people(write("1\n1\nAda\t3\n")) == [{"Ada": 3}]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n \n\t\n\r\n",
        lambda text: text.rstrip("\n"),
    ],
    ids=["CRLF", "BOM", "trailing blank lines", "no final line end"],
)
def test_harmless_variants_read_the_same(write, change):
    assert read_pairs(write(change(VIEW1))) == read_pairs(write(VIEW1))


def test_names_beyond_ascii(write):
    name = "José\u2028María O'Neil-Łukasz_Jr."
    assert read_pairs(write(f"1\n{name}\t1\t2\n{name}\t1\tBo\t1\n"))[0].image1 == f"{name}/{name}_0001.jpg"


def test_duplicates_are_kept_and_counted_in_a_warning(write, caplog):
    text = "3\nAda\t1\t2\nAda\t2\t1\nAda\t1\t3\n" + "Ada\t1\tBen\t1\n" + "Ben\t1\tAda\t1\n" + "Ada\t1\tBen\t2\n"
    with caplog.at_level(logging.WARNING):
        assert len(read_pairs(write(text))) == 6
    assert [record.getMessage() for record in caplog.records] == [f"{write(text)}: 2 duplicate pairs (kept)"]
    caplog.clear()
    read_pairs(write(VIEW1))
    assert not caplog.records


def test_duplicates_are_found_across_folds(write, caplog):
    read_folds(write("2\t1\nAda\t1\t2\nAda\t1\tBen\t2\nAda\t2\t1\nCy\t3\tDee\t1\n"))
    assert ": 1 duplicate pair (kept)" in caplog.text


# --- what is refused, and the message ---

SAME_LINE = 2
DIFFERENT_LINE = 4


def with_line(number: int, text: str) -> str:
    lines = VIEW1.split("\n")
    lines[number - 1] = text
    return "\n".join(lines)


@pytest.mark.parametrize(
    "index", ["0", "-1", "+1", "1.0", "x", "", " 1", "1 ", "10000", "9" * 5000, "٣", "1٣", "²", "01"]
)
@pytest.mark.parametrize("line", ["Ada\t{}\t5", "Ada\t5\t{}", "Ada\t{}\tBen\t2", "Ada\t1\tBen\t{}"])
def test_invalid_image_number(write, index, line):
    number = DIFFERENT_LINE if "Ben" in line else SAME_LINE
    path = write(with_line(number, line.format(index)))
    with pytest.raises(DataError, match=r"invalid image number .*\(expected an integer from 1 to 9999\)") as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}:{number}: ")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc/passwd", "  ", "a/b", "a\\b", "a\0b", "a..b", " a", "a ", "\u00a0a", "a\rb", "a\x1bb"]
)
@pytest.mark.parametrize("line", ["{}\t1\t2", "{}\t1\tBen\t2", "Ben\t1\t{}\t2"])
def test_invalid_name(write, name, line):
    number = DIFFERENT_LINE if "Ben" in line else SAME_LINE
    path = write(with_line(number, line.format(name)))
    with pytest.raises(DataError, match="invalid name") as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}:{number}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "the list ends too early"),
        ("\n\n", 1, "the list ends too early"),
        ("Ada\t1\t2\n", 1, r"invalid count 'Ada\t1\t2'"),
        ("2\t1\n" + VIEW1[2:], 1, r"invalid count '2\t1'"),
        ("0\n", 1, "invalid count '0'"),
        ("-1\n", 1, "invalid count '-1'"),
        ("٢\n" + VIEW1[2:], 1, "invalid count '٢'"),
        ("9" * 5000 + "\n", 1, "invalid count '999"),
        ("\n" + VIEW1, 1, "invalid count ''"),
        (with_line(2, "Ada\t1"), 2, r"'Ada\t1' is not a same pair"),
        (with_line(2, "Ada 1 2"), 2, "'Ada 1 2' is not a same pair"),
        (with_line(2, ""), 2, "'' is not a same pair"),
        (with_line(2, "Ada\t1\t2\t"), 2, r"a different pair 'Ada\t1\t2\t' instead of a same pair"),
        (with_line(4, "Ada\t1\tBen\t2\t"), 4, r"'Ada\t1\tBen\t2\t' is not a different pair"),
        (with_line(2, "\t1\t2"), 2, "empty name"),
        (with_line(4, "Ada\t1\t\t2"), 4, "empty name"),
        (with_line(3, "Ben\t1\tAda\t2"), 3, r"a different pair 'Ben\t1\tAda\t2' instead of a same pair"),
        (with_line(4, "Ben\t1\t2"), 4, r"a same pair 'Ben\t1\t2' instead of a different pair"),
        (with_line(2, "Ada\t7\t7"), 2, "image 7 of 'Ada' is paired with itself"),
        (with_line(5, "Ada\t1\tAda\t2"), 5, "both names are 'Ada'"),
        ("\n".join(VIEW1.split("\n")[:4]), 5, "the list ends too early"),
        ("999999999\n" + VIEW1[2:], 4, r"a different pair 'Ada\t1\tBen\t2' instead"),
        (VIEW1 + "Ada\t1\tBen\t3\n", 6, "1 more line than the header announces"),
        (VIEW1 + "\n\nx\n", 6, "3 more lines than the header announces"),
    ],
)
def test_malformed_view1_list(write, text, line, what):
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}:{line}: {what}")
    assert re.search(r" \(expected .+\)$", str(caught.value))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("2\n" + FOLDS[4:], 1, "invalid count '2'"),
        ("2\t1\t1\n" + FOLDS[4:], 1, r"invalid count '2\t1\t1'"),
        ("2\t0\n" + FOLDS[4:], 1, r"invalid count '2\t0'"),
        ("1\t1\n" + FOLDS[4:], 4, "2 more lines than the header announces"),
        ("3\t1\n" + FOLDS[4:], 6, "the list ends too early"),
        ("1\t2\n" + FOLDS[4:], 3, r"a different pair 'Ada\t1\tBen\t2' instead of a same pair"),
    ],
)
def test_malformed_view2_list(write, text, line, what):
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_folds(path)
    assert str(caught.value).startswith(f"{path}:{line}: {what}")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "the list ends too early"),
        ("x\n", 1, "invalid count 'x'"),
        ("2\n", 2, "the list ends too early"),
        ("2\nAda\t1\n", 3, "the list ends too early"),
        ("2\nAda\t1\nBen\n", 3, "'Ben' is not a person"),
        ("2\nAda\t1\nBen\t0\n", 3, "invalid image number '0'"),
        ("2\nAda\t1\n..\t1\n", 3, "invalid name '..'"),
        ("2\nAda\t1\nAda\t2\n", 3, "'Ada' is listed twice"),
        ("1\nAda\t1\nBen\t2\n", 3, "1 more line than the header announces"),
        ("2\n1\nAda\t1\n1\nAda\t1\n", 5, "'Ada' is listed twice"),
        ("2\n1\nAda\t1\n0\n", 4, "invalid count '0'"),
        ("2\n1\nAda\t1\nBen\t1\n", 4, r"invalid count 'Ben\t1'"),
        ("2\n1\nAda\t1\n", 4, "the list ends too early"),
    ],
)
def test_malformed_people_list(write, text, line, what):
    path = write(text)
    with pytest.raises(DataError) as caught:
        read_people(path)
    assert str(caught.value).startswith(f"{path}:{line}: {what}")


@pytest.mark.parametrize("read", READERS)
def test_unreadable_files_are_named(write, tmp_path, read):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.txt'}: no such file")):
        read(tmp_path / "none.txt")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: not a regular file")):
        read(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "a\0b")
    path = write(b"\xef\xbb\xbf2\nJos\xe9\t1\t2\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:2: byte 0xe9 is not UTF-8")):
        read(path)
    with pytest.raises(DataError, match=re.escape(f"{path}:1: byte 0xff is not UTF-8")):
        read(write(VIEW1.encode("utf-16")))


@pytest.mark.parametrize("kind", ["a link to itself", "a pipe", "a device"])
def test_special_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "list.txt"
    {
        "a link to itself": lambda p: p.symlink_to(p.name),
        "a pipe": os.mkfifo,
        "a device": lambda p: p.symlink_to("/dev/zero"),
    }[kind](path)
    with pytest.raises(DataError, match=re.escape(f"{path}: ")) as caught:
        read_pairs(path)
    assert str(caught.value).isprintable()


# --- who is on an image ---


def test_folders_name_people_only_if_they_agree_with_the_labels() -> None:
    named = [Pair("x/1.png", "x/2.png", 1), Pair("x/1.png", "y/1.png", 0)]
    assert identities(named) == {"x/1.png": "x", "x/2.png": "x", "y/1.png": "y"}
    flat = [Pair("all/1.png", "all/2.png", 1), Pair("all/2.png", "all/3.png", 1), Pair("all/1.png", "all/4.png", 0)]
    who = identities(flat)
    assert who["all/1.png"] == who["all/2.png"] == who["all/3.png"] != who["all/4.png"]


# --- for any list, for any text ---

quick = settings(max_examples=25, deadline=None)
names = st.text(st.characters(codec="utf-8", exclude_characters="/\\", exclude_categories=["Cc", "Cs"]), min_size=1)
people = names.map(lambda name: unicodedata.normalize("NFC", name)).filter(
    lambda name: name == name.strip() and ".." not in name
)
indices = st.integers(1, 9999)
same_pairs = st.tuples(people, indices, indices).filter(lambda pair: pair[1] != pair[2])
different_pairs = st.tuples(people, indices, people, indices).filter(lambda pair: pair[0] != pair[2])


@st.composite
def folds(draw: st.DrawFn, count: st.SearchStrategy[int]) -> list[tuple[list, list]]:
    size = draw(st.integers(1, 4))
    fold = st.tuples(
        st.lists(same_pairs, min_size=size, max_size=size),
        st.lists(different_pairs, min_size=size, max_size=size),
    )
    number = draw(count)
    return draw(st.lists(fold, min_size=number, max_size=number))


def as_text(header: str, blocks: list[tuple[list, list]]) -> str:
    rows = [row for same, different in blocks for row in same + different]
    return "\n".join([header, *("\t".join(map(str, row)) for row in rows), ""])


def as_pairs(block: tuple[list, list]) -> list[Pair]:
    same, different = block
    return [Pair(image_name(p, i), image_name(p, j), 1) for p, i, j in same] + [
        Pair(image_name(p, i), image_name(q, j), 0) for p, i, q, j in different
    ]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lists") / "list.txt"


@quick
@given(blocks=folds(count=st.just(1)))
def test_a_written_view1_list_reads_back(scratch, blocks):
    scratch.write_bytes(as_text(str(len(blocks[0][0])), blocks).encode())
    assert read_pairs(scratch) == as_pairs(blocks[0])


@quick
@given(blocks=folds(count=st.integers(1, 3)))
def test_a_written_view2_list_reads_back(scratch, blocks):
    scratch.write_bytes(as_text(f"{len(blocks)}\t{len(blocks[0][0])}", blocks).encode())
    assert read_folds(scratch) == [as_pairs(block) for block in blocks]


@quick
@given(listed=st.lists(st.tuples(people, indices), min_size=2, unique_by=lambda row: row[0]), cut=st.data())
def test_a_written_people_list_reads_back(scratch, listed, cut):
    lines = [f"{name}\t{count}" for name, count in listed]
    scratch.write_bytes("\n".join([str(len(listed)), *lines]).encode())
    assert read_people(scratch) == [dict(listed)]

    at = cut.draw(st.integers(1, len(listed) - 1))
    subsets = [str(at), *lines[:at], str(len(lines) - at), *lines[at:]]
    scratch.write_bytes("\n".join(["2", *subsets]).encode())
    assert read_people(scratch) == [dict(listed[:at]), dict(listed[at:])]


near_misses = st.lists(
    st.sampled_from(["1", "2", "0", "\t", "\n", "\r\n", "Ada", "Ben", "1\t1\n", "\nAda\t1\t2", "\nAda\t1\tBen\t1", "é"])
).map("".join)


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(near_misses.map(str.encode), st.text().map(lambda text: text.encode()), st.binary()))
@example(content=b"1\nAda\t1\t2\nAda\t1\tBen\t1")
def test_any_content_is_read_or_refused_in_one_line(scratch, content):
    scratch.write_bytes(content)
    for read in READERS:
        try:
            assert read(scratch)
        except DataError as error:
            assert re.fullmatch(rf"{re.escape(str(scratch))}:\d+: .+ \(expected .+\)", str(error))  # noqa: PT017
            assert str(error).isprintable()  # noqa: PT017


# --- the real lists ---


@needs_lfw
@pytest.mark.parametrize(("name", "count"), [("pairsDevTrain.txt", 2200), ("pairsDevTest.txt", 1000)])
def test_real_view1_lists(name, count, caplog):
    pairs = read_pairs(LFW_ROOT / name)
    assert [pair.label for pair in pairs] == [1] * (count // 2) + [0] * (count // 2)
    assert len(set(pairs)) == count
    assert not caplog.records
    images = LFW_ROOT / "lfw"
    if images.is_dir():
        assert all((images / name).is_file() for pair in pairs[::50] for name in pair[:2])


@needs_lfw
@pytest.mark.parametrize(
    ("name", "people", "images"), [("peopleDevTrain.txt", 4038, 9525), ("peopleDevTest.txt", 1711, 3708)]
)
def test_real_people_lists(name, people, images):
    (subset,) = read_people(LFW_ROOT / name)
    assert (len(subset), sum(subset.values())) == (people, images)
