"""Losses on groups of hand-placed embeddings, against the sums of their papers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from siamese.objectives.groups import AngularMargin, EachPart, NTXent, Triplet

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


NO_PAIRS = torch.empty(0)


def at(*degrees):
    """Embeddings at these angles, of different lengths, which must not matter."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], 1) * torch.linspace(0.5, 3, len(degrees))[:, None]


def cosines(*degrees):
    return [[math.cos(math.radians(a - b)) for b in degrees] for a in degrees]


@pytest.mark.parametrize("dtype", DTYPES)
def test_ntxent_is_the_papers_sum(dtype):
    degrees, groups, t = (0.0, 20.0, 50.0, 130.0, 200.0), [7, 7, 7, 3, 9], 0.25
    cos = cosines(*degrees)
    terms = []
    for i in range(3):  # the others have no positives
        total = sum(math.exp(cos[i][k] / t) for k in range(5) if k != i)
        mates = [j for j in range(3) if j != i]
        terms.append(sum(-math.log(math.exp(cos[i][j] / t) / total) for j in mates) / len(mates))
    found = NTXent(t, pair_weight=0.0)(at(*degrees).to(dtype), torch.tensor(groups), NO_PAIRS)
    assert found.item() == pytest.approx(sum(terms) / 3, rel=3e-2 if dtype is torch.bfloat16 else 1e-4)


def test_ntxent_of_two_views_is_the_cross_entropy_of_finding_the_other_one():
    z = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)))
    both = torch.cat([z, z + 0.1])
    logits = F.cosine_similarity(both[:, None], both[None], dim=-1) / 0.1
    logits.fill_diagonal_(-math.inf)
    expected = F.cross_entropy(logits, torch.arange(16).roll(8))
    assert NTXent(0.1, pair_weight=0.0)(both, torch.arange(8).repeat(2), NO_PAIRS).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_cross_entropy_of_listed_pairs_is_added():
    z, groups, label = at(0, 40, 10, 80), torch.tensor([0, 1, 0, 2]), torch.tensor([1.0, 0.0])
    logits = 10 * torch.cos(torch.deg2rad(torch.tensor([10.0, 40.0]))) - 5
    extra = F.binary_cross_entropy_with_logits(logits, label)
    plain, weighted = NTXent(0.1, pair_weight=0.0)(z, groups, label), NTXent(0.1, pair_weight=2.0)(z, groups, label)
    assert (weighted - plain).item() == pytest.approx(2 * extra.item(), rel=1e-5)
    assert NTXent(0.1, pair_weight=2.0)(z, groups, NO_PAIRS).item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("mining", ["all", "semihard", "hard"])
def test_triplet_is_the_mean_over_the_triplets_that_are_mined(distance, mining):
    degrees, groups, margin = (0.0, 30.0, 25.0, 100.0, 55.0), [0, 0, 1, 1, 2], 0.4

    def d(i, j):
        gap = math.radians(degrees[i] - degrees[j])
        return 2 * abs(math.sin(gap / 2)) if distance == "euclidean" else 1 - math.cos(gap)

    costs = []
    for a in range(5):
        for p in range(5):
            for n in range(5):
                if a != p and groups[a] == groups[p] and groups[n] != groups[a]:
                    gap = d(a, n) - d(a, p)
                    if gap < margin and {"all": True, "semihard": gap > 0, "hard": gap <= 0}[mining]:
                        costs.append(margin - gap)
    found = Triplet(distance, margin, mining)(at(*degrees), torch.tensor(groups), NO_PAIRS)
    assert found.item() == pytest.approx(sum(costs) / len(costs), rel=1e-4)


@pytest.mark.parametrize("kind", ["arcface", "cosface"])
def test_angular_margins_are_the_cross_entropy_of_the_papers(kind):
    loss = AngularMargin(kind, people=3, embedding_dim=2, margin=0.3, scale=8.0)
    centres = at(10, 100, 220).T
    loss.loss.W.data = centres.float()
    degrees, groups = (0.0, 130.0, 90.0), [0, 1, 2]
    expected = 0.0
    for angle, group in zip(degrees, groups, strict=True):
        cos = [math.cos(math.radians(angle - c)) for c in (10, 100, 220)]
        own = math.acos(cos[group])
        cos[group] = math.cos(own + 0.3) if kind == "arcface" else cos[group] - 0.3
        expected += -math.log(math.exp(8 * cos[group]) / sum(math.exp(8 * c) for c in cos)) / 3
    found = loss(at(*degrees).float(), torch.tensor(groups), NO_PAIRS)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert [parameter.shape for parameter in loss.parameters()] == [(2, 3)]


