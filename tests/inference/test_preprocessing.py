"""``preprocessing.json`` says all that other programs need: `independent` follows it, and gets our probabilities."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import image_options
from packaging.version import Version
from PIL import Image

from siamese import Verifier
from siamese.data.faces import MODEL
from siamese.inference.export import export, load_graph
from siamese.inference.preprocessing import describe_preprocessing

pytest.importorskip("cv2", reason="an extra")
from independent import pixels_of

pytestmark = pytest.mark.integration

SHARED = Path(__file__).parents[3] / "shared"


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def turned(orientation: int) -> Callable[[Image.Image], bytes]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda photo: encoded(photo, "JPEG", exif=exif, quality=92)


def half_transparent(photo: Image.Image) -> Image.Image:
    photo = photo.convert("RGBA")
    photo.putalpha(Image.radial_gradient("L").resize(photo.size))
    return photo


FILES: dict[str, Callable[[Image.Image], bytes]] = {
    **{f"orientation {k}": turned(k) for k in range(1, 9)},
    "RGBA": lambda photo: encoded(half_transparent(photo), "PNG"),
    "LA": lambda photo: encoded(half_transparent(photo).convert("LA"), "PNG"),
    "palette": lambda photo: encoded(photo.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "transparent palette": lambda photo: encoded(photo.quantize(16), "PNG", transparency=3),
    "grey": lambda photo: encoded(photo.convert("L"), "JPEG"),
    "black and white": lambda photo: encoded(photo.convert("1"), "PNG"),
    "16 bits": lambda photo: encoded(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 251), "PNG"),
    "CMYK": lambda photo: encoded(photo.convert("CMYK"), "JPEG"),
    "WebP": lambda photo: encoded(photo, "WEBP"),
    "large": lambda photo: encoded(photo.resize((6200, 5512)), "JPEG"),
}


@pytest.fixture(scope="module")
def photos(tiny_root: Path) -> list[Image.Image]:
    """Two people, neither square nor centred."""
    people = sorted((tiny_root / "lfw").iterdir())[:2]
    return [
        Image.open(min(person.iterdir())).convert("RGB").resize((263, 251)).crop((0, 0, 263, 230)) for person in people
    ]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "options",
    [
        {"crop": 0.48, "interpolation": "bilinear", "image_size": 64},
        {"crop": None, "interpolation": "lanczos", "image_size": 105, "color": True},
        {"crop": 201, "interpolation": "bicubic", "image_size": 300},
        {"crop": 1.0, "interpolation": "nearest", "image_size": 40, "color": True},
    ],
)
def test_the_pixels_follow_from_the_description(
    name: str, options: dict[str, Any], finished: Path, photos: list[Image.Image]
) -> None:
    verifier = Verifier.load(finished)
    verifier.options = image_options(**options)
    content = FILES[name](photos[0])
    described = json.loads(json.dumps(describe_preprocessing(verifier)))
    found, expected = pixels_of(content, described).astype(int), verifier.read(content).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2  # OpenCV's CMYK; else 1
    assert np.abs(found - expected).mean() < 1.1


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if Version(torch.__version__) < Version("2.14"):
        pytest.skip(f"torch {torch.__version__} may not save such a network")
    folder = tmp_path_factory.mktemp("exported")
    export(finished, folder, "pt2")
    return folder


def test_the_probabilities_follow_from_the_exported_files(
    exported: Path, finished: Path, photos: list[Image.Image]
) -> None:
    described = json.loads((exported / "preprocessing.json").read_text())
    contents = [file(photo) for file in FILES.values() for photo in photos]
    encoder, scorer = (load_graph(exported / f"{name}.pt2") for name in ("encoder", "scorer"))
    (embeddings,) = encoder(np.stack([pixels_of(content, described) for content in contents]))
    others = np.roll(np.arange(len(contents)), 3)  # the other person in the next kind of file
    _, found = scorer(embeddings, embeddings[others])
    verifier = Verifier.load(finished)
    expected = [verifier.verify(contents[k], contents[other]) for k, other in enumerate(others)]
    np.testing.assert_allclose(found, [answer.probability for answer in expected], atol=0.01)
    assert [p >= described["threshold"] for p in found] == [answer.same for answer in expected]
    score, _ = scorer(embeddings, embeddings[others])
    slope, intercept = (described["scorer"]["in_the_graph"][key] for key in ("slope", "intercept"))
    np.testing.assert_allclose(1 / (1 + np.exp(-(slope * score + intercept))), found, atol=1e-5)


@pytest.mark.slow
def test_aligned_photos_follow_from_the_description(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Path(os.environ.get("SIAMESE_YUNET") or SHARED / "yunet" / MODEL)
    root = Path(os.environ.get("LFW_ROOT") or SHARED / "lfw") / "lfw-deepfunneled"
    files = sorted(root.glob("B*/*_0001.jpg"))[:6]
    if not files or not detector.is_file():
        pytest.skip("LFW or the face detector's file is not here")
    monkeypatch.setenv("SIAMESE_YUNET", str(detector))
    verifier = Verifier.load(finished, align=True)
    described = describe_preprocessing(verifier)
    for file in files:
        scene = Image.new("RGB", (900, 700), (90, 110, 80))
        with Image.open(file) as photo:
            scene.paste(photo.resize((500, 500)), (300, 150))
            scene.paste(photo.resize((200, 200)), (20, 20))
        content = encoded(scene, "PNG")
        for face in (1, 2):
            found = pixels_of(content, described, face, str(detector)).astype(int)
            assert np.abs(found - verifier.read(content, face)).mean() < 2
