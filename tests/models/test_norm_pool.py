"""Normalization with pooling, addition and ReLU as one layer, against PyTorch's layers in double precision."""

from __future__ import annotations

import shutil
import sysconfig
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL_KOCH, make_network
from torch import Tensor, nn

from siamese.models import kernels
from siamese.models.kernels import library
from siamese.models.norm_pool import BatchNormMaxPoolReLU2d, ForkedAvgPool2d, FusedBatchNorm2d, MaxPoolReLU2d

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

compiled = pytest.mark.skipif(library() is None, reason="the library was not built: no C++ compiler at installation")


class Adding(nn.Module):
    """A layer to which the input, mirrored, is given once more to be added."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x, x.flip(3))
        return y


class Sum(nn.BatchNorm2d):
    """Normalization and addition by PyTorch."""

    def forward(self, x: Tensor, added: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + added


KINDS = ["pool", "norm pool", "norm", "norm relu", "norm add", "norm add relu"]


def pair(kind: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """Our layer, and PyTorch's layers in double precision with the same parameters, some of them negative or 0."""
    if kind == "pool":
        return MaxPoolReLU2d(), nn.Sequential(nn.MaxPool2d(2), nn.ReLU())
    pools, adds, relu = "pool" in kind, "add" in kind, "relu" in kind
    ours = BatchNormMaxPoolReLU2d(channels) if pools else FusedBatchNorm2d(channels, relu)
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(-1, 2, channels))  # a negative scale turns minima into maxima
        ours.weight[ours.weight.abs() < 0.05] = 0  # else nearly equal maxima would be equal in float32 only
        ours.bias.copy_(torch.linspace(1, -1, channels))
    reference = Sum(channels) if adds else nn.BatchNorm2d(channels)
    reference.load_state_dict(ours.state_dict())
    after = [nn.MaxPool2d(2), nn.ReLU()] if pools else [nn.ReLU()] if relu else []
    theirs = nn.Sequential(Adding(reference) if adds else reference, *after).double()
    return (Adding(ours) if adds else ours), theirs


def results(layer: nn.Module, x: Tensor, g: Tensor) -> list[Tensor]:
    """Output and gradients of a training step, the output in evaluation mode after it, and the state."""
    x = x.clone().requires_grad_()
    y = layer.train()(x)
    y.backward(g.to(y.dtype))
    assert x.grad is not None
    state = [*(p.grad for p in layer.parameters() if p.grad is not None), *layer.buffers()]
    with torch.no_grad():
        later = layer.eval()(x)
    return [found.detach().double() for found in (y, x.grad, later, *state)]


