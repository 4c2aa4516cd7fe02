"""The encoder of Koch, Zemel and Salakhutdinov (2015), Siamese Neural Networks for One-shot Image Recognition.

Shapes: B images, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from siamese.config.shapes import KOCH_KERNELS, koch_feature_size
from siamese.models.dft_conv import DFTConv2d, dft_saves
from siamese.models.encoder import Encoder
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d, MaxPoolReLU2d
from siamese.models.unfold_conv import UnfoldConv2d


class KochEncoder(Encoder):
    """Four convolutions and a linear layer (figure 4 of the paper) that embed an image.

    Convolutions have stride 1 and no padding; ReLU follows each, 2x2 max-pooling all but the last. With 105x105
    grey images the feature maps have the sides 96, 48, 42, 21, 18, 9, 6. Without batch normalization nothing
    follows the linear layer; with it, BatchNorm2d stands before each ReLU, and BatchNorm1d and ReLU follow the
    linear layer (the report's second model). Pooling stands before ReLU here: the two commute, and ReLU then
    works on a quarter of the elements. Dropout, whose place the report does not tell, acts on the output
    of each convolution block and never on the embedding: two twins with different masks on the embedding would
    be pushed apart even for the same image.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        widths: output channels of the four convolutions.
        embedding_dim: D.
        batchnorm: see above.
        dropout: probability that an element is zeroed in training, in [0, 1).
        init: ``torch`` keeps torch's initialisation; ``koch`` draws from the normal distributions of the
            paper's section 3.2: weights N(0, 0.01) in convolutions and N(0, 0.2) in the linear layer, biases
            N(0.5, 0.01), the second number being the standard deviation.
        dft: compute convolutions by way of the discrete Fourier transform where that saves most of the
            arithmetic (`siamese.models.dft_conv`); the network is the same to rounding.

    Raises:
        ValueError: the image is too small for the four convolutions, or ``init`` is unknown.
    """

    def __init__(
        self,
        in_channels: int = 1,
        input_size: int = 105,
        widths: Sequence[int] = (64, 128, 128, 256),
        embedding_dim: int = 4096,
        batchnorm: bool = False,
        dropout: float = 0.0,
        init: str = "torch",
        dft: bool = False,
    ) -> None:
        super().__init__()
        side = koch_feature_size(input_size)
        if side < 1:
            raise ValueError(f"an image of {input_size}x{input_size} pixels is too small for Koch's encoder")
        blocks: list[nn.Module] = []
        size = input_size
        for layer, ((c_in, c_out), kernel) in enumerate(
            zip(pairwise([in_channels, *widths]), KOCH_KERNELS, strict=True)
        ):
            convolution = nn.Conv2d
            if layer == 0:
                convolution = UnfoldConv2d
            elif dft and dft_saves(size, c_in, c_out, kernel):
                convolution = DFTConv2d
            blocks.append(convolution(c_in, c_out, kernel))
            size -= kernel - 1
            if layer < len(KOCH_KERNELS) - 1:
                blocks.append(BatchNormMaxPoolReLU2d(c_out) if batchnorm else MaxPoolReLU2d())
                size //= 2
            else:
                blocks += [nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)] if batchnorm else [nn.ReLU(inplace=True)]
            if dropout > 0:
                blocks.append(nn.Dropout(dropout))
        self.convolutions = nn.Sequential(*blocks)
        linear: list[nn.Module] = [nn.Linear(widths[-1] * side * side, embedding_dim)]
        if batchnorm:
            linear += [nn.BatchNorm1d(embedding_dim), nn.ReLU(inplace=True)]
        self.linear = nn.Sequential(*linear)
        self.embedding_dim = embedding_dim
        if init == "koch":
            self.apply(koch_init)
        elif init != "torch":
            raise ValueError(f"init={init!r} is neither 'torch' nor 'koch'")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W], floats in [0, 1] -> embeddings [B, D]."""
        z_BD: Tensor = self.linear(self.convolutions(x_BCHW).flatten(1))
        return z_BD

    def twins(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Both images of each pair -> embeddings [B, D] of each.

        As two calls of `forward`, but for the linear layer, nine tenths of the parameters, whose weights are read
        and whose gradient is written once for both. Batch statistics are those of one side of the pairs.
        """
        first, *rest = self.linear
        features = [self.convolutions(x).flatten(1) for x in (x1_BCHW, x2_BCHW)]
        z1_BD, z2_BD = (nn.Sequential(*rest)(z) for z in first(torch.cat(features)).chunk(2))
        return z1_BD, z2_BD


@torch.no_grad()
def koch_init(module: nn.Module) -> None:
    """Draw a layer's parameters from the distributions of Koch et al. (2015), section 3.2."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01 if isinstance(module, nn.Conv2d) else 0.2)
        if module.bias is not None:
            nn.init.normal_(module.bias, 0.5, 0.01)
