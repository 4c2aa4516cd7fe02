"""Occlusion maps: how much each part of two photos changes the score (Zeiler and Fergus 2014, section 4.2)."""

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
from siamese.report.examples import occlusion_map_file, pick_examples
from siamese.report.text import probability
from siamese.runs.folder import RunFolder
from siamese.runs.tables import read_predictions
from siamese.scoring.device import exact_convolutions

log = logging.getLogger(__name__)

WINDOW = 0.2
"""Side of the covered square, as a fraction of the image side. The square moves in steps of half its side."""

GAP = 8
"""Pixels between two maps."""

BATCH = 32
"""Covered images that are embedded at once."""

GREEN, MAGENTA = (0, 158, 115), (204, 50, 150)
"""RGB colours of parts that raise and that lower the probability of "same person"."""


class OcclusionMaps(NamedTuple):
    """How much each part of two photos changes the score.

    Attributes:
        photos: both photos as the network sees them, uint8 [2, H, W, C].
        relevance: float32 [2, H, W], logits: how far the calibrated logit drops if this part is covered. Positive
            parts raise the probability of "same person", negative parts lower it.
    """

    photos: NDArray[np.uint8]
    relevance: NDArray[np.float32]


def occlusion_maps(
    verifier: Verifier, first: Photo, second: Photo, faces: tuple[int | None, int | None] = (None, None)
) -> OcclusionMaps:
    """Compute the occlusion maps of two photos: cover parts of one photo at a time and compare it with the other.

    The covered square has the mean value of its photo. Only the whole photo is embedded: ``flip_average`` and
    ``crop_average`` are ignored.

    Args:
        verifier: the network of a finished run.
        first: a file or an opened image.
        second: a file or an opened image.
        faces: which face of each, as for `Verifier.verify`.

    Raises:
        UserError: a photo cannot be used, or shows fewer faces.
    """
    pixels = torch.from_numpy(np.stack([verifier.read(first, faces[0]), verifier.read(second, faces[1])]))
    x_2CHW = to_float(pixels).to(verifier.device)
    encoder, head, slope = verifier.network.encoder, verifier.network.head, verifier.decision.calibration.slope
    side = x_2CHW.shape[-1]
    window = max(1, round(WINDOW * side))
    maps = []
    with torch.no_grad(), exact_convolutions(verifier.device):
        z_2D = encoder(x_2CHW)
        for k in (0, 1):
            other_1D = z_2D[1 - k : 2 - k]

            def logit(x_BCHW: Tensor, other_1D: Tensor = other_1D, first: bool = k == 0) -> Tensor:
                z_BD = encoder(x_BCHW)
                pair = (z_BD, other_1D.expand_as(z_BD))
                logit_B: Tensor = slope * head(*(pair if first else pair[::-1])).float()
                return logit_B

            map_1CHW = Occlusion(logit).attribute(
                x_2CHW[k : k + 1],
                sliding_window_shapes=(x_2CHW.shape[1], window, window),
                strides=(x_2CHW.shape[1], max(1, window // 2), max(1, window // 2)),
                baselines=float(x_2CHW[k].mean()),
                perturbations_per_eval=BATCH,
            )
            maps.append(map_1CHW[0].mean(0))
    relevance: NDArray[np.float32] = torch.stack(maps).float().cpu().numpy()
    return OcclusionMaps(pixels.permute(0, 2, 3, 1).numpy(), relevance)


def overlay(maps: OcclusionMaps, height: int = 250) -> list[Image.Image]:
    """Draw both maps in `GREEN` and `MAGENTA` over the grey photos; two RGB images, ``height`` pixels square.

    Both images have the same colour scale. At the strongest part of either, the colour is half opaque.
    """
    scale = float(np.abs(maps.relevance).max()) or 1.0
    pictures = []
    for photo, relevance in zip(maps.photos, maps.relevance, strict=True):
        grey = ImageOps.grayscale(Image.fromarray(photo.squeeze(-1) if photo.shape[-1] == 1 else photo))
        base = np.asarray(grey.convert("RGB").resize((height, height), Image.Resampling.BICUBIC), dtype=np.float32)
        smooth = Image.fromarray(relevance / scale).resize((height, height), Image.Resampling.BILINEAR)
        strength = np.asarray(smooth)[..., None]
        colour = np.where(strength > 0, np.array(GREEN), np.array(MAGENTA))
        share = np.abs(strength) / 2
        pictures.append(Image.fromarray(((1 - share) * base + share * colour).clip(0, 255).astype(np.uint8)))
    return pictures


def save_gallery_maps(run: Path) -> int:
    """Save the occlusion maps of the pairs in a run page's gallery; returns the number of pairs.

    Pairs with an unusable photo are skipped with a warning.

    Raises:
        UserError: the run cannot be used.
    """
    verifier = Verifier.load(run)
    folder = RunFolder(run)
    predictions = read_predictions(folder.predictions, [])
    shown = [prediction for prediction in predictions if prediction.split == "test"] or predictions
    result = folder.result
    root = Path((result and result.image_root) or "")
    saved = 0
    for examples in pick_examples(shown):
        for pair in (*examples.confident, *examples.uncertain):
            try:
                left, right = overlay(occlusion_maps(verifier, root / pair.image1, root / pair.image2))
            except DataError as error:
                log.warning("skipped: %s", error)
                continue
            sheet = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
            sheet.paste(left, (0, 0))
            sheet.paste(right, (left.width + GAP, 0))
            file = occlusion_map_file(run, pair)
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as temporary:
                sheet.save(temporary, "JPEG", quality=80)
            saved += 1
    return saved


def occlusion_figure(maps: OcclusionMaps, verification: Verification) -> Figure:
    """Draw both photos above their occlusion maps, with the decision as the title."""
    figure = Figure(figsize=(5, 5.4), facecolor="white")
    decision = "same person" if verification.same else "different people"
    title = f"{decision}: {probability(verification.probability)} (threshold {verification.threshold:.3f})"
    figure.suptitle(title, fontsize=11)
    overlaid = overlay(maps)
    for k in (0, 1):
        photo = maps.photos[k]
        for row, picture in enumerate((photo.squeeze(-1) if photo.shape[-1] == 1 else photo, np.asarray(overlaid[k]))):
            axes = figure.add_axes((0.03 + 0.49 * k, 0.47 - 0.43 * row, 0.45, 0.42))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
    figure.text(0.5, 0.015, "green parts raise the probability, magenta parts lower it", ha="center", fontsize=9)
    return figure
