"""Back ends on embeddings drawn from the model they assume, and against explicit densities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from embeddings import D, faces, fitted, pairs
from torch.distributions import MultivariateNormal

from siamese.evaluation.metrics import auc
from siamese.models.backends import (
    BACKENDS,
    CohortHead,
    LdaHead,
    PldaHead,
    WeightedL1Head,
    covariances_by_groups,
    covariances_by_pairs,
    normalized,
    shrunk,
    widened,
)
from siamese.scoring.scores import score_embeddings


def test_covariances_by_groups_against_loops():
    z, groups = faces(20, 3)
    z = torch.cat([z, z[:1] + 1])  # and a person with one image
    groups = torch.cat([groups, torch.tensor([99])])
    unit = normalized(z)
    within, freedom = torch.zeros(D, D, dtype=torch.float64), 0
    for person in groups.unique():
        own = unit[groups == person]
        for row in own:
            within += torch.outer(row - own.mean(0), row - own.mean(0))
        freedom += len(own) - 1
    mean, found, total = covariances_by_groups([(z, groups)])
    torch.testing.assert_close(found, within / freedom)
    torch.testing.assert_close(mean, unit.mean(0))
    torch.testing.assert_close(total, torch.cov(unit.T, correction=0))


def test_one_block_gives_the_bits_of_the_plain_formula_and_many_the_same_up_to_rounding():
    z, groups = faces(40, 3)
    unit = normalized(z)
    plain = unit.mean(0), None, (unit - unit.mean(0)).T @ (unit - unit.mean(0)) / len(unit)
    whole = covariances_by_groups([(z, groups)])
    assert torch.equal(whole[0], plain[0])
    assert torch.equal(whole[2], plain[2])
    cut = covariances_by_groups((z[rows], groups[rows]) for rows in (slice(0, 6), slice(6, 9), slice(9, 120)))
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-16)
    z1, z2, label = pairs(z, groups, 200)
    blocks = zip(z1.split(7), z2.split(7), label.split(7), strict=True)
    for one, other in zip(covariances_by_pairs(blocks), covariances_by_pairs([(z1, z2, label)]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["lda", "plda", "cohort"])
def test_pairs_are_scored_with_the_factors_of_their_images(name, monkeypatch):
    """Also if the images are more than one block, and a pair is scored in both orders."""
    head = fitted("plda" if name == "cohort" else name)
    if name == "cohort":
        head = CohortHead(head, nearest=10)
        head.fit(faces(60, 1, seed=5)[0].split(25))
    z, _ = faces(30, 3, seed=9)
    rows = torch.from_numpy(np.random.default_rng(0).integers(len(z), size=(700, 2)))
    expected = head(z[rows[:, 0]], z[rows[:, 1]]).float()
    for values in (1 << 25, 7 * D, 1):
        monkeypatch.setattr("siamese.scoring.scores.FACTORED", values)
        found = torch.from_numpy(score_embeddings(head, z, rows))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert score_embeddings(head, z, rows[:0]).shape == (0,)


def test_covariances_by_pairs_agree_with_those_by_names():
    z, groups = faces(2000, 4)
    by_names, by_pairs = covariances_by_groups([(z, groups)]), covariances_by_pairs([pairs(z, groups, 20_000)])
    for one, other in zip(by_names, by_pairs, strict=True):
        torch.testing.assert_close(other, one, rtol=0.1, atol=0.1 * float(one.abs().max()))


def test_plda_is_the_ratio_of_the_two_densities():
    head = PldaHead(D)
    mean, within, total = covariances_by_groups([faces(300, 4)])
    head.fit(mean, within, total, shrinkage=0.05)
    within = shrunk(within, 0.05)
    values, vectors = torch.linalg.eigh(total - within)
    between = vectors * values.clamp_min(0) @ vectors.T
    both = between + within
    z1, z2 = faces(10, 1, seed=3)[0], faces(10, 1, seed=4)[0]
    x = torch.cat([normalized(z1), normalized(z2)], 1)
    zero = torch.zeros_like(both)

    def density(cross):
        covariance = torch.cat([torch.cat([both, cross], 1), torch.cat([cross, both], 1)])
        return MultivariateNormal(mean.repeat(2), (covariance + covariance.T) / 2).log_prob(x)

    torch.testing.assert_close(head(z1, z2), density(between) - density(zero), rtol=1e-6, atol=1e-6)


def test_widening_only_changes_the_covariance_within_people():
    mean, within, total = covariances_by_groups([faces(50, 4)])
    same_mean, wide, wider_total = widened(mean, within, total, 2.5)
    torch.testing.assert_close(same_mean, mean)
    torch.testing.assert_close(wide, 2.5 * within)
    torch.testing.assert_close(wider_total - wide, total - within)


def test_widening_corrects_for_training_embeddings_that_are_too_close():
    z, groups = faces(400, 5)
    place = z.reshape(400, 5, D).mean(1).repeat_interleave(5, 0)
    close = place + (z - place) / 2  # a quarter of the covariance
    z1, z2, label = pairs(*faces(400, 5, seed=9))
    losses = []
    for factor in (1.0, 4.0):
        head = PldaHead(D)
        head.fit(*widened(*covariances_by_groups([(close, groups)]), factor), 1e-3)
        losses.append(float(torch.nn.functional.binary_cross_entropy_with_logits(head(z1, z2), label.double())))
    assert losses[1] < losses[0] - 0.1


@pytest.mark.parametrize("name", BACKENDS)
def test_every_back_end_beats_the_cosine_on_people_it_was_not_fitted_to(name):
    head = fitted(name)
    z1, z2, label = pairs(*faces(200, 5, seed=9))
    plain = auc((normalized(z1) * normalized(z2)).sum(1).numpy(), label.numpy())
    found = auc(head(z1, z2).numpy(), label.numpy())
    assert plain < 0.65
    assert found > 0.72 > plain + 0.05
    torch.testing.assert_close(head(z1, z2), head(z2, z1))
    torch.testing.assert_close(head(4 * z1, z2), head(z1, z2))


def test_lda_makes_the_covariance_within_people_diagonal():
    z, groups = faces(2000, 5)
    head = LdaHead(D)
    mean, within, total = covariances_by_groups([(z, groups)])
    head.fit(mean, within, total, shrinkage=1e-6)
    projected = (head.projection.T @ within @ head.projection).numpy()
    assert np.abs(projected - np.diag(np.diag(projected))).max() < 1e-3 * np.diag(projected).max()


def test_weighted_l1_is_the_minimum_of_its_loss():
    z1, z2, label = pairs(*faces(100, 5), number=600)
    head = WeightedL1Head(D)
    head.fit(z1, z2, label, 0.01)
    x = (normalized(z1) - normalized(z2)).abs()
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, label.double())
    (loss + 0.005 * (weight * x.std(0)).square().sum()).backward()
    assert float((weight.grad / x.std(0)).abs().max()) < 1e-4
    assert abs(float(bias.grad)) < 1e-4


@pytest.mark.parametrize("name", ["lda", "plda"])
def test_scores_relative_to_a_cohort_against_loops(name):
    """For both images: mean and sample standard deviation of the ten highest scores."""
    bare, strangers = fitted(name), faces(60, 1, seed=5)[0]
    head = CohortHead(bare, nearest=10)
    head.fit([strangers])
    z1, z2, _ = pairs(*faces(20, 3, seed=9), number=20)
    for a, b, found in zip(z1, z2, head(z1, z2), strict=True):
        score, relative = bare(a[None], b[None])[0], []
        for one in (a, b):
            others = np.sort([float(bare(one[None], other[None])) for other in strangers])[-10:]
            relative.append((float(score) - others.mean()) / others.std(ddof=1))
        assert float(found) == pytest.approx(np.mean(relative), rel=1e-9)
    z, _ = faces(20, 3, seed=9)
    rows = torch.tensor([[0, 1], [5, 0], [7, 7], [0, 59]])
    found = torch.from_numpy(score_embeddings(head, z, rows))
    torch.testing.assert_close(found, head(z[rows[:, 0]], z[rows[:, 1]]).float())
    few = CohortHead(bare, nearest=100)
    few.fit([strangers[:10]])
    ten = CohortHead(bare, nearest=10)
    ten.fit([strangers[:10]])
    assert torch.equal(few(z1, z2), ten(z1, z2))


def test_a_cohort_makes_one_threshold_fit_people_whose_embeddings_lie_close_together():
    """The faces of every second person differ less, both within and between people."""
    z, groups = faces(400, 5, seed=9)
    close = groups % 2 == 1
    z[close] = (z[close] - z[close].mean(0)) * 0.2 + z[close].mean(0) + torch.tensor([4.0, -4.0, 0.0, 0.0, 0.0, 0.0])
    known = groups < 200
    bare = PldaHead(D)
    bare.fit(*covariances_by_groups([(z[known], groups[known])]), 1e-3)
    head = CohortHead(bare, nearest=20)
    head.fit([z[known][::5]])
    z1, z2, label = pairs(z[~known], groups[~known])
    assert auc(head(z1, z2).numpy(), label.numpy()) > auc(bare(z1, z2).numpy(), label.numpy()) + 0.03


def test_nothing_to_fit_to_is_an_error():
    z = torch.randn(4, D)
    with pytest.raises(ValueError, match="no person has two images"):
        covariances_by_groups([(z, torch.arange(4))])
    with pytest.raises(ValueError, match="no same pair"):
        covariances_by_pairs([(z[:2], z[2:], torch.zeros(2))])
