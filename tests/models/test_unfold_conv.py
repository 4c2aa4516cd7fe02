"""Our first convolution of Koch's network, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from convolutions import assert_same_convolution
from torch import nn

from siamese.models.unfold_conv import UnfoldConv2d


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bf16", [True, False])
def test_an_unfolded_convolution_is_the_convolution(channels: int, bf16: bool) -> None:
    torch.manual_seed(0)
    plain, ours = nn.Conv2d(channels, 4, (5, 3)), UnfoldConv2d(channels, 4, (5, 3))
    assert_same_convolution(plain, ours, torch.rand(2, channels, 12, 11), bf16)