LOSSES = {
    "ntxent": lambda: NTXent(0.1, pair_weight=0.0),
    "ntxent with pairs": lambda: NTXent(0.1, pair_weight=1.0),
    "triplet": lambda: Triplet("euclidean", 0.2, "semihard"),
    "triplet of cosines": lambda: Triplet("cosine", 0.2, "hard"),
    "arcface": lambda: AngularMargin("arcface", 6, 4, 0.5, 16.0),
    "cosface": lambda: AngularMargin("cosface", 6, 4, 0.35, 16.0),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_loss_is_finite_float32_and_decreases_along_its_gradient(name, dtype):
    torch.manual_seed(0)
    loss = LOSSES[name]()
    z = torch.randn(12, 4).to(dtype).requires_grad_()
    groups, label = torch.arange(6).repeat(2), torch.tensor([1.0] * 6)
    before = loss(z, groups, label)
    before.backward()
    assert before.dtype == torch.float32
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().sum() > 0
    after = loss((z.double() - 1e-2 * z.grad.double()).float(), groups, label)
    assert after.item() < before.item()


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_no_loss_and_no_gradient(name):
    """As in a training step with precision=bf16; well separated, so that bfloat16 would round to 0."""
    torch.manual_seed(0)
    loss = LOSSES[name]()
    z = F.normalize(torch.randn(6, 4)).repeat(2, 1) + 0.05 * torch.randn(12, 4)
    found = []
    for enabled in (False, True):
        leaf = z.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            cost = loss(leaf, torch.arange(6).repeat(2), torch.tensor([1.0] * 3 + [0.0] * 3))
        cost.backward()
        found.append((cost.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ntxent", "triplet", "triplet of cosines"])
@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 0, 0]], ids=["no positives", "no negatives"])
def test_the_loss_of_a_batch_with_nothing_to_compare_is_0_and_has_a_gradient(name, groups):
    z = torch.randn(3, 4, requires_grad=True)
    loss = LOSSES[name]()(z, torch.tensor(groups), NO_PAIRS)
    loss.backward()
    assert loss.item() == 0


def test_each_part_learns_as_it_would_alone():
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    groups = torch.arange(4).repeat(2)
    losses = [NTXent(0.1, pair_weight=0.0), AngularMargin("cosface", 4, 3, 0.2, 8.0)]
    (gradient,) = torch.autograd.grad(EachPart(losses)(z, groups, NO_PAIRS), z)
    for loss, columns in zip(losses, (slice(0, 3), slice(3, 6)), strict=True):
        part = z[:, columns].detach().requires_grad_()
        (alone,) = torch.autograd.grad(loss(part, groups, NO_PAIRS), part)
        torch.testing.assert_close(gradient[:, columns], alone)


def reference_ntxent(z, groups, label, t, negatives):
    """The definition, image by image, for two views of the images of listed pairs."""
    unit, pairs = F.normalize(z.double()), len(label)
    images = 2 * pairs
    cos = (unit @ unit.T).tolist()

    def listed(i, j, value):
        one, other = sorted((i % images, j % images))
        return other - one == pairs and label[one] == value

    def same(i, j):
        return i != j and (groups[i] == groups[j] or listed(i, j, 1))

    def different(i, j):
        return i != j and not same(i, j) and (negatives == "batch" or listed(i, j, 0))

    losses = []
    for i in range(len(unit)):
        mates = [j for j in range(len(unit)) if same(i, j)]
        others = [j for j in range(len(unit)) if different(i, j)]
        if mates and others:
            total = sum(math.exp(cos[i][j] / t) for j in mates + others)
            losses.append(sum(math.log(total) - cos[i][j] / t for j in mates) / len(mates))
    return sum(losses) / max(1, len(losses))


@pytest.mark.parametrize("negatives", ["batch", "listed"])
@pytest.mark.parametrize("label", [[1, 0, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4, 0, 5, 2, 6, 7], [0, 1, 0, 3, 3, 5, 6, 7, 8, 3]])
def test_ntxent_knows_of_listed_pairs_what_it_is_told(negatives, label, groups):
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    both = torch.tensor(groups).repeat(2)
    found = NTXent(0.2, 0.0, negatives)(z, both, torch.tensor(label).float())
    assert found.item() == pytest.approx(reference_ntxent(z, both.tolist(), label, 0.2, negatives), rel=1e-4, abs=1e-6)
    found.backward()
    assert z.grad.isfinite().all()


def test_with_listed_negatives_no_other_image_matters():
    """Moving an image of a pair changes only the loss of its own pair's images."""
    z, label = torch.randn(16, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, 0, 0, 0])
    groups = torch.arange(8).repeat(2)
    z.requires_grad_()
    NTXent(0.2, 0.0, "listed")(z, groups, label).backward()
    rows = z.grad.abs().sum(1) > 0
    assert rows.tolist() == [False, True, True, True] * 4  # images of the same pair have no negative
