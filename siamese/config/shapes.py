"""Sizes of Koch's feature maps; apart from the network so that a configuration is checked without torch."""

KOCH_KERNELS = (10, 7, 4, 4)
"""Kernel sizes of the four convolutions (Koch et al. 2015, figure 4); stride 1, no padding."""


def koch_feature_size(input_size: int) -> int:
    """Side of the last feature map for a square image of side ``input_size`` (105 -> 6); below 1: too small.

    Each convolution takes ``kernel - 1`` pixels off; a 2x2 max-pooling follows all but the last.
    """
    size = input_size
    for layer, kernel in enumerate(KOCH_KERNELS):
        size -= kernel - 1
        if layer < len(KOCH_KERNELS) - 1:
            size //= 2
    return size
