"""A gallery is embedded once by index, and identify asks it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from siamese import Verifier
from siamese.command.main import main
from siamese.inference.gallery import Gallery, write_gallery
from siamese.inference.gallery_files import Embedded, replacing_folder, stamp_of
from siamese.inference.verifier import Described

pytestmark = pytest.mark.integration


@pytest.fixture
def photos(tiny_root: Path, tmp_path: Path) -> Path:
    """A gallery of four people with two photos each."""
    for person in sorted((tiny_root / "lfw").iterdir())[:4]:
        for photo in sorted(person.iterdir())[:2]:
            (tmp_path / "photos" / person.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, tmp_path / "photos" / person.name)
    return tmp_path / "photos"


def answers(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    return [json.loads(printed)] if printed.startswith("{\n") else [json.loads(line) for line in printed.splitlines()]


def test_a_written_gallery_answers_like_its_photos(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [*sorted(photos.rglob("*.jpg"))[:2], tmp_path / "broken.jpg"]
    asked[2].write_bytes(b"no photo")
    answers(capsys, "index", finished, photos, tmp_path / "written")
    (first,) = answers(capsys, "identify", finished, photos, asked[0])
    caplog.clear()
    lines = answers(capsys, "identify", finished, tmp_path / "written", *asked)
    assert "added or removed" not in caplog.text
    for key in ("people", "left_out", "unusual", "unusual_in_gallery", "threshold"):
        assert lines[0][key] == first[key]
    for one, other in zip(lines[0]["matches"], first["matches"], strict=True):
        assert one == other | {key: pytest.approx(other[key], abs=1e-4) for key in ("probability", "score")}
    assert [line["image"] for line in lines] == [*map(str, asked)]
    (alone,) = answers(capsys, "identify", finished, tmp_path / "written", asked[1])
    assert lines[1] == alone
    assert "not an image" in lines[2]["error"]
    assert main(["identify", str(finished), str(tmp_path / "written"), str(asked[2]), str(asked[2])]) == 2
    assert capsys.readouterr().err.startswith("error: none of the photos can be used")
    assert main(["identify", str(finished), str(tmp_path / "written"), str(asked[2]), str(asked[2])]) == 2
    assert capsys.readouterr().err.startswith("error: none of the photos can be used")
    verifier = Verifier.load(finished)
    (found,) = Gallery.load(tmp_path / "written", verifier).identify(verifier, [asked[0]], top=1)
    assert [match.person for match in found.matches] == [lines[0]["matches"][0]["person"]]


def test_a_photo_with_only_copies_in_the_gallery_does_not_stop_the_others(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, *_ = sorted(photos.rglob("*.jpg"))
    (tmp_path / "copies").mkdir()
    shutil.copy(one, tmp_path / "copies")
    lines = answers(capsys, "identify", finished, tmp_path / "copies", one, other)
    assert "copies: holds only copies of" in lines[0]["error"]
    assert (lines[1]["image"], len(lines[1]["matches"])) == (str(other), 1)


def test_changes_are_noticed_and_only_new_photos_are_embedded(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level("INFO")
    monkeypatch.setattr("siamese.parallel.REPORT_SECONDS", 0)
    written = tmp_path / "written"
    answers(capsys, "index", finished, photos, written)
    assert "embedding: 8 of 8 images, " in caplog.text
    one, other, *_ = sorted(photos.rglob("*.jpg"))
    new = photos / "New" / "n.jpg"
    new.parent.mkdir()
    Image.open(one).rotate(20).save(new)
    Image.open(one).rotate(90).save(other)  # the same person, changed in place
    os.utime(other, (1, 1))
    caplog.clear()
    (answer,) = answers(capsys, "identify", finished, written, one)
    assert f"files were added or removed in {photos} since it was written; to update it: python -m" in caplog.text
    assert f"{other.relative_to(photos)} was changed or removed since it was embedded" in caplog.text
    assert "New" not in {match["person"] for match in answer["matches"]}

    embedded: list[str] = []
    prepare = Verifier.prepare
    monkeypatch.setattr(
        Verifier, "prepare", lambda self, photo, face=None: embedded.append(str(photo)) or prepare(self, photo, face)
    )
    answers(capsys, "index", finished, photos, written)
    assert sorted(embedded) == sorted([str(new), str(other)])
    caplog.clear()
    (answer,) = answers(capsys, "identify", finished, written, one)
    assert "changed" not in caplog.text
    assert "added" not in caplog.text
    assert "New" in {match["person"] for match in answer["matches"]}
    (fresh,) = answers(capsys, "identify", finished, photos, one)
    assert [match["image"] for match in answer["matches"]] == [match["image"] for match in fresh["matches"]]
    shutil.copy(one, tmp_path / "asked.jpg")
    shutil.rmtree(photos)
    answers(capsys, "identify", finished, written, tmp_path / "asked.jpg")
    assert f"its photos are no longer in {photos}" in caplog.text


def test_a_gallery_of_another_run_is_refused(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, other = tmp_path / "written", tmp_path / "other"
    answers(capsys, "index", finished, photos, written)
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    answers(capsys, "identify", moved, written, min(photos.rglob("*.jpg")))  # the same weights
    shutil.copytree(finished, other)
    config = (other / "config.yaml").read_text()
    views = [f"flip_average: {one}" for one in ("true", "false")]
    old, new = views if views[0] in config else views[::-1]
    (other / "config.yaml").write_text(config.replace(old, new))
    assert main(["identify", str(other), str(written), str(min(photos.rglob("*.jpg")))]) == 2
    error = capsys.readouterr().err
    assert "embedded these photos, not" in error
    assert error.count("\n") == 1
    answers(capsys, "index", other, photos, written)  # replaces it
    answers(capsys, "identify", other, written, min(photos.rglob("*.jpg")))


def test_a_failure_leaves_the_earlier_gallery(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    answers(capsys, "index", finished, photos, written)
    before = (written / "embeddings.npy").read_bytes()
    for photo in photos.rglob("*.jpg"):
        photo.write_bytes(b"no photo")
    assert main(["index", str(finished), str(photos), str(written)]) == 2
    assert "no photo in it can be used" in capsys.readouterr().err
    assert (written / "embeddings.npy").read_bytes() == before
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    (written / "photos.npz").write_bytes(before[:100])
    assert main(["identify", str(finished), str(written), "a.jpg"]) == 2
    assert "written: is damaged" in capsys.readouterr().err
    (photos / "mine.txt").touch()
    assert main(["index", str(finished), str(photos), str(photos)]) == 2
    assert "exists, and siamese index did not write it" in capsys.readouterr().err
    assert main(["index", str(finished), str(photos), str(photos / "index")]) == 2
    assert "lies in the gallery" in capsys.readouterr().err


def test_an_approximate_index_finds_the_same_people(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The gallery has the photos, and thousands of people who are not on any: between, and far from, those."""
    faiss = pytest.importorskip("faiss", reason="an extra")
    caplog.set_level("INFO")
    verifier, written, asked = Verifier.load(finished), tmp_path / "written", min(photos.rglob("*.jpg"))
    names = [str(photo.relative_to(photos)) for photo in sorted(photos.rglob("*.jpg"))]
    prepared = [verifier.prepare(photos / name) for name in names]
    z = verifier.embed_prepared(prepared)
    rng = np.random.default_rng(0)
    drawn = rng.dirichlet(np.full(len(z), 0.3), size=3000) @ z + rng.normal(0, 0.1 * z.std(), (3000, z.shape[1]))
    others = [f"{k}/{k}.jpg" for k in range(len(drawn))]
    unknown = [Described(k.to_bytes(16, "big"), None) for k in range(len(drawn))]
    person_of = {name: name.partition("/")[0] for name in (*names, *others)}

    def write() -> None:
        blocks = [
            Embedded(names, [*map(verifier.describe, prepared)], z),
            Embedded(others, unknown, drawn.astype(np.float32)),
        ]  # fmt: skip
        stamps = {name: stamp_of(photos / name) for name in person_of}
        with replacing_folder(written) as new:
            write_gallery(new, verifier, photos, blocks, person_of, stamps, approximate=True)

    write()
    assert "no approximate index: comparing with the whole gallery is as fast for 3,008 photos" in caplog.text
    monkeypatch.setattr("siamese.inference.gallery.LEAST_INDEXED", 1000)
    monkeypatch.setattr("siamese.inference.gallery.LEAST_RECALL", 0.5)
    monkeypatch.setattr("siamese.inference.gallery.CANDIDATES", 100)
    write()
    (exact,) = answers(capsys, "identify", finished, written, asked, "--exact")
    assert "recall" not in exact
    (found,) = answers(capsys, "identify", finished, written, asked)
    assert 0.5 <= found.pop("recall")["1"] <= 1
    assert found["matches"][0] == exact["matches"][0]
    assert found["people"] == exact["people"] == 3004
    (found,) = answers(capsys, "identify", finished, written, asked, "--top", "1", "--keep-identical")
    assert found["matches"][0]["identical"] is True

    index = (written / "index.faiss").read_bytes()
    fewer = faiss.read_index(str(written / "index.faiss"))
    fewer.reset()
    for damage in (None, index[:100], index[: len(index) // 2], bytes(faiss.serialize_index(fewer))):
        (written / "index.faiss").unlink(missing_ok=True)
        if damage:
            (written / "index.faiss").write_bytes(damage)
        assert main(["identify", str(finished), str(written), str(asked)]) == 2
        assert re.fullmatch(rf"error: {written}: is damaged \(.*index.*\); write it again.*\n", capsys.readouterr().err)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "faiss", None)
        assert main(["identify", str(finished), str(written), str(asked)]) == 2
        assert "to compare with the whole gallery: --exact" in capsys.readouterr().err
    assert answers(capsys, "identify", finished, written, asked, "--exact") == [exact]

    monkeypatch.setattr("siamese.inference.gallery.LEAST_RECALL", 1.1)
    write()
    assert "no approximate index: it would miss" in caplog.text
    assert not (written / "index.faiss").exists()
    assert answers(capsys, "identify", finished, written, asked) == [exact]


def test_the_scores_of_a_gallery_do_not_depend_on_its_blocks(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(capsys, "index", finished, photos, tmp_path / "written")
    verifier = Verifier.load(finished)
    gallery = Gallery.load(tmp_path / "written", verifier)
    z = gallery.rows(np.array([0, 1]))
    np.testing.assert_array_equal(z, gallery.embeddings[:2])
    whole = gallery.scores(verifier, z)
    monkeypatch.setattr("siamese.inference.gallery.BLOCK_BYTES", 3 * 4 * z.shape[1])
    assert [rows for rows, _ in gallery.blocks()] == [slice(0, 3), slice(3, 6), slice(6, 8)]
    np.testing.assert_allclose(gallery.scores(verifier, z), whole, rtol=1e-5, atol=1e-6)
