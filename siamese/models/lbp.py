"""Local binary patterns (LBP) as an encoder: hand-made features, reduced by a linear layer.

Shapes: B images, C channels, H = W pixels, K cells, F features, D embedding dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamese.config.shapes import LBP_PATTERNS, lbp_cells, lbp_features
from siamese.errors import ConfigError
from siamese.models.encoder import Encoder

NEIGHBOURS = 8
TIE = 1e-5
"""A neighbour that is darker by less than this (of a range of 0 to 1) counts as equal: interpolation rounds."""


class LbpEncoder(Encoder):
    """Embed an image by histograms of its uniform local binary patterns, projected by a linear layer.

    Each pixel is described by which of its 8 neighbours on a circle are at least as bright (Ojala, Pietikaeinen and
    Maeenpaeae 2002). Histograms of these patterns over blocks of the image describe a face (Ahonen, Hadid and
    Pietikaeinen 2006), here at several scales and radii, as by Chen, Cao, Wen and Sun (2013, "Blessing of
    Dimensionality"), but on a fixed grid instead of around landmarks. A block has 2 x 2 cells and shares half of them
    with the next. The roots of its frequencies have unit length, so that their Euclidean distances are
    proportional to the Hellinger distance.

    `prepare` sets the linear layer to the principal components of the training images, from where it can be trained.
    The histograms have no parameters.

    Args:
        in_channels: 1 (grey) or 3 (RGB); each channel is described separately.
        input_size: side of the square image, pixels.
        scales: sides to which the image is resized, as fractions of its side, in (0, 1].
        radii: radii of the circles, in pixels of the resized images.
        cell: side of a cell, in pixels of the resized images.
        embedding_dim: D.
    """

    rounding = 1e-2  # a pixel that rounding makes darker or brighter has another pattern

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        *,
        scales: Sequence[float],
        radii: Sequence[float],
        cell: int,
        embedding_dim: int,
    ) -> None:
        super().__init__()
        described = [(round(scale * input_size), radius) for scale in scales for radius in radii]
        self.sizes = [size for size, _ in described]
        self.histograms = nn.ModuleList(BlockHistograms(size, radius, cell) for size, radius in described)
        self.linear = nn.Linear(in_channels * lbp_features(input_size, scales, radii, cell), embedding_dim)
        self.embedding_dim = embedding_dim

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Compute the histograms of images, floats in [0, 1] [B, C, H, W] -> float32 [B, F]."""
        x_B1HW = x_BCHW.detach().float().flatten(0, 1)[:, None]  # each channel as an image
        resized = {size: _resize(x_B1HW, size) for size in self.sizes}
        parts = [part(resized[size]) for size, part in zip(self.sizes, self.histograms, strict=True)]
        return torch.cat(parts, 1).reshape(x_BCHW.shape[0], -1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embed images, floats in [0, 1] [B, C, H, W] -> float32 [B, D]."""
        with torch.autocast(x_BCHW.device.type, enabled=False):
            z_BD: Tensor = self.linear(self.features(x_BCHW))
        return z_BD

    @torch.no_grad()
    def prepare(self, images: Iterable[Tensor]) -> None:
        """Set the linear layer to the principal components of images [B, C, H, W], those of the largest variance.

        Raises:
            ConfigError: the images have fewer principal components.
        """
        x_NF = torch.cat([self.features(x_BCHW) for x_BCHW in images])
        if len(x_NF) <= self.embedding_dim:
            most = len(x_NF) - 1
            raise ConfigError(
                f"model.embedding_dim={self.embedding_dim}: {len(x_NF)} training images have at most {most} principal "
                f"components; give at most {most}"
            )
        mean_F = x_NF.mean(0)
        more = min(self.embedding_dim + 100, *x_NF.shape)  # than are kept, so that those are accurate
        with torch.random.fork_rng(devices=[]):
            components = torch.svd_lowrank(x_NF.sub_(mean_F), q=more, niter=3)[2][:, : self.embedding_dim]
        self.linear.weight.copy_(components.T)
        self.linear.bias.copy_(-mean_F @ components)


def _resize(x_B1HW: Tensor, size: int) -> Tensor:
    if size == x_B1HW.shape[-1]:
        return x_B1HW
    return F.interpolate(x_B1HW, size=(size, size), mode="bilinear", antialias=True)


class BlockHistograms(nn.Module):
    """Histograms of the local binary patterns of a grey image.

    Args:
        size: H, pixels.
        radius: radius of the circle of neighbours, pixels.
        cell: side of a cell, pixels, before it is changed so that the cells fill the image.
    """

    circle: Tensor
    pattern: Tensor
    position: Tensor

    def __init__(self, size: int, radius: float, cell: int) -> None:
        super().__init__()
        self.margin, self.cells = math.ceil(radius), lbp_cells(size, radius, cell)
        width = size - 2 * self.margin
        cell_H = torch.arange(width) * self.cells // width
        self.register_buffer("circle", _neighbours_minus_centre(radius))
        self.register_buffer("pattern", _uniform_patterns())
        self.register_buffer("position", (cell_H[:, None] * self.cells + cell_H) * LBP_PATTERNS)

    def forward(self, x_B1HW: Tensor) -> Tensor:
        """Describe grey images, floats in [0, 1] [B, 1, H, W] -> roots of frequencies [B, blocks * patterns]."""
        brighter_B8HW = F.conv2d(x_B1HW, self.circle) >= -TIE
        code_BHW = torch.zeros_like(brighter_B8HW[:, 0], dtype=torch.int32)
        for bit in range(NEIGHBOURS):
            code_BHW.add_(brighter_B8HW[:, bit], alpha=1 << bit)
        index_BK = (self.pattern[code_BHW.long()] + self.position).flatten(1)
        count_BK = torch.zeros(index_BK.shape[0], self.cells**2 * LBP_PATTERNS, device=x_B1HW.device)
        count_BK.scatter_add_(1, index_BK, torch.ones_like(index_BK, dtype=count_BK.dtype))
        cell = count_BK.view(-1, self.cells, self.cells, LBP_PATTERNS)
        block = cell[:, :-1] + cell[:, 1:]
        block = block[:, :, :-1] + block[:, :, 1:]
        return F.normalize(block.sqrt(), dim=3).flatten(1)


def _neighbours_minus_centre(radius: float) -> Tensor:
    """Make the kernels [8, 1, K, K] of each interpolated neighbour on the circle minus the pixel in the middle."""
    angle = torch.arange(NEIGHBOURS, dtype=torch.float64) * 2 * math.pi / NEIGHBOURS
    offset = torch.arange(-math.ceil(radius), math.ceil(radius) + 1)
    down_8K, right_8K = (
        (1 - (place[:, None].round(decimals=6) - offset).abs()).clamp_min(0)
        for place in (-radius * angle.sin(), radius * angle.cos())
    )
    kernel_8KK = down_8K[:, :, None] * right_8K[:, None]
    kernel_8KK[:, len(offset) // 2, len(offset) // 2] -= 1
    return kernel_8KK[:, None].float()


def _uniform_patterns() -> Tensor:
    """Number the codes with at most two changes between neighbouring bits, and all others alike; int64 [256]."""
    bits = (torch.arange(2**NEIGHBOURS)[:, None] >> torch.arange(NEIGHBOURS)) & 1
    uniform = (bits != bits.roll(1, dims=1)).sum(1) <= 2
    return torch.where(uniform, uniform.cumsum(0) - 1, LBP_PATTERNS - 1)
