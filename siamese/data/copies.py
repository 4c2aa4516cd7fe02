"""Find copies of one photo among images: recompressed, resized, slightly cropped, framed, brightened or mirrored.

A thumbnail of the whole photo is compared. The candidates of an image are those that correlate most with it, or with
its central crops, at 8 x 8 pixels. Scale and shift of a candidate are fitted to the image (Gauss-Newton). It is a copy
if the gradients of both then correlate by more than `ALIKE`. Grey values correlate also between different photos, for
example two portraits before a dark wall. ``python -m benchmarks copies`` measures the error rates.

Shapes: N images, P pairs, D pixels, H = W = side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from siamese.data.images import SIDE
from siamese.data.union_find import connected_components

ALIKE = 0.93
"""Least correlation of the gradients of copies."""

FLAT = 4.0
"""Standard deviation in grey levels (of 255) below which an image is blank and is not compared."""

COARSE, LEAST = 8, 0.8
"""Side at which candidates are searched, pixels, and their least correlation."""

CROPS = (1.0, 0.95, 0.9)
"""Sides of the central crops with which candidates are searched, as fractions."""

STAGES = ((SIDE // 2, 3, 0.75), (SIDE, 5, ALIKE))
"""The fit of candidates, first coarse, then fine: side in pixels, Gauss-Newton steps, least correlation."""

SCALES, SHIFT = (0.8, 1.1), 0.15
"""Bounds of the fitted scale, and of the shift as a fraction of half the side."""

BLOCK = 512
"""Images, or pairs, that are compared at a time."""

Grey = NDArray[np.uint8]


def find_copies(thumbnails: Sequence[Grey] | Grey, progress: bool = False) -> list[list[int]]:
    """Return groups of images that are copies of one photo. Blank images count as copies of none.

    Time grows with the square of the number of images, memory linearly.

    Args:
        thumbnails: uint8 [N, SIDE, SIDE], from `thumbnail`.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        for each photo that has copies, the sorted rows of its images; sorted.
    """
    kept = [row for row, one in enumerate(thumbnails) if one.std() > FLAT]
    if len(kept) < 2:
        return []
    x_N1HW = torch.from_numpy(np.stack([thumbnails[row] for row in kept])).float().unsqueeze(1)
    groups: dict[int, list[int]] = {}
    for image, photo in connected_components(_copies(x_N1HW, progress)).items():
        groups.setdefault(photo, []).append(kept[image])
    return sorted(map(sorted, groups.values()))


def copies_across(groups: Iterable[Sequence[str]], first: Set[str], second: Set[str]) -> list[list[str]]:
    """Return the groups of copies with an image in each of two sets; none if the sets themselves share images.

    Args:
        groups: names of images that are copies of one photo.
        first, second: the images of each set.
    """
    if first & second:
        return []
    return [list(group) for group in groups if first & set(group) and second & set(group)]


def _copies(x_N1HW: Tensor, progress: bool) -> list[tuple[int, int]]:
    """Return pairs of copies that connect all copies of a photo."""
    found: list[tuple[int, int]] = []
    candidates = _candidates(x_N1HW, progress)
    for first in range(0, len(candidates), BLOCK):
        pairs_P4 = candidates[first : first + BLOCK]
        crop_P = torch.from_numpy(pairs_P4[:, 3]).float() / 100
        fit_P4 = torch.stack([crop_P, crop_P, 0 * crop_P, 0 * crop_P], 1)
        for side, steps, least in STAGES:
            a_P1HW, b_P1HW = x_N1HW[pairs_P4[:, 0]], x_N1HW[pairs_P4[:, 1]]
            mirrored_P = torch.from_numpy(pairs_P4[:, 2] == 1)
            a_P1HW[mirrored_P] = a_P1HW[mirrored_P].flip(3)
            alike_P, fit_P4 = _fit(_resize(a_P1HW, side), _resize(b_P1HW, side), fit_P4, steps)
            pairs_P4, fit_P4 = pairs_P4[(alike_P > least).numpy()], fit_P4[alike_P > least]
        found += [(one, other) for one, other, *_ in pairs_P4.tolist()]
    return found


def _candidates(x_N1HW: Tensor, progress: bool) -> NDArray[np.int64]:
    """Return rows of an image, of the one most similar to it, mirrored (0, 1), crop of the first in percent: [P, 4]."""
    n, plain_ND = len(x_N1HW), _unit(_resize(x_N1HW, COARSE))
    found = []
    ways = [(mirrored, crop) for mirrored in (0, 1) for crop in CROPS]
    with tqdm(desc="copies", total=n * len(ways), unit="image", leave=False, disable=None if progress else True) as bar:
        for mirrored, crop in ways:
            y_N1HW = x_N1HW.flip(3) if mirrored else x_N1HW
            y_N1HW, _ = _warp(y_N1HW, torch.tensor([[crop, crop, 0.0, 0.0]]).expand(n, 4))
            y_ND = _unit(_resize(y_N1HW, COARSE))
            for rows_B in torch.arange(n).split(BLOCK):
                alike_BN = y_ND[rows_B] @ plain_ND.T
                alike_BN[torch.arange(len(rows_B)), rows_B] = -1  # not with itself
                alike_B, best_B = alike_BN.max(1)
                fixed_B2 = torch.tensor([mirrored, round(100 * crop)]).expand(len(rows_B), 2)
                columns = torch.column_stack([rows_B, best_B, fixed_B2, (1e6 * alike_B).long()])
                found.append(columns[alike_B > LEAST].numpy())
                bar.update(len(rows_B))
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(-pairs[:, 4], kind="stable")]  # `unique` keeps the first, with the most suitable crop
    key = np.column_stack([pairs[:, :2].min(1), pairs[:, :2].max(1), pairs[:, 2]])
    return pairs[np.unique(key, axis=0, return_index=True)[1], :4]


def _fit(a_P1HW: Tensor, b_P1HW: Tensor, fit_P4: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Fit scale and shift of images ``a`` to images ``b`` by Gauss-Newton steps from ``fit_P4``, as of `_warp`.

    Brightness and contrast are free.

    Returns:
        highest correlation of the gradients of each pair, [P], and its fit, [P, 4].
    """
    side = a_P1HW.shape[3]
    a_P3HW, b_P3HW = (torch.cat([x, *torch.gradient(x, spacing=2 / side, dim=(3, 2))], 1) for x in (a_P1HW, b_P1HW))
    b_PD, b_P2D = b_P1HW.flatten(1), b_P3HW[:, 1:].flatten(2)
    u = _axis(side)
    x_D, y_D = u.repeat(side), u.repeat_interleave(side)
    best_P, best_fit_P4 = torch.full((len(fit_P4),), -1.0), fit_P4
    for step in range(steps + 1):
        warped_P3HW, weight_PHW = _warp(a_P3HW, fit_P4)
        w_P1D = weight_PHW.flatten(1).unsqueeze(1)
        a_PD, dx_PD, dy_PD = warped_P3HW.flatten(2).unbind(1)
        a_P2D = warped_P3HW[:, 1:].flatten(2)
        product_P, a_P, b_P = ((w_P1D * x * y).sum((1, 2)) for x, y in ((a_P2D, b_P2D), (a_P2D, a_P2D), (b_P2D, b_P2D)))
        alike_P = product_P / (a_P * b_P).clamp_min(1e-6).sqrt()
        columns_P6D = torch.stack([a_PD, dx_PD * x_D, dy_PD * y_D, dx_PD, dy_PD, b_PD], 1)
        columns_P6D = (columns_P6D - (columns_P6D * w_P1D).sum(2, keepdim=True)) * w_P1D.sqrt()
        gram_P66 = columns_P6D @ columns_P6D.mT
        better_P = alike_P > best_P
        best_P, best_fit_P4 = (
            torch.where(better_P, alike_P, best_P),
            torch.where(better_P[:, None], fit_P4, best_fit_P4),
        )
        if step < steps:
            damped_P55 = gram_P66[:, :5, :5] + 1e-4 * torch.diag_embed(gram_P66.diagonal(dim1=1, dim2=2)[:, :5] + 1)
            change_P5 = torch.linalg.solve(damped_P55, gram_P66[:, :5, 5])
            fit_P4 = fit_P4 + (change_P5[:, 1:] / change_P5[:, :1].clamp_min(0.3)).clamp(-0.05, 0.05)
            fit_P4 = torch.cat([fit_P4[:, :2].clamp(*SCALES), fit_P4[:, 2:].clamp(-SHIFT, SHIFT)], 1)
    return best_P, best_fit_P4


