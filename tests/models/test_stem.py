"""The first layers of a residual network as one, against PyTorch's layers in double precision."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from siamese.models.kernels import library
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d
from siamese.models.stem import PooledStem

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

compiled = pytest.mark.skipif(library() is None, reason="the library was not built: no C++ compiler at installation")


def stem(width: int, channels: int = 1) -> PooledStem:
    """A stem whose scales include negative ones and 0."""
    torch.manual_seed(0)
    layer = PooledStem(nn.Conv2d(channels, width, 3, padding=1, bias=False), BatchNormMaxPoolReLU2d(width))
    with torch.no_grad():
        layer[1].weight.copy_(torch.linspace(-1, 2, width))
        layer[1].weight[layer[1].weight.abs() < 0.05] = 0
        layer[1].bias.copy_(torch.linspace(1, -1, width))
    return layer


def plain(layer: PooledStem) -> nn.Module:
    """PyTorch's layers with the same parameters, in double precision."""
    norm = nn.BatchNorm2d(layer[1].num_features)
    same = nn.Sequential(copy.deepcopy(layer[0]), norm, nn.MaxPool2d(2), nn.ReLU())
    same.load_state_dict(layer.state_dict())
    return same.double()


def results(layer: nn.Module, x: Tensor, g: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients of a training step, the output in evaluation mode after it, and the state."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer.train()(x)
        y.backward(g.to(y.dtype))
        with torch.no_grad():
            later = layer.eval()(x)
    found = [y.detach(), later, *(p.grad for p in layer.parameters() if p.grad is not None), *layer.buffers()]
    return [value.double() for value in found]


@compiled
@settings(max_examples=60, deadline=None, derandomize=True)  # nearly equal maxima may be chosen in another order
@given(
    images=st.integers(1, 4), width=st.integers(1, 40), height=st.integers(2, 21), columns=st.integers(2, 21),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)), channels_last=st.booleans(),
    brightness=st.sampled_from([0.0, 1.0, -3.0]),
)  # fmt: skip
def test_it_equals_pytorchs_layers(
    images: int, width: int, height: int, columns: int, dtype: torch.dtype, channels_last: bool, brightness: float
) -> None:
    ours = stem(width)
    x = torch.randn(images, 1, height, columns) + brightness
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    g = torch.randn(images, width, height // 2, columns // 2).to(dtype)
    theirs = plain(ours)
    expected, found = results(theirs, x.double(), g.double(), torch.float64), results(ours, x, g, dtype)
    for mine, their in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=TOLERANCE[dtype] * float(1 + their.abs().max()))


@compiled
@pytest.mark.parametrize("brightness", [0.0, 0.6, 255.1])
@pytest.mark.parametrize("contrast", [0.0, 1e-3])
def test_bright_images_with_little_contrast(brightness: float, contrast: float) -> None:
    """The middle of a kernel alone, because the border of zeros would be contrast."""
    layer, x = stem(4), brightness + contrast * torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        layer[0].weight *= 10 * torch.eye(9)[4].view(1, 1, 3, 3)
    y, expected = layer(x), plain(layer)(x.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer[1].running_mean, 0.1 * layer[0].weight.sum((1, 2, 3)) * x.mean())


@compiled
def test_under_autocast_only_the_result_is_rounded() -> None:
    layer, x = stem(8), torch.rand(2, 1, 12, 12)
    expected = copy.deepcopy(layer)(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected.bfloat16())


@compiled
def test_the_number_of_threads_does_not_matter() -> None:
    """With enough pixels that PyTorch would divide a sum over all of them among the threads."""
    x, g, found, threads = torch.rand(64, 1, 80, 80), torch.randn(64, 20, 40, 40), [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(results(stem(20), x, g, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for one, other in pairwise(found):
        assert all(map(torch.equal, one, other))


@compiled
def test_nan_stays_in_the_windows_that_see_it() -> None:
    layer, x = stem(4).eval(), torch.rand(1, 1, 8, 8)
    x[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        y = layer(x)
    assert y[0, :, 0, 0].isnan().all()
    assert not y[0, :, 1:].isnan().any()
    assert not y[0, :, :, 1:].isnan().any()


def change(layer: PooledStem, case: str) -> Tensor:
    """Change the layer, and return images, so that the library does not compute the layer."""
    channels = {"two channels": 2, "three channels": 3}.get(case, 1)
    if case == "gradients in evaluation":
        layer.eval()
    elif case == "float64":
        layer.double()
    elif case == "a hook":
        layer[0].register_forward_hook(lambda module, inputs, y: 2 * y)
    elif case in OTHER_CONVOLUTIONS:
        layer[0] = nn.Conv2d(1, 6, **{"kernel_size": 3, "padding": 1, "bias": False, **OTHER_CONVOLUTIONS[case]})
    x = torch.rand(2, channels, 9, 8, dtype=layer[0].weight.dtype)
    return x.requires_grad_(case == "images with a gradient")


OTHER_CONVOLUTIONS = {
    "a bias": {"bias": True}, "a stride": {"stride": 2}, "a larger kernel": {"kernel_size": 5, "padding": 2},
    "no padding": {"padding": 0}, "a repeated border": {"padding_mode": "replicate"},
}  # fmt: skip


@compiled
def test_what_follows_may_change_the_result_in_place() -> None:
    layer, x = stem(4), torch.rand(2, 1, 8, 8)
    expected = copy.deepcopy(layer)(x)
    torch.testing.assert_close(PooledStem(*layer, nn.ReLU(inplace=True))(x), expected)


CASES = [
    "images with a gradient", "gradients in evaluation", "two channels", "three channels", "float64", "a traced graph",
    "a hook", *OTHER_CONVOLUTIONS,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_the_library_does_not_do_is_left_to_pytorch(case: str) -> None:
    layer = stem(6, {"two channels": 2, "three channels": 3}.get(case, 1))
    x = change(layer, case)
    reference = plain(layer).train(layer.training)
    called = torch.jit.trace(layer, x, check_trace=False) if case == "a traced graph" else layer
    pixels = x.detach().double().requires_grad_(x.requires_grad)
    called(x).square().sum().backward()
    reference(pixels).square().sum().backward()
    found = [x.grad, *(p.grad for p in layer.parameters())]
    expected = [pixels.grad, *(p.grad for p in reference.parameters())]
    for mine, their in zip(found, expected, strict=True):
        assert (mine is None) == (their is None)
        if mine is not None:
            torch.testing.assert_close(mine.double(), their, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_of_another_dtype(dtype: torch.dtype) -> None:
    layer, x = stem(6).eval(), torch.rand(2, 1, 8, 8).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        torch.testing.assert_close(layer(x).float(), layer(x.float()).float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (1, 1, 1, 1), (2, 1, 1, 8), (2, 1, 4)])
@pytest.mark.parametrize("train", [True, False])
def test_what_pytorch_refuses_is_refused(shape: tuple[int, ...], train: bool) -> None:
    with torch.no_grad(), pytest.raises((RuntimeError, ValueError)):
        stem(5).train(train)(torch.randn(shape))
