"""Heads, and the network that embeds and scores: symmetry, views at test time."""

from __future__ import annotations

import pytest
import torch
from networks import SMALL_KOCH, make_network
from torch import nn

from siamese.models.build import build_head
from siamese.models.siamese import CosineHead, EuclideanHead, L1Head, windows


def test_twins_share_weights_and_the_score_is_symmetric() -> None:
    network = make_network(SMALL_KOCH, 1, 65).eval()
    a, b = torch.rand(2, 3, 1, 65, 65)
    torch.testing.assert_close(network(a, b), network(b, a))
    # An image against itself: |h - h| = 0 leaves the head's bias.
    torch.testing.assert_close(network(a, a), network.head.linear.bias.expand(3))


def test_heads_by_hand() -> None:
    z1, z2 = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    assert CosineHead()(z1, z2).tolist() == pytest.approx([0.0, 1.0])
    assert EuclideanHead()(z1, z2).tolist() == pytest.approx([-(2**0.5), 0.0])
    assert CosineHead()(z1.bfloat16(), z2.bfloat16()).dtype == torch.float32


def test_kochs_head_computes_in_float32_under_autocast() -> None:
    head, z1, z2 = L1Head(64, init="torch"), torch.rand(500, 64), torch.rand(500, 64)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(z1, z2)
    assert torch.equal(logits, head(z1, z2))
    assert len(logits.unique()) > 490


@pytest.mark.parametrize(
    ("objective", "head"),
    [
        ({"name": "bce"}, L1Head),
        ({"name": "contrastive", "distance": "euclidean"}, EuclideanHead),
        ({"name": "contrastive", "distance": "cosine"}, CosineHead),
        ({"name": "arcface"}, CosineHead),
    ],
)
def test_the_head_compares_as_the_objective_trains(objective: dict[str, str], head: type[nn.Module]) -> None:
    encoder = make_network(SMALL_KOCH, 1, 65).encoder
    assert isinstance(build_head(encoder, SMALL_KOCH, objective), head)


@pytest.mark.parametrize("objective", ["bce", "ntxent"])
def test_flip_averaging_makes_mirror_images_equal_only_in_evaluation(objective: str) -> None:
    torch.manual_seed(0)  # with some weights, ReLU lets nothing pass
    network = make_network(SMALL_KOCH, 1, 65, objective=objective, flip_average=True)
    x1, x2 = torch.rand(3, 1, 65, 65), torch.rand(3, 1, 65, 65)
    assert not torch.allclose(network.embed(x1), network.embed(x1.flip(-1)), atol=1e-6)
    network.eval()
    torch.testing.assert_close(network.embed(x1), network.embed(x1.flip(-1)))
    torch.testing.assert_close(network(x1, x2), network(x1.flip(-1), x2))
    torch.testing.assert_close(network(x1, x2), network.head(network.embed(x1), network.embed(x2)))


def test_windows_lie_at_the_middle_of_each_edge() -> None:
    at = (torch.arange(64) + 0.5) / 64
    x_BCHW = torch.stack([at.expand(64, 64), at[:, None].expand(64, 64)])[None]  # how far right, how far down
    starts = [(0, 0.125), (0.25, 0.125), (0.125, 0), (0.125, 0.25)]
    for window, (left, top) in zip(windows(x_BCHW, 0.75), starts, strict=True):
        assert window.shape == x_BCHW.shape
        torch.testing.assert_close(window[0, 0, 0], left + 0.75 * at, atol=1e-2, rtol=0)  # half a pixel at the border
        torch.testing.assert_close(window[0, 1, :, 0], top + 0.75 * at, atol=1e-2, rtol=0)


def test_crop_averaging_is_the_mean_over_whole_image_windows_and_mirror_images() -> None:
    network = make_network(SMALL_KOCH, 1, 65, objective="ntxent", flip_average=True, crop_average=0.9)
    x = torch.rand(3, 1, 65, 65)
    torch.testing.assert_close(network.embed(x), network.encoder(x))
    network.eval()
    views = [view for one in (x, *windows(x, 0.9)) for view in (one, one.flip(-1))]
    torch.testing.assert_close(network.embed(x), sum(network.encoder(view) for view in views) / 10)
    torch.testing.assert_close(network.embed(x, with_crops=False), sum(network.encoder(view) for view in views[:2]) / 2)