@compiled
@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(2, 4), channels=st.integers(1, 150), height=st.integers(2, 14), width=st.integers(2, 14),
    kind=st.sampled_from(KINDS), dtype=st.sampled_from(sorted(TOLERANCE, key=str)), channels_last=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_it_equals_pytorchs_layers(
    images: int, channels: int, height: int, width: int, kind: str, dtype: torch.dtype, channels_last: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = (torch.randn(images, channels, height, width, generator=rng) * 2 + 1).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ours, theirs = pair(kind, channels)
    shape = (height // 2, width // 2) if "pool" in kind else (height, width)
    g = torch.randn(images, channels, *shape, generator=rng).to(dtype)
    found, expected = results(ours, x, g), results(theirs, x.double(), g.double())
    for mine, their in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=TOLERANCE[dtype] * float(1 + their.abs().max()))


@compiled
@settings(max_examples=40, deadline=None)
@given(
    channels=st.integers(1, 40), height=st.integers(1, 9), width=st.integers(1, 9), stride=st.integers(1, 4),
    dtype=st.sampled_from(sorted(TOLERANCE, key=str)), channels_last=st.booleans(),
)  # fmt: skip
def test_averages_beside_their_input(
    channels: int, height: int, width: int, stride: int, dtype: torch.dtype, channels_last: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    direction = torch.randn_like(x)
    found = []
    for layer, pixels in ((ForkedAvgPool2d(stride), x), (nn.AvgPool2d(stride, ceil_mode=True), x.double())):
        pixels = (pixels * 1).requires_grad_()
        same, average = layer(pixels) if layer.__class__ is ForkedAvgPool2d else (pixels, layer(pixels))
        (same * direction).sum().add(average.square().sum()).backward()
        found.append([same.double(), average.double(), pixels.grad.double()])
    for mine, their in zip(*found, strict=True):
        torch.testing.assert_close(mine, their, rtol=0, atol=2 * TOLERANCE[dtype] * float(1 + their.abs().max()))


@compiled
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_does_not_matter(kind: str) -> None:
    side = 6 if "pool" in kind else 12
    x, g = torch.randn(5, 70, 12, 12), torch.randn(5, 70, side, side)
    found = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(results(pair(kind, 70)[0], x, g))
    finally:
        torch.set_num_threads(threads)
    for one, other in pairwise(found):
        assert all(map(torch.equal, one, other))


@pytest.mark.skipif(
    not (shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").is_file()),
    reason="no compiler, or Python without its headers",
)
def test_the_library_is_built_if_there_is_a_compiler() -> None:
    """Installation does not report that building failed, and the tests here would all be skipped."""
    assert library() is not None


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("train", [True, False])
def test_parameters_in_bfloat16_are_left_to_pytorch(train: bool, kind: str) -> None:
    x = torch.randn(2, 3, 4, 4).bfloat16()
    ours, theirs = (layer.bfloat16().train(train) for layer in pair(kind, 3))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("train", [True, False])
def test_what_is_added_may_have_another_dtype_or_shape(train: bool) -> None:
    layer, x, added = FusedBatchNorm2d(3).train(train), torch.randn(2, 3, 4, 4), torch.randn(1, 3, 1, 1)
    with torch.no_grad():
        expected = layer(x, added.expand_as(x).contiguous())
        for other in (added, added.expand_as(x).double()):
            torch.testing.assert_close(layer(x, other), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_traced_graph_has_pytorchs_layers(kind: str) -> None:
    layer, x = pair(kind, 8)[0].eval(), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        graph = torch.jit.trace(layer, torch.randn(2, 8, 6, 6))
        torch.testing.assert_close(graph(x), layer(x))


@pytest.mark.parametrize("layer", [FusedBatchNorm2d(5), BatchNormMaxPoolReLU2d(5)])
@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 64, 4, 4), (1, 5, 1, 1)])
def test_what_pytorch_refuses_is_refused(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        layer.train()(torch.randn(shape))
    if shape[1] != 5:
        with torch.no_grad(), pytest.raises(RuntimeError):
            layer.eval()(torch.randn(shape))


@compiled
@pytest.mark.parametrize("kind", KINDS)
def test_the_default_dtype_does_not_matter(kind: str) -> None:
    x, g = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2) if "pool" in kind else torch.randn(2, 3, 4, 4)
    layer = pair(kind, 3)[0]
    expected = results(deepcopy(layer), x, g)
    try:
        torch.set_default_dtype(torch.float64)
        found = results(deepcopy(layer), x, g)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))


@compiled
def test_a_library_of_an_older_version_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "FUNCTIONS", [*kernels.FUNCTIONS, "one_more"])
    library.cache_clear()
    try:
        assert library() is None
    finally:
        library.cache_clear()
    assert "install again" in caplog.text


@compiled
def test_of_equal_maxima_the_first_gets_the_gradient_and_nan_stays() -> None:
    x = torch.full((1, 2, 2, 4), 3.0)
    x[0, 1, 1, 3] = float("nan")
    x.requires_grad_()
    y = MaxPoolReLU2d()(x)
    assert y[0, 0].tolist() == [[3, 3]]
    assert y[0, 1, 0, 0] == 3
    assert y[0, 1].isnan().tolist() == [[False, True]]
    y[0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_gradients_in_evaluation_reach_the_parameters(kind: str) -> None:
    ours, theirs = pair(kind, 6)
    x = torch.randn(2, 6, 8, 8)
    for layer, pixels in ((ours, x), (theirs, x.double())):
        layer.eval()(pixels).square().sum().backward()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batchnorm", [True, False])
def test_without_the_library_the_network_is_the_same(batchnorm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {**SMALL_KOCH, "batchnorm": batchnorm}
    a, b = torch.rand(2, 4, 1, 80, 80, generator=torch.Generator().manual_seed(0))
    found = []
    for built in (True, False):
        if not built:
            monkeypatch.setattr(kernels, "library", lambda: None)
        torch.manual_seed(0)
        network = make_network(model, 1, 80)
        loss = network(a, b).square().sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    for one, other in zip(*found, strict=True):
        # Of a bias before normalization the gradient is 0, to rounding of what is summed for it.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=4e-3 * float(1 + one.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_graph_has_pytorchs_layers(kind: str) -> None:
    """The compiled library cannot run in another program. The layer itself is not changed."""
    layer, x = pair(kind, 8)[0].eval(), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        before = layer(x)
        graph = torch.export.export(layer, (x,)).module()
        torch.testing.assert_close(graph(x), before)
        assert torch.equal(layer(x), before)
