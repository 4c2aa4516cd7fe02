"""Occlusion maps: where they are large, and how they get onto the run page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import image_options
from PIL import Image
from torch import Tensor

from siamese import Verifier
from siamese.command.main import main
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision
from siamese.inference.occlusion import OcclusionMaps, occlusion_figure, occlusion_maps, overlay
from siamese.inference.verifier import Verification
from siamese.models.encoder import Encoder
from siamese.models.siamese import CosineHead, SiameseNetwork


class CornerEncoder(Encoder):
    """Its embedding is the mean of the upper left 16 x 16 pixels, as an angle."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_dim = 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        angle_B = x_BCHW[:, :, :16, :16].mean((1, 2, 3))
        return torch.stack([angle_B.cos(), angle_B.sin()], 1)


def test_maps_are_large_where_the_network_looks() -> None:
    network = SiameseNetwork(CornerEncoder(), CosineHead(), flip_average=False, crop_average=1.0)
    decision = Decision(Calibration(slope=10.0, intercept=-5.0), 0.5)
    verifier = Verifier(Path("run"), network, image_options(image_size=32), decision, torch.device("cpu"))
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16, :16] = 200
    bright = Image.fromarray(pixels)
    maps = occlusion_maps(verifier, bright, bright)
    assert maps.relevance.shape == (2, 32, 32)
    assert maps.photos.shape == (2, 32, 32, 1)
    assert (maps.relevance[:, :10, :10] > 0).all()  # covering the corner of one photo makes the pair less similar
    assert np.abs(maps.relevance[:, 20:, 20:]).max() < 1e-4
    # If the corners differ, covering one of them makes the pair more similar.
    dark = np.full((32, 32), 50, np.uint8)
    dark[-1, -1] = 51  # a photo of one colour is refused
    other = occlusion_maps(verifier, bright, Image.fromarray(dark))
    assert (other.relevance[0, :10, :10] < 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_are_drawn(channels: int, tmp_path: Path) -> None:
    relevance = np.zeros((2, 32, 32), np.float32)
    relevance[0, :16], relevance[1, :16] = 1, -1
    maps = OcclusionMaps(np.full((2, 32, 32, channels), 128, np.uint8), relevance)
    green, magenta = overlay(maps, height=100)
    assert green.size == magenta.size == (100, 100)
    assert green.getpixel((50, 90)) == magenta.getpixel((50, 90)) == (128, 128, 128)  # no relevance, no colour
    assert green.getpixel((50, 10)) == (64, 143, 121)  # half grey, half green
    assert magenta.getpixel((50, 10)) == (166, 89, 139)
    occlusion_figure(maps, Verification(True, 0.9, 0.5, 2.0)).savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.integration
def test_run_page_shows_occlusion_maps(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = (run / "report.html").read_text(encoding="utf-8")
    assert "occlusion maps:" not in before
    assert main(["report", str(run), "--explain"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    saved = len(list((run / "explanations").glob("*.jpg")))
    assert page.count("occlusion maps:") == saved > 0
    assert page.count("<figure") == before.count("<figure")
    assert main(["report", str(run)]) == 0  # a later page still shows them
    assert (run / "report.html").read_text(encoding="utf-8") == page
