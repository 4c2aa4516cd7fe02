"""A finished run that is asked about photos: from Python and from the command line."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import eval_config, image_options
from conftest import ROOT, read_rows
from PIL import Image
from torch import Tensor

from siamese import Verifier
from siamese.command.main import main
from siamese.errors import ConfigError, DataError
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision
from siamese.inference.occlusion import explain_pair, explanation_figure, overlay
from siamese.models.encoder import Encoder
from siamese.models.siamese import CosineHead, SiameseNetwork
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder


@pytest.fixture(scope="module")
def verifier(finished: Path) -> Verifier:
    return Verifier.load(finished)


@pytest.fixture(scope="module")
def scored(finished: Path) -> list[dict[str, str]]:
    return read_rows(finished / "predictions.csv")


@pytest.fixture(scope="module")
def faces(tiny_root: Path) -> Path:
    return tiny_root / "lfw"


# --- from Python ------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_run(verifier: Verifier, scored: list[dict[str, str]], faces: Path) -> None:
    for row in scored:
        answer = verifier.verify(faces / row["image1"], str(faces / row["image2"]))
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-4)
        assert answer.score == pytest.approx(float(row["score"]), rel=1e-3, abs=1e-3)
        assert answer.same == (answer.probability >= answer.threshold)
        if abs(answer.probability - answer.threshold) > 1e-3:
            assert answer.same == bool(int(row["predicted"]))


def test_a_picture_that_is_open_does_as_well_as_a_file(verifier: Verifier, faces: Path) -> None:
    first, second = sorted(faces.rglob("*.jpg"))[:2]
    with Image.open(first) as one, Image.open(second) as two:
        assert verifier.verify(one, two) == verifier.verify(first, second)


def test_embeddings_can_be_kept_and_compared(verifier: Verifier, faces: Path) -> None:
    photos = sorted(faces.rglob("*.jpg"))[:5]
    embeddings = verifier.embed(photos)
    assert embeddings.shape == (5, verifier.network.encoder.embedding_dim)
    assert embeddings.dtype == np.float32
    assert verifier.compare(embeddings, [(0, 3)])[0].score == pytest.approx(verifier.verify(photos[0], photos[3]).score)
    assert verifier.embed([]).shape == (0, embeddings.shape[1])
    assert verifier.compare(embeddings, []) == []


def test_the_people_of_a_gallery_are_ranked_by_their_best_photo(verifier: Verifier, faces: Path) -> None:
    people = {folder.name: sorted(folder.iterdir()) for folder in sorted(faces.iterdir())[:4]}
    name, photos = next(iter(people.items()))
    matches = verifier.identify(people, photos[0])  # which is in the gallery itself
    assert [match.person for match in matches[:1]] == [name]
    assert matches[0].photo == str(photos[0])
    scores = [match.verification.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    assert {match.person for match in matches} == set(people)
    with pytest.raises(DataError, match="the gallery is empty"):
        verifier.identify({}, photos[0])


def test_photos_that_cannot_be_read_are_named(verifier: Verifier, faces: Path, tmp_path: Path) -> None:
    good = next(iter(faces.rglob("*.jpg")))
    (tmp_path / "text.jpg").write_text("no image")
    for bad, message in (
        (tmp_path / "text.jpg", "text.jpg: not an image"),
        (tmp_path / "none.jpg", "none.jpg: missing"),
        (tmp_path, "not a regular file"),
    ):
        with pytest.raises(DataError, match=message):
            verifier.verify(good, bad)


def test_what_is_no_run_to_ask(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run found"):
        Verifier.load(tmp_path)
    evaluate(eval_config(run=str(finished)), RunFolder(tmp_path / "eval"))
    with pytest.raises(ConfigError, match="is an evaluation; name the run that it scored"):
        Verifier.load(tmp_path / "eval")


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, siamese; print('torch' in sys.modules); siamese.Verifier; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


# --- explanations -----------------------------------------------------------------------------------------


class CornerEncoder(Encoder):
    """Sees nothing but the mean of the upper left quarter, as an angle."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim = 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        angle_B = x_BCHW[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([angle_B.cos(), angle_B.sin()], 1)


def test_what_matters_is_where_the_network_looks() -> None:
    network = SiameseNetwork(CornerEncoder(), CosineHead())
    decision = Decision(Calibration(slope=10.0, intercept=-5.0), 0.5)
    verifier = Verifier(Path("run"), network, image_options(image_size=32), decision, torch.device("cpu"))
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16, :16] = 200
    bright = Image.fromarray(pixels)
    found = explain_pair(verifier, bright, bright)
    assert found.relevance.shape == (2, 32, 32)
    assert found.photos.shape == (2, 32, 32, 1)
    assert (found.relevance[:, :10, :10] > 0).all()  # covering it makes the pair less alike
    assert np.abs(found.relevance[:, 20:, 20:]).max() < 1e-4
    # Of two photos that differ there, covering what sets one apart makes them more alike.
    other = explain_pair(verifier, bright, Image.fromarray(np.full((32, 32), 50, np.uint8)))
    assert (other.relevance[0, :10, :10] < 0).all()
    assert [picture.size for picture in overlay(found, height=100)] == [(100, 100)] * 2


