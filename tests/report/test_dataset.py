"""The summary of a data set, as `python -m siamese data` prints it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, noise_photo
from PIL import Image

from siamese.command.main import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten people with three different photos each."""
    for person in range(10):
        for k in range(3):
            noise_photo(tmp_path / "photos" / f"p{person}" / f"{k}.png", 10 * person + k)
    return tmp_path / "photos"


def summary(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert main(["data", *map(str, arguments), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_folder_without_problems(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise_photo(photos / "p3" / "grey.jpg", 99, size=(40, 40), mode="L")
    found = summary(capsys, photos, "test_fraction=0.3", "data.val_fraction=0.3")
    assert found["dataset"] == "folder photos"
    assert {name: part["people"] for name, part in found["sets"].items()} == {"train": 5, "val": 2, "test": 3}  # type: ignore[union-attr, attr-defined]
    assert sum(part["images"] for part in found["sets"].values()) == 31  # type: ignore[attr-defined]
    assert found["sizes"] == {"20 x 30": 30, "40 x 40": 1}
    assert found["kinds"] == {"PNG colour": 30, "JPEG grey": 1}
    assert found["images_per_person"] == {"3": 9, "4": 1}
    assert found["problems"] == found["duplicates"] == []
    assert main(["data", str(photos)]) == 0
    text = capsys.readouterr().out
    assert "no leakage between the sets" in text
    assert text.endswith(
        f"  python train.py experiment=own/few start_from=latest data.root={photos}\n"
        "For other things, train with experiment=own/objects, "
        "or experiment=own/letters for letters and other drawings\n"
    )
    assert "images per person: 3 to 4, median 3; 0 people with a single image" in text


def test_all_photos_of_everybody_are_counted_and_checked(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = _sets(photos, capsys)
    seen = next(person for part, person in sets if part == "train")
    held = next(person for part, person in sets if part == "val")
    for k in range(3):
        shutil.copy(photos / seen / f"{k}.png", photos / held / f"copy {k}.png")
    found = summary(capsys, photos, "train_pairs=2", "val_pairs=2", "test_pairs=2")  # most photos are in no pair
    assert found["images_per_person"] == {"3": 9, "6": 1}
    assert found["sets"]["val"]["images"] == 3 * sum(part == "val" for part, _ in sets) + 3  # type: ignore[index, call-overload]
    assert "3 duplicates in both train and val" in "\n".join(found["problems"])  # type: ignore[arg-type]


def test_duplicates(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = {row: part for part, row in _sets(photos, capsys)}
    first = next(name for name, part in people.items() if part == "train")
    other = next(name for name, part in people.items() if part == "test")
    Image.open(photos / first / "0.png").save(photos / first / "copy.bmp")  # another file, the same pixels
    shutil.copy(photos / first / "1.png", photos / other / "stolen.png")
    (photos / other / "broken.png").write_bytes(b"no image")
    found = summary(capsys, photos, "train_pairs=2000")
    assert {frozenset(group) for group in found["duplicates"]} == {  # type: ignore[attr-defined]
        frozenset({f"{first}/0.png", f"{first}/copy.bmp"}),
        frozenset({f"{first}/1.png", f"{other}/stolen.png"}),
    }
    problems = "\n".join(found["problems"])  # type: ignore[arg-type]
    assert "1 duplicate in both train and test" in problems
    assert "1 duplicate under the names of several people" in problems
    assert "1 same pair of identical images" in problems
    assert list(found["unusable"]) == [f"{other}/broken.png"]  # type: ignore[call-overload]
    for copy in ("third.bmp", "fourth.bmp"):
        shutil.copy(photos / first / "copy.bmp", photos / first / copy)
    assert main(["data", str(photos)]) == 0
    text = capsys.readouterr().out
    assert "1 unusable image:" in text
    assert "2 images with duplicates (identical pixels):" in text, "as many as lines follow"


def test_near_copies_are_told_from_duplicates(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = {row: part for part, row in _sets(photos, capsys)}
    first, second, *_ = (name for name, part in people.items() if part == "train")
    other = next(name for name, part in people.items() if part == "test")
    with Image.open(photos / first / "0.png") as image:
        image.resize((200, 300)).save(photos / first / "large.png")
        image.resize((200, 300)).crop((4, 4, 196, 294)).save(photos / other / "stolen.jpg", quality=50)
    shutil.copy(photos / first / "1.png", photos / second / "1 again.png")
    found = summary(capsys, photos)
    assert found["duplicates"] == [sorted([f"{first}/1.png", f"{second}/1 again.png"])]
    near = sorted([f"{first}/large.png", f"{other}/stolen.jpg"])
    assert [sorted(group) for group in found["near_copies"]] == [near]  # type: ignore[attr-defined]
    problems = "\n".join(found["problems"])  # type: ignore[arg-type]
    assert "1 near copy in both train and test" in problems
    assert "1 near copy under the names of several people" in problems
    assert "1 duplicate under the names of several people" in problems
    assert main(["data", str(photos)]) == 0
    assert "1 image with near copies (recompressed, resized" in capsys.readouterr().out


def test_images_that_differ_only_in_16_bit_are_no_duplicates(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for k in range(2):
        Image.fromarray(rng.integers(1000, 65536, (9, 9), dtype=np.uint16)).save(photos / "p1" / f"deep{k}.png")
        Image.fromarray(np.full((9, 9), k, np.float32), mode="F").save(photos / "p2" / f"float{k}.tiff")
    found = summary(capsys, photos)
    assert found["duplicates"] == []
    assert sorted(found["unusable"]) == ["p2/float0.tiff", "p2/float1.tiff"]  # type: ignore[call-overload]


def _sets(photos: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    from siamese.data.sources import recognise
    from siamese.report.dataset import parts_of

    return [(name, person) for name, part in parts_of(recognise(photos)).items() for person in part.people]


def test_list_with_leakage(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        "image1,image2,label,split",
        "p0/0.png,p0/1.png,1,train", "p0/0.png,p1/1.png,0,train", "p0/1.png,p0/0.png,1,train",
        "p2/0.png,p2/1.png,1,val", "p2/0.png,p3/1.png,0,val",
        "p0/2.png,p0/1.png,1,test", "p4/0.png,p5/1.png,0,test",
    ]  # fmt: skip
    (photos / "pairs.csv").write_text("\n".join(lines))
    found = summary(capsys, photos / "pairs.csv")
    assert found["sets"]["test"] == {"people": 3, "images": 4, "same": 1, "different": 1}  # type: ignore[index]
    problems = "\n".join(found["problems"])  # type: ignore[arg-type]
    assert "1 person in both train and test: p0" in problems
    assert "1 image in both train and test: p0/1.png" in problems
    assert "1 pair listed more than once: p0/0.png and p0/1.png" in problems


def test_lfw_layout_and_contact_sheet(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.jpg"
    assert main(["data", str(tiny_root), "split=people", "--contact-sheet", str(sheet)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"lfw: {tiny_root / 'lfw'}\n")
    assert "250 x 250" in text
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG"
        assert picture.height == 8 * 114 + 4
    found = summary(capsys, tiny_root, "split=people")
    sets = found["sets"]
    assert sets["test"]["same"] == TINY.test_pairs // 2  # type: ignore[index]
    assert sets["test"]["people"] == TINY.test_people  # type: ignore[index]
    assert sets["train"]["people"] + sets["val"]["people"] == TINY.train_people  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: no such file or folder; choose LFW's root, a folder with one folder of photos"),
        (["photos", "seed"], "seed: expected key=value"),
        (["photos", "split_sed=1"], "unknown key 'data.split_sed'; did you mean data.split_seed?"),
        (["photos", "test_fraction=2"], "data.test_fraction=2"),
        (["photos", "split_seed=["], "split_seed=[: the value is not valid YAML"),
        (["photos", "--contact-sheet", "none/x.png"], "none/x.png: folder none does not exist; create it first"),
        (["photos", "--contact-sheet", "x.psd"], "x.psd: give a file name that ends in .png, .jpg or .webp"),
        (["photos", "split=pairs"], "data=folder always splits people"),
    ],
)
def test_errors(
    arguments: list[str],
    message: str,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos.parent)
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_skipped_files_are_listed_with_a_remedy(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p0/a.mov", "p1/b.mov", "p1/@eaDir/0.png", "notes", "loose.jpg"):
        file = photos / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    skipped = summary(capsys, photos)["skipped"]
    assert skipped == [
        {"kind": "without an ending", "files": 1, "remedy": "if they are photos: rename them, for example to NAME.jpg"},
        {"kind": ".mov", "files": 2, "remedy": "to use them: save frames that show a face as JPEG"},
        {"kind": "in @eaDir", "files": 1, "remedy": ""},
        {"kind": "photo not in a person's folder", "files": 1, "remedy": "move it into the folder of the person"},
    ]


def test_a_network_of_its_own_for_many_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(photo := tmp_path / "photo.png")
    for person in range(600):
        for k in range(2):
            (tmp_path / f"photos/p{person}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"photos/p{person}/{k}.png").symlink_to(photo)
    assert summary(capsys, tmp_path / "photos")["advice"] == ""


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("IMG_1.MP4", "frames"), ("a.webm", "frames"), ("b.3gp", "frames"), ("Thumbs.db", ""), ("desktop.ini", ""),
        ("IMG_1.AAE", ""), ("notes.txt", ""), ("memo.m4a", ""), ("scan.pdf", ""), ("album.zip", ""),
        ("last.ckpt", ""), ("train.py", ""), ("conf.yaml", ""), ("scan.CR2", "JPEG"),
        ("raw.DNG", "JPEG"), ("drawing.psd", "JPEG"), ("icon.svg", "JPEG"),
    ],
)  # fmt: skip
def test_remedies(photos: Path, capsys: pytest.CaptureFixture[str], name: str, remedy: str) -> None:
    (photos / "p1" / name).write_bytes(b"x")
    (skipped,) = summary(capsys, photos)["skipped"]  # type: ignore[misc, attr-defined]
    assert skipped["kind"] == Path(name).suffix.lower()
    assert (remedy in skipped["remedy"]) if remedy else (skipped["remedy"] == "")


def test_the_size_of_a_huge_photo(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8000, 6000)).save(photos / "p1/huge.jpg", exif=exif)
    assert summary(capsys, photos)["sizes"] == {"20 x 30": 30, "6000 x 8000": 1}
