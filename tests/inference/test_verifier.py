"""A finished run that verifies and identifies photos, from Python."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import eval_config
from conftest import noise_photo, read_rows
from PIL import Image

from siamese import Verifier
from siamese.errors import ConfigError, DataError
from siamese.inference.gallery import Gallery
from siamese.inference.gallery_files import Embedded
from siamese.protocols.evaluate import evaluate
from siamese.runs.folder import RunFolder

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def verifier(finished: Path) -> Verifier:
    return Verifier.load(finished)


@pytest.fixture(scope="module")
def scored(finished: Path) -> list[dict[str, str]]:
    return read_rows(finished / "predictions.csv")


@pytest.fixture(scope="module")
def faces(tiny_root: Path) -> Path:
    return tiny_root / "lfw"


def test_results_are_those_of_the_run(verifier: Verifier, scored: list[dict[str, str]], faces: Path) -> None:
    for row in scored:
        answer = verifier.verify(faces / row["image1"], str(faces / row["image2"]))
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-4)
        assert answer.score == pytest.approx(float(row["score"]), rel=1e-3, abs=1e-3)
        assert answer.same == (answer.probability >= answer.threshold)
        if abs(answer.probability - answer.threshold) > 1e-3:
            assert answer.same == bool(int(row["predicted"]))


def test_a_decision_needs_no_slow_imports(finished: Path, faces: Path) -> None:
    """torch's compiler would take longer than everything else."""
    photos = [str(photo) for photo in sorted(faces.rglob("*.jpg"))[:2]]
    code = f"import sys; from siamese.command.main import main; main({['verify', str(finished), *photos]})"
    code += "; print([name for name in ('torch._dynamo', 'scipy', 'matplotlib', 'lightning') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_kind_of_photo_gives_the_same_as_a_file(verifier: Verifier, faces: Path) -> None:
    first, second = sorted(faces.rglob("*.jpg"))[:2]
    expected = verifier.verify(first, second)
    with Image.open(first) as image, first.open("rb") as file:
        pixels = np.asarray(image)
        kinds = (
            image, file, str(first), first.read_bytes(), bytearray(first.read_bytes()), BytesIO(first.read_bytes()),
            pixels, np.asfortranarray(pixels), Pipe(first.read_bytes()),
        )  # fmt: skip
        for kind in kinds:
            assert verifier.verify(kind, second) == expected
    grey = np.asarray(Image.open(first).convert("L"))
    np.testing.assert_array_equal(verifier.read(grey), verifier.read(Image.fromarray(grey)))


