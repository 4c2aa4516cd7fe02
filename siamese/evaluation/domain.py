"""Detect images that are unlike the images a network was trained on.

A network's answer means little for such an image, yet its embedding often looks ordinary: networks map unknown images
onto embeddings that they know. Images are therefore compared with the training images by their pixels, not by their
embeddings. Each image is described by edges in the cells of a grid, and compared with all training images by the
Mahalanobis distance (Lee et al. 2018 use it for embeddings).

Shapes: N images, C channels, H = W pixels, F features.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

GRID = 6
"""Cells on each side of the image."""

ORIENTATIONS = 4
"""Directions of edges, as in histograms of oriented gradients (Dalal and Triggs 2005)."""

SCALES = 3
"""Image sizes whose edges are described: full size, a half, a quarter."""

FAINT = 0.5
"""Edges much weaker than this, in grey levels per pixel, count as equally weak."""

LEAST_SPREAD = 0.05
"""Smallest standard deviation of a feature: the same border on all training images must not decide."""

SHRINKAGE = 0.7
"""Weight of the identity matrix in the correlation matrix, which needs it if there are few images."""

FORMAT = 1
"""Version of the features: raise it if `features` changes, and files of older runs are ignored."""

BLANK_GRID = 8
"""Cells on each side in which noise is averaged, to find blank images."""

BLANK, BLANK_SHARE = 4.0, 0.1
"""An image is blank if the standard deviation of its cells is below `BLANK` grey levels, or if their variance is below
this share of the variance of the pixels. LFW's images have at least 8 levels, and a share of 0.15."""

PARTS = 5
"""Parts of the training images; each is compared with the others to find the cut."""

FAMILIAR = 0.99
"""Share of the training images that is familiar, if compared with those of other people."""


class Domain(NamedTuple):
    """The training images of a run, as images are compared with them.

    Attributes:
        mean, spread: float32 [F], mean and standard deviation of the features.
        precision: float16 [F, F], inverse of their shrunk correlation matrix.
        cut: float32 [], the distance above which an image is unusual.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    precision: NDArray[np.float16]
    cut: NDArray[np.float32]

    def unusual(self, features_F: Floats) -> bool:
        """Whether an image, given its `features`, is further from the training images than nearly all of themselves."""
        return bool(self.distances(features_F[None])[0] > self.cut)

    def distances(self, features_NF: Floats) -> NDArray[np.float64]:
        """Squared Mahalanobis distances of images to the training images, float64 [N]."""
        standard_NF = (features_NF - self.mean) / self.spread.astype(np.float64)
        distance_N: NDArray[np.float64] = ((standard_NF @ self.precision.astype(np.float64)) * standard_NF).sum(1)
        return distance_N


def fit_domain(features_NF: Floats, person_N: NDArray[np.integer]) -> Domain:
    """Describe the training images, and find the cut by cross-validation over their people.

    Each image is compared with images of other people only. That is how validation images are compared, since no
    network takes part that has seen the training images; but there are more of them.

    Args:
        features_NF: `features` of the training images, at least one.
        person_N: number of the person on each image.
    """
    part_N = np.unique(person_N, return_inverse=True)[1] % PARTS
    if not part_N.any():  # a single person
        part_N = np.arange(len(features_NF)) % PARTS
    parts = [part_N == part for part in np.unique(part_N)]
    held_out = [_fit(features_NF[~part]).distances(features_NF[part]) for part in parts if not part.all()]
    cut = np.quantile(np.concatenate(held_out), FAMILIAR, method="higher") if held_out else np.inf
    return _fit(features_NF)._replace(cut=np.array(cut, np.float32))


def _fit(features_NF: Floats) -> Domain:
    mean_F = features_NF.mean(0, dtype=np.float64)
    spread_F = np.maximum(features_NF.std(0, dtype=np.float64), LEAST_SPREAD)
    standard_NF = (features_NF - mean_F) / spread_F
    correlation_FF = standard_NF.T @ standard_NF / len(standard_NF)
    shrunk_FF = (1 - SHRINKAGE) * correlation_FF + SHRINKAGE * np.eye(len(mean_F))
    precision_FF = np.linalg.inv(shrunk_FF).astype(np.float16)
    return Domain(mean_F.astype(np.float32), spread_F.astype(np.float32), precision_FF, np.array(np.inf, np.float32))


def features(images_NCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Describe images by their edges -> float32 [N, F].

    For each cell of the grid: how strong edges of each direction are, and at each scale how much the edges are
    concentrated on few pixels. Drawings have strong edges between even areas; photographs have weak edges everywhere.
    """
    grey_NHW = images_NCHW.mean(1, dtype=np.float32)
    described = [_log_mean(edges_NHW) for edges_NHW in _edges_by_direction(grey_NHW)]
    for _ in range(SCALES):
        if grey_NHW.shape[1] <= GRID:
            break
        for edges_NHW in (np.diff(grey_NHW, axis=1), np.diff(grey_NHW, axis=2)):
            described.append(_log_mean(edges_NHW**2, power=0.5) - _log_mean(np.abs(edges_NHW)))
        half = grey_NHW.shape[1] // 2
        grey_NHW = grey_NHW[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2).mean((2, 4))
    return np.concatenate(described, axis=1)


