"""Losses on pairs, against the sums of their papers."""

from __future__ import annotations

import math

import pytest
import torch

from siamese.objectives.pairs import BinaryCrossEntropy, Contrastive

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_contrastive_is_the_papers_sum(dtype):
    score, label = torch.tensor([0.75, 0.25, 0.75, 0.25], dtype=dtype), torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = (0.25**2 + 0.75**2 + 0.25**2 + 0) / 2 / 4
    assert Contrastive("cosine", margin=0.5)(score, label).item() == pytest.approx(expected, rel=1e-2)
    assert Contrastive("euclidean", margin=0.5)(-score, label).item() == pytest.approx(
        (0.75**2 + 0.25**2 + 0 + 0.25**2) / 2 / 4, rel=1e-2
    )


def test_contrastive_ignores_different_pairs_beyond_the_margin():
    score = torch.tensor([0.2, -0.9], requires_grad=True)
    Contrastive("cosine", margin=0.5)(score, torch.zeros(2)).backward()
    assert score.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_loss_is_sigmoid_and_cross_entropy(dtype: torch.dtype) -> None:
    logits = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=dtype)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    p = torch.sigmoid(logits.double())
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    loss = BinaryCrossEntropy()(logits, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_bce_of_logits():
    loss = BinaryCrossEntropy()(torch.tensor([0.0, 100.0]), torch.tensor([1.0, 1.0]))
    assert loss.item() == pytest.approx(math.log(2) / 2)