class Pipe:
    """A file that can only be read once, from its start to its end, as from a network."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read(self) -> bytes:
        return self.content


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (None, "not NoneType"),
        (7, "not int"),
        ([1, 2], "not list"),
        (StringIO("x"), "opened in binary mode"),
        (np.zeros((3, 8, 8), np.float32), r"not float32 \[3, 8, 8\]"),
        (np.zeros((8, 8), np.int64), r"not int64 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"not uint8 \[8, 8, 4\]"),
        (np.zeros(8, np.uint8), r"not uint8 \[8\]"),
        (torch.zeros(3, 8, 8), "not Tensor"),
    ],
)
def test_anything_else_is_named_by_its_type(verifier: Verifier, photo: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as raised:
        verifier.read(photo)
    assert len(str(raised.value)) < 110


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0"])
def test_bytes_that_are_no_image(verifier: Verifier, content: bytes) -> None:
    with pytest.raises(DataError, match="photo: not an image"):
        verifier.read(content)


def test_photos_are_compared_with_the_training_images(verifier: Verifier, faces: Path, tmp_path: Path) -> None:
    first, second = sorted(faces.rglob("*.jpg"))[:2]
    noise = noise_photo(tmp_path / "noise.png", size=(40, 40))
    answer = verifier.verify(first, noise)
    assert answer.unusual == (False, True)
    assert answer.identical is False
    assert verifier.verify(first, first).identical is True
    people = {"one": [first], "noise": [noise, second]}
    ranked = verifier.identify(people, second, keep_identical=True)
    unusual = {match.photo: match.verification.unusual for match in ranked}
    assert unusual == {str(first): (False, False), str(second): (False, False)}
    # The answer for a photo does not depend on the photos beside it.
    pixels = [verifier.read(photo) for photo in (first, noise, second)]
    assert verifier.unusual(pixels) == [verifier.unusual([photo])[0] for photo in pixels]
    (only_embeddings,) = verifier.compare(verifier.embed([first, noise]), [(0, 1)])
    assert (only_embeddings.identical, only_embeddings.unusual) == (None, (None, None))


def test_a_blank_photo_gets_no_answer(verifier: Verifier, faces: Path) -> None:
    blank = Image.new("RGB", (60, 60), "white")
    with pytest.raises(DataError, match="photo: all its pixels are equal"):
        verifier.verify(next(faces.rglob("*.jpg")), blank)


@pytest.mark.parametrize("described", [True, False])
def test_blank_photos_are_unusual_whatever_the_run_knows(
    described: bool, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not described:
        monkeypatch.setattr(verifier, "domain", None)
    rng = np.random.default_rng(0)
    paper, other = (rng.normal(245, 2, (90, 90)).astype(np.uint8) for _ in range(2))
    for second in (paper, other, np.asarray(Image.linear_gradient("L"))):
        answer = verifier.verify(paper, second)
        assert answer.unusual == (True, True)
        assert "do not trust this decision" in " ".join(verifier.cautions(answer, "one", "other"))


def test_a_face_is_chosen_only_if_photos_are_aligned(verifier: Verifier, faces: Path) -> None:
    photo = min(faces.rglob("*.jpg"))
    assert verifier.verify(photo, photo)[-2:] == ((None, None), (None, None))
    with pytest.raises(ConfigError, match="face=1: this run uses photos as they are; align them"):
        verifier.identify({"me": photo}, photo, face=1)
    with pytest.raises(ConfigError, match=r"face=0: give 1 \(the largest face\) or more"):
        verifier.prepare(photo, 0)


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
    matches = verifier.identify(people, photos[0], keep_identical=True)  # which is in the gallery itself
    assert [match.person for match in matches[:1]] == [name]
    assert matches[0].photo == str(photos[0])
    scores = [match.verification.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    assert {match.person for match in matches} == set(people)
    with pytest.raises(DataError, match="the gallery is empty"):
        verifier.identify({}, photos[0])
    others = verifier.identify(people, photos[0].read_bytes())
    assert str(photos[0]) not in {match.photo for match in others}
    written = {f"{person}/{photo.name}": photo for person, found in people.items() for photo in found}
    described = [*map(verifier.describe, map(verifier.prepare, written.values()))]
    block = Embedded([*written], described, verifier.embed(written.values()))
    gallery = Gallery.of(verifier, [block], {name: name.partition("/")[0] for name in written})
    (answer,) = gallery.identify(verifier, [photos[0]])
    assert [match._replace(photo=str(written[match.photo])) for match in answer.matches] == others
    single = verifier.identify({person: found[1] for person, found in people.items()}, photos[0])
    assert {match.photo for match in single} == {str(found[1]) for found in people.values()}
    with pytest.raises(DataError, match="holds only the photo itself"):
        verifier.identify({"me": [photos[0]]}, photos[0])


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


def test_a_verifier_needs_a_trained_run(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run found; give a folder that holds a result\.json"):
        Verifier.load(tmp_path)
    evaluate(eval_config(run=str(finished)), RunFolder(tmp_path / "eval"))
    with pytest.raises(ConfigError, match="is an evaluation; give the run that it scored"):
        Verifier.load(tmp_path / "eval")


def test_loading_changes_no_setting_of_pytorch(finished: Path) -> None:
    def settings() -> list[object]:
        return [
            torch.get_num_threads(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_rng_state().tolist(),
        ]

    before = settings()
    verifier = Verifier.load(finished)
    verifier.embed([Image.linear_gradient("L")])
    assert settings() == before