def is_blank(image_CHW: NDArray[np.uint8]) -> bool:
    """Whether an image is without shapes, like a wall, white paper or a covered lens: only shading and noise.

    Shading is the quadratic surface that fits the grey levels best. Noise, unlike shapes, disappears in the means of
    cells.
    """
    grey_HW = image_CHW.mean(0, dtype=np.float64)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in grey_HW.shape), indexing="ij")
    surfaces_PK = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    fitted_K = np.linalg.lstsq(surfaces_PK, grey_HW.ravel())[0]
    shapes_HW = grey_HW - (surfaces_PK @ fitted_K).reshape(grey_HW.shape)
    coarse = _cell_means(shapes_HW[None], BLANK_GRID).std()
    return bool(coarse < BLANK or coarse**2 < BLANK_SHARE * shapes_HW.var())


def _edges_by_direction(grey_NHW: Floats) -> list[Floats]:
    """Strength of the edges, divided among the two nearest of the `ORIENTATIONS` directions."""
    right_NHW = (grey_NHW[:, 1:-1, 2:] - grey_NHW[:, 1:-1, :-2]) / 2
    down_NHW = (grey_NHW[:, 2:, 1:-1] - grey_NHW[:, :-2, 1:-1]) / 2
    strength_NHW = np.hypot(right_NHW, down_NHW)
    angle_NHW = np.arctan2(down_NHW, right_NHW) % np.pi * (ORIENTATIONS / np.pi)
    shares = []
    for direction in range(ORIENTATIONS):
        apart_NHW = np.abs(angle_NHW - direction)
        apart_NHW = np.minimum(apart_NHW, ORIENTATIONS - apart_NHW)
        shares.append(np.maximum(0, 1 - apart_NHW) * strength_NHW)
    return shares


def _log_mean(values_NHW: Floats, power: float = 1.0) -> NDArray[np.float32]:
    """Logarithm of the mean of each cell, to a power, float32 [N, GRID * GRID]."""
    means = _cell_means(values_NHW, GRID)
    logarithms: NDArray[np.float32] = np.log(means**power + FAINT).reshape(len(means), -1).astype(np.float32)
    return logarithms


def _cell_means(values_NHW: Floats, grid: int) -> Floats:
    """The mean of each of grid x grid cells, [N, grid, grid]."""
    rows, columns = (np.linspace(0, side, grid + 1).round().astype(int) for side in values_NHW.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(values_NHW, rows[:-1], axis=1), columns[:-1], axis=2)
    means: Floats = sums / np.outer(np.diff(rows), np.diff(columns))
    return means
