"""Random changes of whole batches of images, the same call on CPU and GPU.

What is drawn is drawn on the CPU from torch's generator, so that a seed gives the same changes on any device.

Shapes: B images, C channels, H = W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from siamese.config.augmentation import AugmentationConfig

DRAWS = 13
"""Numbers drawn for an image, whatever is switched on: what one option does, does not change what another draws."""


def draws_for(images: int) -> Tensor:
    """What decides how images are changed: float32 [images, `DRAWS`], uniform from 0 to 1."""
    return torch.rand(images, DRAWS)


def augment(x_BCHW: Tensor, options: AugmentationConfig, u: Tensor | None = None) -> Tensor:
    """Change each image in its own way, within what ``options`` allows.

    Mirrored, turned, sheared, scaled and moved in one step (bilinear; outside the image its border goes on), then the
    light is changed, then a rectangle is filled with the image's mean.

    Args:
        x_BCHW: float [B, C, H, W] in [0, 1].
        options: what may change, and how much; amounts are uniform between both extremes (of a scale, its logarithm).
        u: what was drawn for these images with `draws_for`; drawn now when None.

    Returns:
        as ``x_BCHW``, which is left as it is; itself when nothing is switched on.
    """
    if not options.changes:
        return x_BCHW
    u = draws_for(len(x_BCHW)) if u is None else u
    flip_B = (u[:, 0] < 0.5) & options.flip
    x_BCHW = _move(x_BCHW, u[:, 1:6], flip_B, options)
    x_BCHW = _light(x_BCHW, u[:, 6:8], options)
    return _erase(x_BCHW, u[:, 8:13], options)


def sampling_grid(theta_B23: Tensor, x_BCHW: Tensor) -> Tensor:
    """Where each pixel of the new images comes from in the old ones, float32 [B, H, W, 2] from -1 to 1.

    Under autocast as well: a bfloat16 grid is off by up to a sixth of a pixel.
    """
    with torch.autocast(x_BCHW.device.type, enabled=False):
        return F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)


def _move(x_BCHW: Tensor, u: Tensor, flip_B: Tensor, options: AugmentationConfig) -> Tensor:
    flip_B111 = flip_B.to(x_BCHW.device, non_blocking=True)[:, None, None, None]
    if not (options.rotation or options.shear or options.translation or options.scale > 1):
        return torch.where(flip_B111, x_BCHW.flip(-1), x_BCHW) if options.flip else x_BCHW
    angle, shear, log_scale, right, down = ((2 * u - 1) * torch.tensor([
        math.radians(options.rotation), options.shear, math.log(options.scale), options.translation,
        options.translation,
    ])).unbind(1)  # fmt: skip
    # For each place of the new image, in coordinates from -1 to 1, where in the old one it comes from.
    mirror, zoom = torch.where(flip_B, -1.0, 1.0), torch.exp(-log_scale)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [
            torch.stack([mirror * cos, mirror * (cos * shear - sin), 2 * right], 1),
            torch.stack([sin, sin * shear + cos, 2 * down], 1),
        ],
        1,
    )
    grid = sampling_grid(theta.to(x_BCHW.device, non_blocking=True), x_BCHW)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _light(x_BCHW: Tensor, u: Tensor, options: AugmentationConfig) -> Tensor:
    if not (options.brightness or options.contrast):
        return x_BCHW
    change = ((2 * u - 1) * torch.tensor([options.brightness, options.contrast])).to(x_BCHW.device, non_blocking=True)
    brightness_B111, contrast_B111 = change.T[:, :, None, None, None].unbind()
    mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
    lit_BCHW = (x_BCHW - mean_B111) * (1 + contrast_B111) + mean_B111 + brightness_B111
    return lit_BCHW.clamp_(0, 1)


def _erase(x_BCHW: Tensor, u: Tensor, options: AugmentationConfig) -> Tensor:
    if not options.erase:
        return x_BCHW
    # Sides from a quarter of the largest on; anywhere within the image.
    height_B, width_B = (options.erase_size * (0.25 + 0.75 * u[:, k]) for k in (1, 2))
    hit_B = u[:, 0] < options.erase
    top_B, left_B = (1 - height_B) * u[:, 3], (1 - width_B) * u[:, 4]
    at = (torch.arange(x_BCHW.shape[-1]) + 0.5) / x_BCHW.shape[-1]
    rows_BH = (at >= top_B[:, None]) & (at < (top_B + height_B)[:, None]) & hit_B[:, None]
    columns_BW = (at >= left_B[:, None]) & (at < (left_B + width_B)[:, None])
    mask_BHW = (rows_BH[:, :, None] & columns_BW[:, None, :]).to(x_BCHW.device, non_blocking=True)
    return torch.where(mask_BHW[:, None], x_BCHW.mean((1, 2, 3), keepdim=True), x_BCHW)
