"""The subcommands that ask a finished run about photos: verify, embed and identify."""

from __future__ import annotations

import csv
import json
import logging
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise_photo, read_rows
from PIL import Image

from siamese import Verifier
from siamese.command.main import main
from siamese.command.verify import _log_accuracy
from siamese.data.faces import EYES, Face
from siamese.data.lists import Pair

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def faces(tiny_root: Path) -> Path:
    return tiny_root / "lfw"


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main([str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify_prints_json_and_saves_occlusion_maps(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = read_rows(finished / "predictions.csv")[-1]
    photos = faces / row["image1"], faces / row["image2"]
    (printed,) = called(capsys, "verify", finished, *photos, "--explain", tmp_path / "why.svg")
    assert printed["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)
    assert set(printed) == {
        "image1", "image2", "same", "probability", "threshold", "score", "identical", "unusual", "trained_on", "run",
    }  # fmt: skip
    assert printed["identical"] is False
    assert printed["trained_on"] == "folder lfw"
    assert (tmp_path / "why.svg").read_text().startswith("<?xml")


def test_verify_continues_after_an_unusable_photo(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    photos = sorted(faces.rglob("*.jpg"))[:3]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    lines = [
        "image1,image2,label",
        f"{photos[0]},{photos[1]},1",
        f"{photos[0]},broken.jpg,0",
        f"{photos[2]},{photos[0]},",
        f"{photos[2]},{photos[2]},1",
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    printed = called(capsys, "verify", finished, "--pairs", tmp_path / "pairs.csv")
    assert [sorted(set(line) & {"label", "error", "same"}) for line in printed] == [
        ["label", "same"],
        ["error", "label"],
        ["same"],
        ["label", "same"],
    ]
    assert "broken.jpg" in printed[1]["error"]
    assert "of 1 pair " in caplog.text
    assert "1 photo cannot be used: 1 pair has no decision, not counted in the accuracy" in caplog.messages
    assert "1 pair of identical images, not counted in the accuracy: such a decision says nothing" in caplog.text


def test_verify_warns_of_unusual_photos(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = sorted(faces.rglob("*.jpg"))[:2]
    noise = noise_photo(tmp_path / "noise.png", size=(40, 40))
    (printed,) = called(capsys, "verify", finished, one, other)
    assert printed["unusual"] == [False, False]
    assert not caplog.messages
    (printed,) = called(capsys, "verify", finished, one, noise)
    assert printed["unusual"] == [False, True]
    assert caplog.messages == [
        f"{noise} is unlike the images this network was trained on (folder lfw): do not trust this decision "
        "(1 % of photos like the training images get this warning too); align photos of whole scenes (--align)"
    ]
    caplog.clear()
    (tmp_path / "pairs.csv").write_text(f"image1,image2\n{one},{other}\n{noise},{one}\n{one},{one}\n")
    printed = called(capsys, "verify", finished, "--pairs", tmp_path / "pairs.csv")
    assert [line["unusual"] for line in printed] == [[False, False], [True, False], [False, False]]
    assert [line["identical"] for line in printed] == [False, False, True]
    assert caplog.messages[0].startswith("1 pair of identical images")
    assert caplog.messages[1].startswith("1 of 3 pairs has a photo unlike the images this network was trained on")


def test_verify_says_that_images_are_identical(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    photo = min(faces.rglob("*.jpg"))
    with Image.open(photo) as image:
        image.save(tmp_path / "copy.png")
    for other in (photo, tmp_path / "copy.png"):
        caplog.clear()
        (printed,) = called(capsys, "verify", finished, photo, other)
        assert printed["identical"] is True
        assert f"{photo} and {other} are the same image" in caplog.text


def test_verify_of_a_run_that_does_not_know_its_training_images(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "domain.npz").unlink()
    photos = sorted(faces.rglob("*.jpg"))[:2]
    (printed,) = called(capsys, "verify", run, *photos)
    assert printed["unusual"] == [None, None]
    assert json.loads((run / "result.json").read_text())["status"] == "done"


def test_a_network_of_drawn_faces_says_so(
    trained: tuple[Any, Path, Any], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    one, other = sorted(faces.rglob("*.jpg"))[:2]
    (printed,) = called(capsys, "verify", trained[1], one, other)
    assert printed["trained_on"] == "synthetic faces: drawn, not photographed"
    drawn = "this network was trained on synthetic faces: drawn, not photographed; do not use it for photographs"
    assert caplog.messages == [drawn]
    caplog.clear()
    assert main(["identify", str(trained[1]), str(one.parent.parent), str(one)]) == 0
    assert json.loads(capsys.readouterr().out)["trained_on"].startswith("synthetic faces")
    assert any(line == drawn or "synthetic faces: drawn" in line for line in caplog.messages)


def test_embed_writes_embeddings_and_names(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sorted(faces.iterdir())[0]
    photos = sorted(folder.iterdir())
    called(capsys, "embed", finished, folder, tmp_path / "z.npy")
    called(capsys, "embed", finished, folder, tmp_path / "table.csv")
    numbers = np.load(tmp_path / "z.npy")
    np.testing.assert_array_equal(numbers, Verifier.load(finished).embed(photos))
    with (tmp_path / "z.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [photo.name for photo in photos]
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = np.array([[row[f"z{k}"] for k in range(numbers.shape[1])] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(table, numbers)


@pytest.mark.parametrize("out", ["z.npy", "z.csv"])
def test_embed_replaces_only_what_it_wrote(
    out: str, finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    folder, table = sorted(faces.iterdir())[0], tmp_path / "z.csv"
    for first, second in ((out, out), ("z.csv", out), ("z.npy", out)):
        called(capsys, "embed", finished, folder, tmp_path / first)
        called(capsys, "embed", finished, folder, tmp_path / second)
    names = [str(tmp_path / "z.npy"), str(table)] if out == "z.npy" else [str(table)]
    assert caplog.messages[-1].endswith(f": {' and '.join(names)}")
    table.unlink()
    (tmp_path / "z.npy").write_bytes(b"mine")
    assert main(["embed", str(finished), str(folder), str(tmp_path / "z.npy")]) == 2
    for content in ("image1,image2\na,b\n", "", "image,person,note\n"):
        table.write_text(content)
        assert main(["embed", str(finished), str(folder), str(tmp_path / out)]) == 2
        assert "exists, and siamese embed did not write it; give another file name" in capsys.readouterr().err
        assert table.read_text() == content
    assert (tmp_path / "z.npy").read_bytes() == b"mine"


def test_photos_are_embedded_in_blocks_and_in_order(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese.command.photos.CHUNK", 4)
    monkeypatch.setattr("siamese.command.photos.HANDED_OVER", 3)
    photos = sorted(faces.rglob("*.jpg"))[:11]
    for k, photo in enumerate(photos):
        (tmp_path / f"photos/{k:02}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / f"photos/{k:02}.jpg").symlink_to(photo)
    (tmp_path / "photos/05.jpg").unlink()
    (tmp_path / "photos/05.jpg").write_bytes(b"no photo")
    called(capsys, "embed", finished, tmp_path / "photos", tmp_path / "z.npy")
    used = [photo for k, photo in enumerate(photos) if k != 5]
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), Verifier.load(finished).embed(used), atol=1e-5)
    assert [row["image"] for row in read_rows(tmp_path / "z.csv")] == [f"{k:02}.jpg" for k in range(11) if k != 5]
    (tmp_path / "pairs.csv").write_text(f"image1,image2\nphotos/00.jpg,{photos[0]}\nphotos/00.jpg,photos/09.jpg\n")
    same, other = called(capsys, "verify", finished, "--pairs", tmp_path / "pairs.csv")
    assert (same["identical"], other["identical"]) == (True, False)
    expected = Verifier.load(finished).verify(photos[0], photos[9])
    assert other["probability"] == pytest.approx(expected.probability, abs=1e-5)


def test_identify_says_that_the_threshold_is_for_one_pair(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    low = tmp_path / "low"
    shutil.copytree(finished, low)
    result = json.loads((low / "result.json").read_text())
    (low / "result.json").write_text(json.dumps(result | {"threshold": 1e-9}))
    photo = min(faces.rglob("*.jpg"))
    assert main(["identify", str(low), str(faces), str(photo)]) == 0
    assert any("is meant for a single pair of photos" in line for line in caplog.messages)
    capsys.readouterr()


@pytest.mark.parametrize("flat", [True, False])
def test_identify_takes_folders_or_single_photos(
    flat: bool, finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = sorted(faces.iterdir())[:3]
    for person in people:
        photos = sorted(person.iterdir())
        target = tmp_path / f"{person.name}.jpg" if flat else tmp_path / person.name
        target.symlink_to(photos[0] if flat else person)
    photo = sorted(people[1].iterdir())[0]
    assert main(["identify", str(finished), str(tmp_path), str(photo), "--top", "2", "--keep-identical"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["people"] == 3
    assert len(printed["matches"]) == 2
    assert printed["matches"][0]["person"] == people[1].name
    keys = {"person", "image", "same", "probability", "score", "identical", "unusual"}
    assert set(printed["matches"][0]) == keys
    assert [match["identical"] for match in printed["matches"]] == [True, False]
    assert printed["unusual"] is False
    assert printed["unusual_in_gallery"] == 0
    assert printed["left_out"] == []


def test_identify_leaves_out_copies_of_the_photo(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = sorted(faces.iterdir())[:2]
    photo, second = sorted(mine.iterdir())[:2]
    with Image.open(photo) as image:
        image.save(tmp_path / "copy.png")
    gallery = tmp_path / "gallery"
    for person, photos in (("Me", [photo, tmp_path / "copy.png", second]), ("Other", [next(other.iterdir())])):
        (gallery / person).mkdir(parents=True)
        for one in photos:
            (gallery / person / one.name).symlink_to(one)
    assert main(["identify", str(finished), str(gallery), str(photo)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["left_out"] == [f"Me/{photo.name}", "Me/copy.png"]
    assert {match["image"] for match in printed["matches"] if match["person"] == "Me"} == {f"Me/{second.name}"}
    assert "is the same image as" in caplog.text
    (gallery / "Me" / second.name).unlink()
    shutil.rmtree(gallery / "Other")
    assert main(["identify", str(finished), str(gallery), str(photo)]) == 2
    assert "holds only copies of" in capsys.readouterr().err


def test_identify_and_embed_count_unusual_photos(
    finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    one = min(faces.rglob("*.jpg"))
    gallery = tmp_path / "gallery"
    noise = noise_photo(gallery / "Noise.png", size=(40, 40))
    (gallery / "One.jpg").symlink_to(one)
    assert main(["identify", str(finished), str(gallery), str(noise), "--keep-identical"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["unusual"], printed["unusual_in_gallery"]) == (True, 1)
    assert {match["person"]: match["unusual"] for match in printed["matches"]} == {"Noise": True, "One": False}
    assert [message.partition(" this network")[0] for message in caplog.messages] == [
        "1 of 2 gallery photos (for example Noise.png) is unlike the images",
        f"Noise.png in the gallery is the same image as {noise}: its rank says nothing about faces",
        f"{noise} is unlike the images",
    ]
    caplog.clear()
    assert main(["embed", str(finished), str(gallery), str(tmp_path / "z.npy")]) == 0
    assert any(line.startswith("1 of 2 photos is unlike the images") for line in caplog.messages)


@pytest.fixture
def scenes(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two photos with two faces and one with one: each face is a photo of the tiny faces on a black ground.

    Instead of the detector, columns that are not black are a face; the faces are not turned or scaled.
    """
    pytest.importorskip("cv2", reason="an extra")
    (tmp_path / "model.onnx").touch()
    monkeypatch.setenv("SIAMESE_YUNET", str(tmp_path / "model.onnx"))

    def detect(rgb: Image.Image, scale: float) -> list[Face]:
        lit = np.flatnonzero(np.asarray(rgb).max((0, 2)) > 0)
        groups = np.split(lit, np.flatnonzero(np.diff(lit) > 50) + 1) if len(lit) else []
        found = [(float(group[0]), float(len(group))) for group in groups]
        return [
            Face((x, 0, w, w), ((x + EYES[0][0], EYES[0][1]), (x + EYES[1][0], EYES[1][1])), 0.9)
            for x, w in sorted(found, key=lambda one: -one[1])
        ]

    monkeypatch.setattr("siamese.data.faces._detect", detect)
    monkeypatch.setattr("siamese.data.faces.PASSES", 0)
    people = [min(person.iterdir()) for person in sorted(faces.iterdir())[:3]]
    files = []
    for name, shown in (("ab", (0, 1)), ("cb", (2, 1)), ("a", (0,))):
        scene = Image.new("RGB", (700, 260))
        for k, person in enumerate(shown):
            side = 250 - 10 * k
            scene.paste(Image.open(people[person]).convert("RGB").resize((side, side)), (350 * k, 0))
        files.append(tmp_path / f"{name}.png")
        scene.save(files[-1])
    return files


def test_the_answer_names_the_face_that_was_compared(
    finished: Path, scenes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ab, cb, a = scenes
    (largest,) = called(capsys, "verify", finished, ab, cb, "--align")
    assert (largest["faces"], largest["face"]) == ([2, 2], [1, 1])
    assert f"{ab} shows 2 faces; face 1 was used (1 is the largest); --face chooses another" in caplog.messages
    (second,) = called(capsys, "verify", finished, ab, cb, "--align", "--face", 2, "--explain", tmp_path / "why.png")
    assert (second["face"], second["identical"]) == ([2, 2], True)  # both show b
    (mixed,) = called(capsys, "verify", finished, cb, a, "--align", "--face", "2,1")
    assert (mixed["faces"], mixed["face"]) == ([2, 1], [2, 1])
    caplog.clear()
    (one,) = called(capsys, "verify", finished, a, ab, "--align")
    assert (one["faces"], one["identical"]) == ([1, 2], True)
    assert not [message for message in caplog.messages if message.startswith(f"{a} shows")]
    assert main(["verify", str(finished), str(ab), str(a), "--align", "--face", "2"]) == 2
    assert capsys.readouterr().err == (
        f"error: {a}: face 2 was asked for, but only 1 face was found; give another photo or face\n"
    )


def test_faces_are_counted_for_lists_folders_and_galleries(
    finished: Path, scenes: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ab, cb, a = scenes
    (tmp_path / "pairs.csv").write_text(f"image1,image2\n{ab},{a}\n{a},{cb}\n")
    printed = called(capsys, "verify", finished, "--pairs", tmp_path / "pairs.csv", "--align")
    assert [line["faces"] for line in printed] == [[2, 1], [1, 2]]
    (several,) = (line for line in caplog.messages if "several faces" in line)
    assert several.startswith("2 photos show several faces (for example ")
    called(capsys, "embed", finished, tmp_path, tmp_path / "z.csv", "--align")
    assert {row["image"]: row["faces"] for row in read_rows(tmp_path / "z.csv")} == {
        "ab.png": "2",
        "cb.png": "2",
        "a.png": "1",
    }
    called(capsys, "embed", finished, tmp_path, tmp_path / "z.npy")
    assert set(read_rows(tmp_path / "z.csv")[0]) == {"image", "person"}
    assert main(["identify", str(finished), str(tmp_path), str(ab), "--align", "--face", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["faces"], found["face"], found["left_out"]) == (2, 2, [])
    assert {match["image"]: match["faces"] for match in found["matches"]} == {"ab.png": 2, "cb.png": 2, "a.png": 1}


@pytest.mark.parametrize(("written", "asked"), [(["--align"], []), ([], ["--align"])])
def test_identify_aligns_photos_as_index_did(
    written: list[str], asked: list[str], finished: Path, scenes: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "people").mkdir()
    shutil.copy(scenes[0], tmp_path / "people")
    identify = ("identify", finished, tmp_path / "gallery", *scenes[:2])
    called(capsys, "index", finished, tmp_path / "people", tmp_path / "gallery", *written)
    assert main([*map(str, identify), *asked]) == 2
    error = capsys.readouterr().err
    remedy = "written with --align; give" if written else "written without --align; leave out"
    assert error.startswith(f"error: {tmp_path / 'gallery'}: {remedy} --align here too, or write the gallery again: ")
    called(capsys, *shlex.split(error.rpartition(" python -m siamese ")[2]))
    called(capsys, *identify, *asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "RUN", "a.jpg"], "give two photos, or --pairs FILE"),
        (["verify", "RUN"], "give two photos, or --pairs FILE"),
        (["verify", "RUN", "none.jpg", "none.jpg"], "none.jpg: missing; give another photo"),
        (["verify", "none", "a.jpg", "b.jpg"], "run=none: no such folder"),
        (["verify", "RUN", "--pairs", "empty.csv"], "empty.csv:1: no column image1"),
        (["verify", "RUN", "--pairs", "bad.csv"], "bad.csv:2: expected two file names, and a label that is 1"),
        (["verify", "RUN", "--pairs", "bad.csv", "--explain", "x.png"], "--explain is for two photos"),
        (
            ["verify", "RUN", "a.jpg", "b.jpg", "--explain", "x.gif"],
            "--explain x.gif: give a file name that ends in .png",
        ),
        (
            ["verify", "RUN", "a.jpg", "b.jpg", "--explain", "none/x.png"],
            "none/x.png: folder none does not exist; create it first",
        ),
        (["export", "RUN", "bad.csv", "--format", "pt2"], "bad.csv is a file; give a folder"),
        (["embed", "RUN", ".", "z.txt"], "z.txt: give a file name that ends in .npy or .csv"),
        (["embed", "RUN", ".", "nowhere/z.npy"], "folder nowhere does not exist; create it first"),
        (["embed", "RUN", ".", "z.npy"], "contains no photo"),
        (["identify", "RUN", "nowhere", "a.jpg"], "nowhere: no such folder"),
        (["identify", "RUN", ".", "a.jpg", "--top", "0"], "--top 0: give 1 or more"),
        (["verify", "RUN", "a.jpg", "b.jpg", "--face", "2,x"], "--face 2,x: give a number (1 is the largest face), or"),
        (["verify", "RUN", "a.jpg", "b.jpg", "--face", "1,2,3"], "--face 1,2,3: give a number"),
        (["verify", "RUN", "a.jpg", "b.jpg", "--face", "2"], "face=2: this run uses photos as they are; align them"),
        (["verify", "RUN", "--pairs", "bad.csv", "--face", "2"], "--face is for two photos; leave out --pairs"),
        (["identify", "RUN", ".", "a.jpg", "--face", "1,2"], "--face 1,2: give one number, for the photo to identify"),
    ],
)
def test_an_impossible_request_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.csv").write_text("image1,image2,label\na.jpg,b.jpg,maybe\n")
    assert main([str(finished) if argument == "RUN" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("people", "logged"),
    [
        (200, "accuracy: 75.0 % of 200 pairs (95 % confidence interval 68.6 - 80.5)"),
        (
            8,
            "accuracy: 75.0 % of 200 pairs (95 % confidence interval 30.5 - 95.3 for other people; these pairs show 8 ",
        ),
        (
            2,
            "accuracy: 75.0 % of 200 pairs (no confidence interval: these pairs show 2 people; give ",
        ),
    ],
)
def test_the_interval_of_few_people_is_wide(people: int, logged: str, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [Pair(f"{k % people}/{k}.png", f"{k % people}/{k}b.png", 1) for k in range(200)]
    with caplog.at_level(logging.INFO):
        _log_accuracy(pairs, [k % 4 > 0 for k in range(200)])
    assert caplog.messages[0].startswith(logged)
