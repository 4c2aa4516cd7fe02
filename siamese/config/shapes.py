"""Sizes of the feature maps of Koch's network, without torch, so that a configuration is checked quickly."""

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
