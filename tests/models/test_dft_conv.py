"""The convolution by Fourier transform, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import KOCH, SMALL_KOCH, make_network
from torch import Tensor, nn

from siamese.models.dft_conv import FEW, DFTConv2d, dft_conv2d, dft_saves
from siamese.models.unfold_conv import UnfoldConv2d


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(max_examples=40)
@given(data=st.data())
def test_it_is_the_direct_convolution(data: st.DataObject) -> None:
    batch, c_in, c_out = (data.draw(st.integers(1, 3)) for _ in range(3))
    height, width = (data.draw(st.integers(1, 12)) for _ in range(2))
    kernel = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    x, w = draw(batch, c_in, height, width), draw(c_out, c_in, *kernel, seed=1)
    b = draw(c_out, seed=2) if data.draw(st.booleans()) else None
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    inputs = [t.requires_grad_() for t in (x, w, b) if t is not None]
    ours, torchs = dft_conv2d(x, w, b), nn.functional.conv2d(x, w, b)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-10)
    g = draw(*torchs.shape, seed=3)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(torchs, inputs, g), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_gradients_by_finite_differences() -> None:
    inputs = [t.requires_grad_() for t in (draw(2, 2, 6, 5), draw(3, 2, 3, 2, seed=1), draw(3, seed=2))]
    assert torch.autograd.gradcheck(dft_conv2d, inputs)


@pytest.mark.parametrize("side", ["x", "w", "b"])
def test_only_required_gradients_are_computed(side: str) -> None:
    inputs = {"x": draw(2, 2, 6, 6), "w": draw(3, 2, 3, 3), "b": draw(3)}
    inputs[side].requires_grad_()
    dft_conv2d(*inputs.values()).sum().backward()
    assert [name for name, tensor in inputs.items() if tensor.grad is not None] == [side]


def test_float32_is_as_good_as_float32_can_be() -> None:
    """At the size of Koch's second layer, the error is at most ten times that of a direct convolution."""
    x, w = draw(2, 64, 48, 48).relu(), draw(16, 64, 7, 7, seed=1) / 56
    exact = nn.functional.conv2d(x, w)
    direct = (nn.functional.conv2d(x.float(), w.float()) - exact).abs().max()
    assert (dft_conv2d(x.float(), w.float()) - exact).abs().max() < 10 * direct


def test_layer_keeps_conv2ds_state_and_dtype() -> None:
    plain = nn.Conv2d(4, 6, 5)
    layer = DFTConv2d(4, 6, 5)
    layer.load_state_dict(plain.state_dict())
    x = draw(2, 4, 12, 12, dtype=torch.float32)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        layer(x.bfloat16()).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_few_images_are_convolved_directly_where_nothing_is_trained() -> None:
    layer = DFTConv2d(4, 8, 7)
    x = draw(FEW, 4, 20, 20, dtype=torch.float32)
    direct = nn.functional.conv2d(x, layer.weight, layer.bias)
    with torch.no_grad():
        assert torch.equal(layer(x[: FEW - 1]), nn.functional.conv2d(x[: FEW - 1], layer.weight, layer.bias))
        assert not torch.equal(layer(x), direct)
        torch.testing.assert_close(layer(x), direct, rtol=0, atol=1e-5)
    assert layer(x[:1]).grad_fn is not None


def test_it_is_used_if_it_saves_arithmetic() -> None:
    assert dft_saves(48, 64, 128, 7)
    assert not dft_saves(105, 1, 64, 10)
    assert not dft_saves(9, 128, 256, 4)
    kinds = {}
    for dft in (False, True):
        with torch.device("meta"):
            network = make_network(KOCH, 1, 105, dft=dft)
        kinds[dft] = [type(m) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == {
        False: [UnfoldConv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d],
        True: [UnfoldConv2d, DFTConv2d, DFTConv2d, nn.Conv2d],
    }


def test_the_network_is_the_same_either_way() -> None:
    torch.manual_seed(0)
    model = {**SMALL_KOCH, "batchnorm": True, "widths": [16, 64, 64, 8]}
    direct, dft = (make_network(model, 1, 89, dft=dft).double() for dft in (False, True))
    assert sum(isinstance(layer, DFTConv2d) for layer in dft.modules()) == 2
    dft.load_state_dict(direct.state_dict())
    a, b = draw(2, 4, 1, 89, 89).sigmoid()
    losses = [network(a, b).square().sum() for network in (direct, dft)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)
    for loss in losses:
        loss.backward()
    for (name, p), q in zip(direct.named_parameters(), dft.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_training_after_inference() -> None:
    """The cached matrices of a size can be used in training if they were computed in inference mode."""
    x, w = draw(2, 3, 13, 11), draw(4, 3, 3, 3).requires_grad_()
    with torch.inference_mode():
        expected = dft_conv2d(x, w)
    y = dft_conv2d(x.requires_grad_(), w)
    y.sum().backward()
    torch.testing.assert_close(y, expected.clone())
    assert x.grad is not None
    assert w.grad is not None


@pytest.mark.integration
def test_training_in_float64_is_the_same() -> None:
    """By Fourier transform and directly, with Adam and batch normalization; in float32 rounding would separate them."""
    model = {**SMALL_KOCH, "batchnorm": True, "widths": [16, 64, 64, 8]}
    a, b = draw(2, 3, 1, 89, 89).sigmoid()
    same = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    losses: dict[bool, list[float]] = {False: [], True: []}
    for dft, found in losses.items():
        torch.manual_seed(0)
        network = make_network(model, 1, 89, dft=dft).double()
        assert sum(isinstance(layer, DFTConv2d) for layer in network.modules()) == 2 * dft
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(5):
            loss = nn.functional.binary_cross_entropy_with_logits(network(a, b), same)
            adam.zero_grad()
            loss.backward()
            adam.step()
            found.append(loss.item())
    assert losses[True] == pytest.approx(losses[False], abs=1e-6)
    assert losses[True][-1] < losses[True][0] - 0.1
