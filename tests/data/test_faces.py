"""Faces found and aligned, on synthetic faces; the detector's file is looked for where the environment names it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from configs import image_options, section
from PIL import Image

from siamese.data import faces, fetch
from siamese.data.faces import EYES, FRAME, MODEL, Face, align_eyes, find_faces, prepare_detector
from siamese.data.images import NoFaceError, decode, why_unusable
from siamese.data.sources import has_outside_data
from siamese.errors import ConfigError, DataError, MissingPackageError
from siamese.inference.verifier import Verifier

HERE = Path(os.environ.get("SIAMESE_YUNET") or Path(__file__).parents[3] / "shared/yunet" / MODEL)


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real detector; skips without its file or OpenCV."""
    pytest.importorskip("cv2", reason="an extra")
    if not HERE.is_file():
        pytest.skip("the face detector's file is not here")
    monkeypatch.setenv("SIAMESE_YUNET", str(HERE))


@pytest.fixture
def eyes_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of the detector: a red dot and a blue dot are the eyes of a face, wherever they are."""

    def detect(rgb: Image.Image, scale: float) -> list[Face]:
        pixels = np.asarray(rgb).astype(int)
        found = []
        for band in (0, 2):
            strong = pixels[..., band] - pixels.sum(-1) + pixels[..., band] > 60
            if not strong.any():
                return []
            v, u = np.argwhere(strong).mean(0)
            found.append((float(u), float(v)))
        (a, b), (x, y) = sorted(found)
        return [Face((a, b, 2 * (x - a), 2 * (x - a)), ((a, b), (x, y)), 0.9)]

    monkeypatch.setattr(faces, "_detect", detect)


def dots(size: tuple[int, int], one: tuple[float, float], other: tuple[float, float], radius: int = 3) -> Image.Image:
    image = Image.new("RGB", size, "gray")
    for (u, v), color in ((one, (255, 0, 0)), (other, (0, 0, 255))):
        image.paste(color, (round(u) - radius, round(v) - radius, round(u) + radius + 1, round(v) + radius + 1))
    return image


@pytest.mark.parametrize("distance", [22, 43, 90, 200, 500])
@pytest.mark.parametrize("degrees", [-40, 0, 13, 40])
def test_the_eyes_are_brought_to_their_place(eyes_at: None, distance: int, degrees: float) -> None:
    angle = math.radians(degrees)
    middle = np.array([640, 500])
    half = distance / 2 * np.array([math.cos(angle), math.sin(angle)])
    photo = dots((1280, 1000), tuple(middle - half), tuple(middle + half), radius=max(2, distance // 12))
    aligned, _ = align_eyes(photo)
    assert aligned.size == (FRAME, FRAME)
    (face,) = faces._detect(aligned, 1.0)
    np.testing.assert_allclose(face.eyes, EYES, atol=1.0)


def test_a_photo_without_a_face_has_a_reason(eyes_at: None) -> None:
    with pytest.raises(NoFaceError) as raised:
        align_eyes(Image.new("RGB", (300, 300), "gray"))
    assert why_unusable(raised.value) == "no face found"
    with pytest.raises(NoFaceError, match="face 2 was asked for, but only 1 face was found"):
        align_eyes(dots((300, 300), (100, 100), (140, 100)), number=2)


def test_alignment_is_part_of_preprocessing(eyes_at: None, tmp_path: Path) -> None:
    dots((500, 400), (200, 150), (300, 150), 8).save(tmp_path / "a.png")
    plain = decode(tmp_path / "a.png", image_options(image_size=50, color=True))
    aligned = decode(tmp_path / "a.png", image_options(image_size=50, color=True, align="eyes"))
    assert aligned.shape == plain.shape
    (u, v) = EYES[0]
    assert aligned[0, round(v / 5), round(u / 5)] > 150
    assert not np.array_equal(plain, aligned)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_a_photo_of_any_mode_is_aligned_like_one_in_rgb(eyes_at: None, mode: str) -> None:
    photo = dots((1200, 900), (300, 400), (700, 420), 30).convert(mode)  # so large that it is reduced before
    np.testing.assert_array_equal(*(np.asarray(align_eyes(one)[0]) for one in (photo, photo.convert("RGB"))))


def test_aligned_data_counts_as_outside_data() -> None:
    assert [has_outside_data(section("data", name="lfw", align=align)) for align in (None, "eyes")] == [False, True]


@pytest.mark.integration
def test_a_run_is_asked_about_aligned_photos(
    eyes_at: None, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cv2", reason="an extra")
    (tmp_path / MODEL).touch()
    monkeypatch.setenv("SIAMESE_YUNET", str(tmp_path / MODEL))
    plain, aligning = Verifier.load(finished), Verifier.load(finished, align=True)
    scene = dots((900, 700), (600, 300), (680, 330), 6)
    np.testing.assert_array_equal(aligning.read(scene), plain.read(align_eyes(scene)[0]))
    with pytest.raises(DataError, match="photo: no face found; give another photo"):
        aligning.read(Image.new("RGB", (300, 300), "gray"))


def test_a_detector_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="an extra")
    monkeypatch.setenv("SIAMESE_YUNET", str(tmp_path / "none.onnx"))
    with pytest.raises(ConfigError, match=r"none\.onnx: no such file; give the path of face_detection_yunet"):
        prepare_detector()
    monkeypatch.delenv("SIAMESE_YUNET")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(faces, "MODEL_URL", "http://127.0.0.1:9/x.onnx")
    with pytest.raises(DataError, match=r"127\.0\.0\.1.* download it by hand to .*siamese/face_detection"):
        prepare_detector()


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingPackageError, match=r"data\.align=eyes needs opencv-python-headless.*\[faces\]"):
        prepare_detector()


def test_the_detector_finds_nothing_on_blank_pictures_and_noise(detector: None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for picture in (Image.new("RGB", (300, 200), "white"), Image.fromarray(noise), Image.new("L", (1, 1))):
        assert find_faces(picture) == []


@pytest.mark.slow
def test_faces_of_lfw_are_found_wherever_they_are(detector: None) -> None:
    root = Path(os.environ.get("LFW_ROOT") or Path(__file__).parents[3] / "shared/lfw") / "lfw-deepfunneled"
    photos = sorted(root.glob("A*/*_0001.jpg"))[:20]
    if not photos:
        pytest.skip("LFW is not here")
    for photo in photos:
        face = Image.open(photo)
        scene = Image.new("RGB", (900, 700), (90, 110, 80))
        scene.paste(face.rotate(17, Image.Resampling.BICUBIC, expand=True).resize((480, 480)), (300, 150))
        eyes = np.array(faces.locate_eyes(align_eyes(scene)[0]))
        assert np.abs(eyes - EYES).max() < 5
        two = Image.new("RGB", (900, 700), (90, 110, 80))
        two.paste(face, (20, 20))
        two.paste(face.resize((500, 500)), (350, 100))
        largest, smaller = find_faces(two)[:2]
        assert largest.box[2] > smaller.box[2]
        assert largest.box[0] > 350