def _warp(x_PCHW: Tensor, fit_P4: Tensor) -> tuple[Tensor, Tensor]:
    """Sample images at ``scale * u + shift``, with ``u`` from -1 to 1 across the image.

    Args:
        x_PCHW: the images.
        fit_P4: horizontal and vertical scale, horizontal and vertical shift.

    Returns:
        the samples, [P, C, H, W], and their weights, [P, H, W]: 0 at the edge and outside the image, sum 1.
    """
    n, _, side, _ = x_PCHW.shape
    u = _axis(side)
    x_PW, y_PH = (fit_P4[:, k, None] * u + fit_P4[:, k + 2, None] for k in (0, 1))
    grid_PHW2 = torch.stack([x_PW[:, None].expand(n, side, side), y_PH[:, :, None].expand(n, side, side)], 3)
    edge = 1 - 3.5 / side  # a frame, or what lies beyond the crop, is mixed into the two outermost pixels
    inside_PW, inside_PH = ((z.abs() <= 1) & (u.abs() < edge) for z in (x_PW, y_PH))
    weight_PHW = (inside_PH[:, :, None] & inside_PW[:, None]).float()
    weight_PHW = weight_PHW / weight_PHW.sum((1, 2), keepdim=True).clamp_min(1)
    return F.grid_sample(x_PCHW, grid_PHW2, padding_mode="border", align_corners=False), weight_PHW


def _axis(side: int) -> Tensor:
    """Return the centres of the pixels of an axis from -1 to 1."""
    return (2 * torch.arange(side) + 1) / side - 1


def _resize(x_NCHW: Tensor, side: int) -> Tensor:
    return F.adaptive_avg_pool2d(x_NCHW, side)


def _unit(x_N1HW: Tensor) -> Tensor:
    """Return the images as vectors of mean 0 and length 1, [N, D]."""
    x_ND = x_N1HW.flatten(1)
    return F.normalize(x_ND - x_ND.mean(1, keepdim=True), dim=1)
