"""Sizes of feature maps, without torch, so that a configuration is checked quickly."""

import math
from collections.abc import Sequence

KOCH_KERNELS = (10, 7, 4, 4)
"""Kernel sizes of the four convolutions (Koch et al. 2015, figure 4); stride 1, no padding."""


def koch_feature_size(input_size: int) -> int:
    """Return the side of the last feature map for a square image of side ``input_size`` (105 -> 6); below 1: too small.

    Each convolution removes ``kernel - 1`` pixels. A 2x2 max pooling follows all but the last.
    """
    size = input_size
    for layer, kernel in enumerate(KOCH_KERNELS):
        size -= kernel - 1
        if layer < len(KOCH_KERNELS) - 1:
            size //= 2
    return size


LBP_PATTERNS = 59
"""The 58 uniform patterns of 8 neighbours (Ojala et al. 2002), and one for all others."""


def lbp_cells(size: int, radius: float, cell: int) -> int:
    """Return how many cells of about ``cell`` pixels divide one side of an image without its margins of ``radius``."""
    return round((size - 2 * math.ceil(radius)) / cell)


def lbp_features(input_size: int, scales: Sequence[float], radii: Sequence[float], cell: int) -> int:
    """Return how many features ``model=lbp`` computes for one channel: a histogram for every 2 x 2 cells."""
    blocks = ((lbp_cells(round(scale * input_size), radius, cell) - 1) ** 2 for scale in scales for radius in radii)
    return sum(blocks) * LBP_PATTERNS
