"""How training images are changed at random: geometry, then light, then erasing. Works on whole batches, CPU or GPU.

=================  ===============================================  ==================================
step               keys of ``augmentation``                         function
=================  ===============================================  ==================================
geometry           flip, rotation, shear, scale, translation        `change_geometry`
light              brightness, contrast                             `change_light`
erasing            erase, erase_size                                `erase_rectangle`
=================  ===============================================  ==================================

Random numbers come from torch's CPU generator, so a seed gives the same changes on every device.

Shapes: B images, C channels, H = W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.config.augmentation import AugmentationConfig

DRAWS = 13
"""Random numbers per image. Always all are drawn, so that one option does not affect the numbers of another."""


def draws_for(images: int) -> Tensor:
    """Draw the random numbers that decide how images are changed: float32 [images, `DRAWS`], uniform in [0, 1)."""
    return torch.rand(images, DRAWS)


def augment(x_BCHW: Tensor, options: AugmentationConfig, u: Tensor | None = None) -> Tensor:
    """Change each image of a batch at random.

    Args:
        x_BCHW: float [B, C, H, W] in [0, 1]; not modified.
        options: which changes, and their extremes. Amounts are uniform between the extremes (scale: its logarithm).
        u: random numbers from `draws_for`, [B, `DRAWS`]; None: draw them now.

    Returns:
        changed images, shaped like ``x_BCHW``; ``x_BCHW`` itself if ``options`` has no changes.
    """
    if not options.changes:
        return x_BCHW
    u = (draws_for(len(x_BCHW)) if u is None else u).to(x_BCHW.device, non_blocking=True)
    flip_B = (u[:, 0] < 0.5) & options.flip
    x_BCHW = change_geometry(x_BCHW, u[:, 1:6], flip_B, options)
    x_BCHW = change_light(x_BCHW, u[:, 6:8], options)
    return erase_rectangle(x_BCHW, u[:, 8:13], options)


def change_geometry(x_BCHW: Tensor, u_B5: Tensor, flip_B: Tensor, options: AugmentationConfig) -> Tensor:
    """Flip, rotate, shear, scale and translate in one bilinear resampling; outside the image its border is repeated."""
    if not (options.rotation or options.shear or options.translation or options.scale > 1):
        return torch.where(flip_B[:, None, None, None], x_BCHW.flip(-1), x_BCHW) if options.flip else x_BCHW
    extremes = (
        math.radians(options.rotation), options.shear, math.log(options.scale), options.translation, options.translation
    )  # fmt: skip
    # Not one product with a tensor of extremes: the CPU would wait for its copy to the GPU.
    columns = (2 * u_B5 - 1).unbind(1)
    angle, shear, log_scale, right, down = (u_B * extreme for u_B, extreme in zip(columns, extremes, strict=True))
    mirror, zoom = torch.where(flip_B, -1.0, 1.0), torch.exp(-log_scale)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # Where each pixel comes from: both positions in coordinates from -1 to 1, as grid_sample needs them. (F.affine_grid
    # computes the same by small matrix products, five times as slowly on a CPU.)
    column_W, row_H = (torch.arange(1 - side, side, 2, device=x_BCHW.device) / side for side in x_BCHW.shape[:1:-1])
    grid_BHW2 = x_BCHW.new_empty(len(x_BCHW), len(row_H), len(column_W), 2, dtype=torch.float32)
    for axis, by_column_B, by_row_B, shift_B in (
        (0, mirror * cos, mirror * (cos * shear - sin), 2 * right),
        (1, sin, sin * shear + cos, 2 * down),
    ):
        along_BH1 = (by_row_B[:, None] * row_H + shift_B[:, None])[:, :, None]
        torch.add(along_BH1, (by_column_B[:, None] * column_W)[:, None], out=grid_BHW2[..., axis])
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


def change_light(x_BCHW: Tensor, u_B2: Tensor, options: AugmentationConfig) -> Tensor:
    """Add to the brightness and scale the contrast around the image's mean."""
    if not (options.brightness or options.contrast):
        return x_BCHW
    first_B111, second_B111 = (2 * u_B2 - 1).T[:, :, None, None, None].unbind()
    brightness_B111, contrast_B111 = first_B111 * options.brightness, second_B111 * options.contrast
    mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
    lit_BCHW = (x_BCHW - mean_B111) * (1 + contrast_B111) + mean_B111 + brightness_B111
    return lit_BCHW.clamp_(0, 1)


def erase_rectangle(x_BCHW: Tensor, u_B5: Tensor, options: AugmentationConfig) -> Tensor:
    """Fill a random rectangle of a random share ``erase`` of the images with the image's mean."""
    if not options.erase:
        return x_BCHW
    # Each side is a quarter to all of erase_size; the rectangle lies inside the image.
    height_B, width_B = (options.erase_size * (0.25 + 0.75 * u_B5[:, k]) for k in (1, 2))
    hit_B = u_B5[:, 0] < options.erase
    top_B, left_B = (1 - height_B) * u_B5[:, 3], (1 - width_B) * u_B5[:, 4]
    at = (torch.arange(x_BCHW.shape[-1], device=x_BCHW.device) + 0.5) / x_BCHW.shape[-1]
    rows_BH = (at >= top_B[:, None]) & (at < (top_B + height_B)[:, None]) & hit_B[:, None]
    columns_BW = (at >= left_B[:, None]) & (at < (left_B + width_B)[:, None])
    mask_BHW = rows_BH[:, :, None] & columns_BW[:, None, :]
    return torch.where(mask_BHW[:, None], x_BCHW.mean((1, 2, 3), keepdim=True), x_BCHW)
