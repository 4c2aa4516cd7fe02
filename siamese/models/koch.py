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
    """Embed an image with four convolutions and a linear layer (figure 4 of the paper).

    The convolutions have stride 1 and no padding. Each is followed by ReLU, and all but the last by 2x2 max-pooling.
    For images of 105x105 pixels, the feature maps have the sides 96, 48, 42, 21, 18, 9, 6. Pooling comes before ReLU
    here: the result is the same, and ReLU processes a quarter of the elements.

    With batch normalization (the second model of the course report), BatchNorm2d comes before each ReLU, and
    BatchNorm1d and ReLU follow the linear layer. Without it, nothing follows the linear layer.

    The course report does not say where dropout acts. Here it acts on the output of each convolution block. On the
    embedding, different masks would separate the two embeddings of one image.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        widths: output channels of the four convolutions.
        embedding_dim: D.
        batchnorm: use batch normalization.
        dropout: probability that an element is set to 0 in training, in [0, 1).
        init: ``torch`` keeps PyTorch's initialization. ``koch`` draws from the normal distributions of the paper,
            section 3.2 (mean, standard deviation): weights (0, 0.01) in convolutions and (0, 0.2) in the linear layer,
            biases (0.5, 0.01).
        dft: compute a convolution by Fourier transform if that saves most of its arithmetic
            (`siamese.models.dft_conv`). Results differ by rounding only.

    Raises:
        ValueError: the image is too small for the four convolutions, or ``init`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        *,
        widths: Sequence[int],
        embedding_dim: int,
        batchnorm: bool,
        dropout: float,
        init: str,
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
        """Embed images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D]."""
        z_BD: Tensor = self.linear(self.convolutions(x_BCHW).flatten(1))
        return z_BD

    def twins(self, x1_BCHW: Tensor, x2_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Embed both images of each pair -> embeddings [B, D] of each.

        The result is that of two calls of `forward`. The linear layer runs once for both sides: it holds nine tenths
        of the parameters, and reading its weights and writing its gradient takes time. Each side has its own batch
        statistics.
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
