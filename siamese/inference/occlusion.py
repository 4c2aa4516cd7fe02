"""What an answer about two photos rests on: occlusion maps (Zeiler and Fergus 2014, section 4.2)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import Occlusion
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from siamese.data.dataset import to_float
from siamese.errors import DataError
from siamese.files import replacing
from siamese.inference.verifier import Photo, Verification, Verifier
from siamese.report.examples import explanation_file, pick_examples
from siamese.report.text import probability
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_predictions

log = logging.getLogger(__name__)

WINDOW = 0.2
"""Side of what is covered at a time, as a share of the image's; it moves by half of that."""

GAP = 8
"""Pixels between two maps."""

AT_A_TIME = 32
"""Covered images embedded together."""


class Explanation(NamedTuple):
    """What each part of two photos adds to the answer.

    Attributes:
        photos: both as the network saw them, uint8 [2, H, W, C].
        relevance: float32 [2, H, W], in units of the logit: by how much "same" loses where this is covered, which is
            negative where it speaks for two people.
    """

    photos: NDArray[np.uint8]
    relevance: NDArray[np.float32]


def explain_pair(verifier: Verifier, first: Photo, second: Photo) -> Explanation:
    """Cover each part of either photo with the photo's mean and see how the logit changes; the other stays whole.

    The logit is the calibrated one, whose sigmoid is the probability, of one view of each photo.

    Args:
        verifier: of a run.
        first: a file or a picture.
        second: likewise.

    Raises:
        DataError: a photo cannot be used.
    """
    pixels = torch.from_numpy(np.stack([verifier.read(photo) for photo in (first, second)]))
    x_2CHW = to_float(pixels).to(verifier.device)
    encoder, head, slope = verifier.network.encoder, verifier.network.head, verifier.decision.calibration.slope
    side = x_2CHW.shape[-1]
    window = max(1, round(WINDOW * side))
    maps = []
    with torch.no_grad():
        z_2D = encoder(x_2CHW)
        for k in (0, 1):
            other_1D = z_2D[1 - k : 2 - k]

            def logit(x_BCHW: Tensor, other_1D: Tensor = other_1D, first: bool = k == 0) -> Tensor:
                z_BD = encoder(x_BCHW)
                pair = (z_BD, other_1D.expand_as(z_BD))
                logit_B: Tensor = slope * head(*(pair if first else pair[::-1])).float()
                return logit_B

            covered_1CHW = Occlusion(logit).attribute(
                x_2CHW[k : k + 1],
                sliding_window_shapes=(x_2CHW.shape[1], window, window),
                strides=(x_2CHW.shape[1], max(1, window // 2), max(1, window // 2)),
                baselines=float(x_2CHW[k].mean()),
                perturbations_per_eval=AT_A_TIME,
            )
            maps.append(covered_1CHW[0].mean(0))
    relevance: NDArray[np.float32] = torch.stack(maps).float().cpu().numpy()
    return Explanation(pixels.permute(0, 2, 3, 1).numpy(), relevance)


def overlay(explanation: Explanation, height: int = 250) -> list[Image.Image]:
    """Both photos in grey, RGB of that height, what speaks for one person in green and for two people in magenta.

    The colours of both have the same scale; the strongest part of either is half covered by its colour.
    """
    scale = float(np.abs(explanation.relevance).max()) or 1.0
    pictures = []
    for photo, relevance in zip(explanation.photos, explanation.relevance, strict=True):
        grey = ImageOps.grayscale(Image.fromarray(photo.squeeze(-1) if photo.shape[-1] == 1 else photo))
        base = np.asarray(grey.convert("RGB").resize((height, height), Image.Resampling.BICUBIC), dtype=np.float32)
        smooth = Image.fromarray(relevance / scale).resize((height, height), Image.Resampling.BILINEAR)
        strength = np.asarray(smooth)[..., None]
        colour = np.where(strength > 0, np.array([0, 158, 115]), np.array([204, 50, 150]))
        share = np.abs(strength) / 2
        pictures.append(Image.fromarray(((1 - share) * base + share * colour).clip(0, 255).astype(np.uint8)))
    return pictures


def explain_examples(run: Path) -> int:
    """Draw what the answers about the pairs of a run's gallery rest on, for its page to show; returns how many.

    Raises:
        UserError: the run cannot be used.
    """
    verifier = Verifier.load(run)
    predictions = read_predictions(RunFolder(run).predictions, [])
    shown = [p for p in predictions if p.split == "test"] or predictions
    result = RunFolder(run).result
    root = Path((result and result.image_root) or "")
    drawn = 0
    for examples in pick_examples(shown):
        for pair in (*examples.confident, *examples.doubtful):
            try:
                maps = overlay(explain_pair(verifier, root / pair.image1, root / pair.image2))
            except DataError as error:
                log.warning("left out: %s", error)
                continue
            sheet = Image.new("RGB", (2 * maps[0].width + GAP, maps[0].height), "white")
            sheet.paste(maps[0], (0, 0))
            sheet.paste(maps[1], (maps[0].width + GAP, 0))
            file = explanation_file(run, pair)
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as temporary:
                sheet.save(temporary, "JPEG", quality=80)
            drawn += 1
    return drawn


def explanation_figure(explanation: Explanation, answer: Verification) -> Figure:
    """Both photos above their maps, with the answer."""
    figure = Figure(figsize=(5, 5.4), facecolor="white")
    said = "same person" if answer.same else "different people"
    figure.suptitle(f"{said}: {probability(answer.probability)} (threshold {answer.threshold:.3f})", fontsize=11)
    maps = overlay(explanation)
    for k in (0, 1):
        photo = explanation.photos[k]
        for row, picture in enumerate((photo.squeeze(-1) if photo.shape[-1] == 1 else photo, np.asarray(maps[k]))):
            axes = figure.add_axes((0.03 + 0.49 * k, 0.47 - 0.43 * row, 0.45, 0.42))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
    figure.text(0.5, 0.015, "green speaks for one person, magenta for two", ha="center", fontsize=9)
    return figure
