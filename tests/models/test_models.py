"""The network: shapes, parameter counts, symmetry, initialisation."""

from __future__ import annotations

import copy
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from siamese.config.schema import NtxentObjective, ResnetModel
from siamese.config.shapes import koch_feature_size
from siamese.errors import DataError
from siamese.models.build import build_network
from siamese.models.koch import KochEncoder
from siamese.models.multicrop import central_crop
from siamese.models.norm_pool import MaxPoolReLU2d
from siamese.models.resnet import ResidualBlock
from siamese.models.siamese import CosineHead, EuclideanHead, L1Head, windows
from siamese.models.unfold_conv import UnfoldConv2d
from siamese.objectives.build import build_objective
from siamese.objectives.pairs import BinaryCrossEntropy

KOCH = {
    "name": "koch", "batchnorm": False, "dropout": 0.0, "widths": [64, 128, 128, 256], "embedding_dim": 4096,
    "init": "torch",
}  # fmt: skip
SMALL = {**KOCH, "widths": [4, 4, 8, 8], "embedding_dim": 16}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_reports_models_have_their_parameters() -> None:
    with torch.device("meta"):
        assert parameters(build_network(KOCH, 1, 105)) == 38_951_745
        # A weight and a bias for each channel of the four BatchNorm2d and of the BatchNorm1d.
        normalized = build_network({**KOCH, "batchnorm": True}, 1, 105)
    assert parameters(normalized) == 38_951_745 + 2 * (64 + 128 + 128 + 256 + 4096)


def test_feature_maps_are_those_of_the_paper() -> None:
    encoder = KochEncoder(widths=(2, 2, 2, 2), embedding_dim=3)
    x, sides = torch.zeros(1, 1, 105, 105), []
    for layer in encoder.convolutions:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | MaxPoolReLU2d):
            sides.append(x.shape[-1])
    assert sides == [96, 48, 42, 21, 18, 9, 6]


@pytest.mark.parametrize("size", [65, 66, 105, 120, 250])
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_that_fits(size: int, batchnorm: bool, channels: int) -> None:
    network = build_network({**SMALL, "batchnorm": batchnorm, "dropout": 0.1}, channels, size)
    x = torch.rand(2, channels, size, size)
    assert network(x, x.flip(0)).shape == (2,)
    assert network.embed(x).shape == (2, 16)


def test_too_small_an_image_is_refused() -> None:
    assert koch_feature_size(64) < 1 <= koch_feature_size(65)
    with pytest.raises(ValueError, match="64x64 pixels is too small"):
        KochEncoder(input_size=64)


def test_twins_share_weights_and_the_score_is_symmetric() -> None:
    network = build_network(SMALL, 1, 65).eval()
    a, b = torch.rand(2, 3, 1, 65, 65)
    torch.testing.assert_close(network(a, b), network(b, a))
    # An image against itself: |h - h| = 0 leaves the head's bias.
    torch.testing.assert_close(network(a, a), network.head.linear.bias.expand(3))


def test_batch_statistics_are_per_twin() -> None:
    torch.manual_seed(0)
    network = build_network({**SMALL, "batchnorm": True}, 1, 65).train()
    a, b = torch.rand(4, 1, 65, 65), 0.1 * torch.rand(4, 1, 65, 65)
    torch.testing.assert_close(network(a, b), network.head(network.embed(a), network.embed(b)))
    both = network.embed(torch.cat([a, b]))
    assert not torch.allclose(both[:4], network.embed(a), atol=1e-3)


def test_dropout_acts_in_training_only_and_not_on_the_embedding() -> None:
    network = build_network({**SMALL, "dropout": 0.5}, 1, 65)
    x = torch.rand(2, 1, 65, 65)
    assert not torch.equal(network.train().embed(x), network.embed(x))
    network.eval()
    torch.testing.assert_close(network.embed(x), network.embed(x))
    assert not any(isinstance(layer, nn.Dropout) for layer in network.encoder.linear)


