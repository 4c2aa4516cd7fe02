"""A small residual network (He et al. 2016, "Deep Residual Learning for Image Recognition") made for two CPU cores.

Shapes: B images, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from siamese.models.encoder import Encoder
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each with batch normalization, added to their input; the first has the stride.

    Where the shape changes, the input is averaged over the stride's window before a 1x1 convolution, so that none of
    its pixels is skipped (He et al. 2019, "Bag of Tricks", ResNet-D).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(c_in, c_out, 1, bias=False),
                nn.BatchNorm2d(c_out),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        y_BCHW: Tensor = self.relu(self.branch(x_BCHW) + self.shortcut(x_BCHW))
        return y_BCHW


class ResNetEncoder(Encoder):
    """A convolution at full resolution, a stage of residual blocks for each halving of the image, and a linear layer.

    What the last stage gives is averaged over its places or, which keeps where things are in an aligned face,
    flattened. Batch normalization without parameters of its own ends it, so that none of the embedding's dimensions
    outweighs others.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        widths: channels of each stage; the first is also that of the convolution before.
        blocks: residual blocks in each stage.
        pooling: ``average`` or ``flatten``.
        stem: how the image is first halved: ``pool``, maximum pooling after the convolution at full resolution, or
            ``conv``, by the first residual block as in the later stages, which takes a third longer.
        dropout: probability that an input of the linear layer is zeroed in training, in [0, 1).
        embedding_dim: D.

    Raises:
        ValueError: ``pooling`` or ``stem`` is unknown.
    """

    def __init__(
        self,
        in_channels: int = 1,
        input_size: int = 105,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (1, 1, 1, 1),
        pooling: str = "flatten",
        stem: str = "pool",
        dropout: float = 0.0,
        embedding_dim: int = 256,
    ) -> None:
        super().__init__()
        if pooling not in ("average", "flatten"):
            raise ValueError(f"pooling={pooling!r} is neither 'average' nor 'flatten'")
        if stem not in ("pool", "conv"):
            raise ValueError(f"stem={stem!r} is neither 'pool' nor 'conv'")
        width, side = widths[0], input_size
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        if stem == "pool":
            layers.append(BatchNormMaxPoolReLU2d(width))
            side //= 2
        else:
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        for stage, (stage_width, count) in enumerate(zip(widths, blocks, strict=True)):
            halves = stage > 0 or stem == "conv"
            for k in range(count):
                layers.append(ResidualBlock(width, stage_width, stride=2 if halves and k == 0 else 1))
                width = stage_width
            side = -(-side // 2) if halves else side
        self.features = nn.Sequential(*layers)
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(1) if pooling == "average" else nn.Identity()
        places = 1 if pooling == "average" else side * side
        self.linear = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width * places, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )
        self.embedding_dim = embedding_dim
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W], floats in [0, 1] -> embeddings [B, D]."""
        z_BD: Tensor = self.linear(self.pool(self.features(x_BCHW)).flatten(1))
        return z_BD
