"""Convolution by Winograd's method, against PyTorch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from siamese.models import winograd
from siamese.models.kernels import call, library
from siamese.models.winograd import winograd_conv2d

pytestmark = pytest.mark.skipif(library() is None, reason="the library was not built: no C++ compiler at installation")


def inputs(images: int, c_in: int, c_out: int, height: int, width: int) -> list[Tensor]:
    """Images, kernels and a gradient of the result."""
    torch.manual_seed(0)
    kernels = torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5
    return [torch.rand(images, c_in, height, width), kernels, torch.randn(images, c_out, height, width)]


def results(convolve: object, x: Tensor, w: Tensor, g: Tensor) -> list[Tensor]:
    """The result of a convolution, and its gradients."""
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    assert callable(convolve)
    y = convolve(x, w)
    return [y.detach(), *torch.autograd.grad(y, [x, w], g)]


def direct(x: Tensor, w: Tensor) -> Tensor:
    return nn.functional.conv2d(x, w, padding=1)


SIDES = {(5, 5): 5, (4, 4): 4, (8, 8): 4, (1, 1): 2, (9, 10): 5, (20, 7): 4, (40, 40): 5, (1, 30): 2, (2, 2): 2}
"""Height and width, multiples of a tile or not: the tile."""


@pytest.mark.parametrize(("height", "width"), SIDES)
@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (16, 32), (17, 33), (6, 4), (128, 128)])
@pytest.mark.parametrize("mean", [0, 1])
def test_winograd_is_the_convolution(height: int, width: int, c_in: int, c_out: int, mean: int) -> None:
    """Channels that are multiples of a vector or not; rounding errors of images and gradients with a mean add up."""
    x, w, g = inputs(3, c_in, c_out, height, width)
    x, g = x + mean, g.abs() if mean else g
    exact = results(direct, x.double(), w.double(), g.double())
    for mine, their in zip(results(winograd_conv2d, x, w, g), exact, strict=True):
        torch.testing.assert_close(mine.double(), their, rtol=0, atol=1.5e-5 * float(their.abs().max()))


def test_the_tile_needs_the_fewest_multiplications() -> None:
    assert {sides: winograd._tile(*sides) for sides in SIDES} == SIDES


@pytest.mark.parametrize(("height", "width"), [(10, 9), (8, 8), (2, 1)])
def test_an_image_does_not_depend_on_the_others_or_on_the_number_of_threads(height: int, width: int) -> None:
    """The blocks of tiles that the library computes together cross images. The gradient of the kernels is a sum."""
    tensors = inputs(13, 20, 40, height, width)
    x, w, g = tensors
    single = [results(winograd_conv2d, x[k : k + 1], w, g[k : k + 1]) for k in range(len(x))]
    y, gx, gw = (torch.cat(list(of)) if index < 2 else sum(of) for index, of in enumerate(zip(*single, strict=True)))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 20):
            torch.set_num_threads(number)
            found = results(winograd_conv2d, *tensors)
            assert torch.equal(found[0], y)
            assert torch.equal(found[1], gx)
            torch.testing.assert_close(found[2], gw, rtol=0, atol=1e-5 * float(gw.abs().max()))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("needed", ["x", "w"])
def test_only_the_gradients_that_are_needed_are_computed(needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[bool]] = []

    def recorded(name: str, *arguments: Tensor | int | None) -> None:
        calls.append([argument is None for argument in arguments])
        call(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(winograd, "call", recorded)
    x, w, g = inputs(2, 16, 16, 6, 6)
    winograd_conv2d(x.requires_grad_("x" in needed), w.requires_grad_("w" in needed)).backward(g)
    assert calls[-1][-2:] == ["x" not in needed, "w" not in needed]
    assert ((x.grad is None), (w.grad is None)) == ("x" not in needed, "w" not in needed)
    whole = results(winograd_conv2d, x.detach(), w.detach(), g)
    assert torch.equal(whole[1 if needed == "x" else 2], x.grad if needed == "x" else w.grad)


def test_kernels_changed_before_the_backward_pass_are_an_error() -> None:
    """As with PyTorch's convolution."""
    x, w, g = inputs(2, 16, 16, 6, 6)
    y = winograd_conv2d(x.requires_grad_(), w.requires_grad_())
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(g)


def test_images_kernels_and_gradients_in_any_memory_order() -> None:
    x, w, g = inputs(2, 16, 8, 6, 6)
    expected = results(winograd_conv2d, x, w, g)

    def orders(t: Tensor) -> list[Tensor]:
        return [t.contiguous(memory_format=torch.channels_last), t.transpose(2, 3).contiguous().transpose(2, 3)]

    for tensors in zip(*map(orders, (x, w, g)), strict=True):
        assert all(map(torch.equal, results(winograd_conv2d, *tensors), expected))
    ones = torch.ones(())
    found = [results(winograd_conv2d, x, w, one) for one in (ones.expand_as(g), ones.expand_as(g).contiguous())]
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("needed", ["w", "xw"])
def test_autocast_during_the_backward_pass_does_not_matter(needed: str) -> None:
    x, w, g = inputs(2, 16, 16, 6, 6)
    wanted = [tensor for tensor, name in ((x, "x"), (w, "w")) if name in needed]
    found = []
    for autocast in (False, True):
        y = winograd_conv2d(x.requires_grad_("x" in needed), w.requires_grad_())
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(torch.autograd.grad(y, wanted, g))
    assert all(map(torch.equal, *found))


def test_autocast_does_not_matter() -> None:
    x, w, g = inputs(2, 16, 16, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = results(winograd_conv2d, x, w, g)
    assert all(map(torch.equal, found, results(winograd_conv2d, x, w, g)))


@pytest.mark.parametrize("change", ["dtype", "device"])
def test_the_defaults_of_new_tensors_do_not_matter(change: str) -> None:
    tensors = inputs(2, 16, 16, 6, 6)
    expected, dtype, device = results(winograd_conv2d, *tensors), torch.get_default_dtype(), torch.get_default_device()
    winograd._kernel_transform.cache_clear()
    try:
        if change == "dtype":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")
        found = results(winograd_conv2d, *tensors)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(("side", "far"), [(12, 4), (10, 5)])
def test_nan_stays_near_its_pixel(side: int, far: int) -> None:
    """A NaN of one image or far away in the same image does not reach the result, or the gradient, elsewhere."""
    x, w, g = inputs(2, 16, 16, side, side)
    x[0, 0, 0, 0] = g[0, 0, 0, 0] = float("nan")
    y, gx, _ = results(winograd_conv2d, x, w, g)
    for found in (y, gx):
        assert found[0, :, :2, :2].isnan().all()
        assert not found[0, :, far + 1 :].isnan().any()
        assert not found[1].isnan().any()
