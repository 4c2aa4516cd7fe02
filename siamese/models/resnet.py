"""A residual network (He et al. 2016, "Deep Residual Learning for Image Recognition") that two CPU cores can train.

Shapes: B images, C channels, H = W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from siamese.models.conv3x3 import Conv3x3
from siamese.models.encoder import Encoder
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d, ForkedAvgPool2d, FusedBatchNorm2d
from siamese.models.stem import PooledStem


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, added to their input.

    If the shape changes, the shortcut averages the input over windows of the stride and applies a 1x1 convolution. A
    1x1 convolution with a stride would skip pixels (He et al. 2019, "Bag of Tricks", ResNet-D).

    Args:
        c_in: input channels.
        c_out: output channels.
        stride: stride of the first convolution.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        # The keys are the positions that the layers had in older checkpoints.
        self.branch = nn.ModuleDict({
            "0": Conv3x3(c_in, c_out, stride),
            "1": FusedBatchNorm2d(c_out),
            "3": Conv3x3(c_out, c_out),
            "4": FusedBatchNorm2d(c_out),
        })  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                ForkedAvgPool2d(stride),
                nn.Conv2d(c_in, c_out, 1, bias=False),
                FusedBatchNorm2d(c_out, relu=False),
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Feature maps [B, c_in, H, W] -> [B, c_out, ceil(H / stride), ceil(W / stride)]."""
        conv1, norm1, conv2, norm2 = self.branch.values()
        added_BCHW = x_BCHW
        if self.shortcut:
            pool, conv, norm = self.shortcut
            x_BCHW, average_BCHW = pool(x_BCHW)
            added_BCHW = norm(conv(average_BCHW))
        y_BCHW: Tensor = norm2(conv2(norm1(conv1(x_BCHW))), added_BCHW)
        return y_BCHW


class ResNetEncoder(Encoder):
    """Embed an image with a convolution, stages of residual blocks and a linear layer.

    Each stage halves the side of its feature maps. Batch normalization without learned parameters follows the linear
    layer, so that no dimension of the embedding outweighs the others.

    Args:
        in_channels: 1 (grey) or 3 (RGB).
        input_size: side of the square image, pixels.
        widths: output channels of each stage; the first convolution has those of the first stage.
        blocks: residual blocks in each stage.
        pooling: reduction of the last feature maps: ``average`` over all positions, or ``flatten``, which keeps the
            positions (useful for aligned faces).
        stem: how the first stage halves the image: by max-pooling after the first convolution (``pool``), or by the
            first residual block, as in the other stages (``conv``, a third slower).
        dropout: probability that an input of the linear layer is set to 0 in training, in [0, 1).
        embedding_dim: D.

    Raises:
        ValueError: ``pooling`` or ``stem`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        *,
        widths: Sequence[int],
        blocks: Sequence[int],
        pooling: str,
        stem: str,
        dropout: float,
        embedding_dim: int,
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
            layers += [FusedBatchNorm2d(width), nn.Identity()]  # in older checkpoints, this was ReLU
        for stage, (stage_width, count) in enumerate(zip(widths, blocks, strict=True)):
            halves = stage > 0 or stem == "conv"
            for k in range(count):
                layers.append(ResidualBlock(width, stage_width, stride=2 if halves and k == 0 else 1))
                width = stage_width
            side = -(-side // 2) if halves else side
        self.features = PooledStem(*layers)
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
        """Embed images, floats in [0, 1] [B, C, H, W] -> embeddings [B, D]."""
        z_BD: Tensor = self.linear(self.pool(self.features(x_BCHW)).flatten(1))
        return z_BD