def test_koch_initialisation() -> None:
    torch.manual_seed(0)
    network = build_network({**KOCH, "widths": [16, 32, 32, 64], "embedding_dim": 512, "init": "koch"}, 1, 105)
    convolution = network.encoder.convolutions[2]
    linear = network.encoder.linear[0]
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert linear.weight.std().item() == pytest.approx(0.2, rel=0.05)
    assert network.head.linear.weight.std().item() == pytest.approx(0.2, rel=0.2)
    assert linear.bias.mean().item() == pytest.approx(0.5, abs=0.005)
    assert linear.bias.std().item() == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_loss_is_sigmoid_and_cross_entropy(dtype: torch.dtype) -> None:
    logits = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=dtype)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    p = torch.sigmoid(logits.double())
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    loss = BinaryCrossEntropy()(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bf16", [True, False])
def test_an_unfolded_convolution_is_the_convolution(channels: int, bf16: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 4, (5, 3))
    unfolded = UnfoldConv2d(channels, 4, (5, 3))
    unfolded.load_state_dict(plain.state_dict())
    x, direction = torch.rand(2, channels, 12, 11), torch.randn(2, 4, 8, 9)
    found = []
    for convolution in (plain, unfolded):
        pixels = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = convolution(pixels)
        assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
        gradients = torch.autograd.grad((y.float() * direction).sum(), [pixels, *convolution.parameters()])
        found.append([y.float(), *gradients])
    for one, other in zip(*found, strict=True):
        largest = one.abs().max()
        torch.testing.assert_close(other / largest, one / largest, rtol=0, atol=0.02 if bf16 else 1e-6)


# --- other encoders, and what scores embeddings -----------------------------------------------------------

RESNET = {
    "name": "resnet", "widths": [4, 8, 16], "blocks": [1, 2, 1], "pooling": "flatten", "dropout": 0.0,
    "embedding_dim": 8,
}  # fmt: skip
TORCHVISION = {"name": "torchvision", "backbone": "resnet18", "weights": None, "dropout": 0.0, "embedding_dim": 8}


@pytest.mark.parametrize("pooling", ["flatten", "average"])
@pytest.mark.parametrize(
    ("stem", "channels", "size", "side"),
    [
        ("pool", 1, 33, 4),
        ("pool", 3, 64, 8),
        ("pool", 1, 8, 1),
        ("conv", 1, 33, 5),
        ("conv", 3, 64, 8),
        ("conv", 1, 8, 1),
    ],
)
def test_residual_network_takes_any_size(pooling: str, stem: str, channels: int, size: int, side: int) -> None:
    network = build_network({**RESNET, "pooling": pooling, "stem": stem}, channels, size, objective={"name": "ntxent"})
    assert network.encoder.features(torch.rand(2, channels, size, size)).shape == (2, 16, side, side)
    assert network.embed(torch.rand(2, channels, size, size)).shape == (2, 8)


def test_a_residual_block_is_its_input_plus_its_branch() -> None:
    block = ResidualBlock(4, 4, stride=1).eval()
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(block(x), (block.branch(x) + x).relu())
    nn.init.zeros_(block.branch[4].weight)
    torch.testing.assert_close(block(x), x)  # ReLU leaves what is not negative


def test_the_default_residual_network_is_small() -> None:
    default = ResnetModel(name="resnet").model_dump()
    with torch.device("meta"):
        assert parameters(build_network(default, 1, 105, objective={"name": "ntxent"})) < 5_000_000


MULTICROP = {**RESNET, "name": "multicrop", "crops": [1.0, 0.5], "crop_size": 16}


def test_multicrop_gives_each_crops_embedding_at_unit_length() -> None:
    network = build_network(MULTICROP, 1, 32, objective={"name": "ntxent"}).eval()
    x = torch.rand(3, 1, 32, 32)
    whole, middle = network.encoder.encoders

    def embeddings(images: torch.Tensor) -> list[torch.Tensor]:
        smaller = F.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
        return [whole(smaller), middle(images[:, :, 8:24, 8:24])]

    torch.testing.assert_close(network.embed(x), torch.cat([F.normalize(z) for z in embeddings(x)], 1))
    y = torch.rand(3, 1, 32, 32)
    cosines = [F.cosine_similarity(*both) for both in zip(embeddings(x), embeddings(y), strict=True)]
    torch.testing.assert_close(network(x, y), torch.stack(cosines).mean(0))


def test_multicrop_trains_each_network_as_it_would_be_alone() -> None:
    network = build_network(MULTICROP, 1, 32, objective={"name": "ntxent"})
    alone = copy.deepcopy(network.encoder.encoders[1])
    config = NtxentObjective(name="ntxent", temperature=0.1)
    x, groups, none = torch.rand(8, 1, 32, 32), torch.arange(4).repeat(2), torch.empty(0)
    build_objective(config, network.encoder)(network.embed(x), groups, none).backward()
    build_objective(config, alone)(alone(central_crop(x, 16, 16)), groups, none).backward()
    for one, other in zip(network.encoder.encoders[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)  # sums in another order


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_embeds_grey_as_three_equal_channels(backbone: str) -> None:
    torch.manual_seed(0)
    network = build_network({**TORCHVISION, "backbone": backbone}, 1, 64, objective={"name": "triplet"}).eval()
    grey = torch.rand(2, 1, 64, 64)
    z = network.embed(grey)
    assert z.shape == (2, 8)
    torch.testing.assert_close(z, network.embed(grey.expand(-1, 3, -1, -1)))


def test_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(DataError, match=r"model\.weights=imagenet.*no network.*give model\.weights=null"):
        build_network({**TORCHVISION, "weights": "imagenet"}, 3, 64, objective={"name": "ntxent"})


def test_heads_by_hand() -> None:
    z1, z2 = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [2.0, 2.0]])
    assert CosineHead()(z1, z2).tolist() == pytest.approx([0.0, 1.0])
    assert EuclideanHead()(z1, z2).tolist() == pytest.approx([-(2**0.5), 0.0])
    assert CosineHead()(z1.bfloat16(), z2.bfloat16()).dtype == torch.float32


def test_autocast_leaves_kochs_head_its_digits() -> None:
    head, z1, z2 = L1Head(64), torch.rand(500, 64), torch.rand(500, 64)
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
    assert isinstance(build_network(SMALL, 1, 65, objective=objective).head, head)


@pytest.mark.parametrize("objective", ["bce", "ntxent"])
def test_flip_averaging_makes_mirror_images_equal_in_evaluation_alone(objective: str) -> None:
    network = build_network(SMALL, 1, 65, objective={"name": objective}, flip_average=True)
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
    network = build_network(SMALL, 1, 65, objective={"name": "ntxent"}, flip_average=True, crop_average=0.9)
    x = torch.rand(3, 1, 65, 65)
    torch.testing.assert_close(network.embed(x), network.encoder(x))
    network.eval()
    views = [view for one in (x, *windows(x, 0.9)) for view in (one, one.flip(-1))]
    torch.testing.assert_close(network.embed(x), sum(network.encoder(view) for view in views) / 10)