def test_an_explanation_is_drawn(verifier: Verifier, faces: Path, tmp_path: Path) -> None:
    first, second = sorted(faces.rglob("*.jpg"))[:2]
    figure = explanation_figure(explain_pair(verifier, first, second), verifier.verify(first, second))
    figure.savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300


def test_the_gallery_shows_what_answers_rest_on(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = (run / "report.html").read_text(encoding="utf-8")
    assert "what the answer rests on" not in before
    assert main(["report", str(run), "--explain"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = len(list((run / "explanations").glob("*.jpg")))
    assert page.count("what the answer rests on") == shown > 0
    assert page.count("<figure") == before.count("<figure")
    assert main(["report", str(run)]) == 0  # they stay
    assert (run / "report.html").read_text(encoding="utf-8") == page


# --- from the command line --------------------------------------------------------------------------------


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    assert main([str(argument) for argument in arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_verify_prints_json_and_draws(
    finished: Path, scored: list[dict[str, str]], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = scored[-1]
    photos = faces / row["image1"], faces / row["image2"]
    (told,) = called(capsys, "verify", finished, *photos, "--explain", tmp_path / "why.svg")
    assert told["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)
    assert set(told) == {"image1", "image2", "same", "probability", "threshold", "score", "run"}
    assert (tmp_path / "why.svg").read_text().startswith("<?xml")


def test_verify_answers_a_list_whose_photos_may_be_broken(
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
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    told = called(capsys, "verify", finished, "--pairs", tmp_path / "pairs.csv")
    assert [sorted(set(line) & {"label", "error", "same"}) for line in told] == [
        ["label", "same"],
        ["error", "label"],
        ["same"],
    ]
    assert "broken.jpg" in told[1]["error"]
    assert "of 1 pairs" in caplog.text
    assert "1 photos cannot be used" in caplog.text


def test_embed_writes_numbers_and_names(
    finished: Path, verifier: Verifier, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sorted(faces.iterdir())[0]
    photos = sorted(folder.iterdir())
    called(capsys, "embed", finished, folder, tmp_path / "z.npy")
    called(capsys, "embed", finished, folder, tmp_path / "table.csv")
    numbers = np.load(tmp_path / "z.npy")
    np.testing.assert_array_equal(numbers, verifier.embed(photos))
    with (tmp_path / "z.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [photo.name for photo in photos]
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = np.array([[row[f"z{k}"] for k in range(numbers.shape[1])] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(table, numbers)


@pytest.mark.parametrize("flat", [True, False])
def test_identify_takes_folders_or_a_photo_of_each(
    flat: bool, finished: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people = sorted(faces.iterdir())[:3]
    for person in people:
        photos = sorted(person.iterdir())
        target = tmp_path / f"{person.name}.jpg" if flat else tmp_path / person.name
        target.symlink_to(photos[0] if flat else person)
    asked = sorted(people[1].iterdir())[0]
    assert main(["identify", str(finished), str(tmp_path), str(asked), "--top", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["people"] == 3
    assert len(told["matches"]) == 2
    assert told["matches"][0]["person"] == people[1].name
    assert set(told["matches"][0]) == {"person", "image", "same", "probability", "score"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "RUN", "a.jpg"], "give two photos, or --pairs FILE"),
        (["verify", "RUN"], "give two photos, or --pairs FILE"),
        (["verify", "RUN", "none.jpg", "none.jpg"], "none.jpg: missing; give another photo"),
        (["verify", "none", "a.jpg", "b.jpg"], "run=none: no run found"),
        (["verify", "RUN", "--pairs", "empty.csv"], "empty.csv:1: no column image1"),
        (["verify", "RUN", "--pairs", "bad.csv"], "bad.csv:2: expected two files, and as label 1"),
        (["verify", "RUN", "--pairs", "bad.csv", "--explain", "x.png"], "--explain is for two photos"),
        (["verify", "RUN", "a.jpg", "b.jpg", "--explain", "x.gif"], "--explain x.gif: name a file that ends in .png"),
        (["verify", "RUN", "a.jpg", "b.jpg", "--explain", "none/x.png"], "none/x.png: no such folder; make none first"),
        (["export", "RUN", "bad.csv", "--format", "pt2"], "bad.csv is a file; name a folder"),
        (["embed", "RUN", ".", "z.txt"], "z.txt: name a file that ends in .npy or .csv"),
        (["embed", "RUN", ".", "nowhere/z.npy"], "no such folder; make nowhere first"),
        (["embed", "RUN", ".", "z.npy"], "no photo in it"),
        (["identify", "RUN", "nowhere", "a.jpg"], "nowhere: no such folder"),
        (["identify", "RUN", ".", "a.jpg", "--top", "0"], "--top 0: give 1 or more"),
    ],
)
def test_what_cannot_be_asked(
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
