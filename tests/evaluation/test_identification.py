"""Identification in galleries, against searches that are carried out one by one."""

from __future__ import annotations

import numpy as np
import pytest

from siamese.evaluation.identification import (
    MAX_RANK,
    Draw,
    Searches,
    as_verification,
    cumulative_matches,
    draw_gallery,
    joined,
    open_set_curve,
    search,
)
from siamese.evaluation.metrics import tar_at_far

IMAGES = [4, 1, 2, 1, 3, 2, 1, 5, 2, 2]
"""Number of images of each person."""


def people(images: list[int] = IMAGES) -> list[list[int]]:
    ends = np.cumsum(images).tolist()
    return [list(range(end - number, end)) for number, end in zip(images, ends, strict=True)]


def random_scores(draw: Draw, seed: int, separation: float = 0.0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(len(draw.probe), len(draw.gallery)))
    scores[np.arange(len(draw.person)), draw.person] += separation
    return scores.round(1)  # with ties


@pytest.mark.parametrize("strangers", [0.2, 0.5, 0.8])
def test_a_gallery_has_an_image_of_each_person_and_another_one_is_looked_for(strangers: float) -> None:
    owner = {image: person for person, images in enumerate(people()) for image in images}
    seen = set()
    for k in range(50):
        draw = draw_gallery(people(), strangers, seed=3, draw=k)
        assert [owner[image] for image in draw.gallery.tolist()] == list(range(len(IMAGES)))
        assert [owner[image] for image in draw.probe.tolist()] == draw.person.tolist()
        assert np.array_equal(draw.has_mate, draw.probe != draw.gallery[draw.person])
        assert np.array_equal(draw.has_mate, np.array(IMAGES)[draw.person] > 1)
        assert len(set(draw.person.tolist())) == len(draw.person)
        assert (~draw.enrolled).sum() == round(strangers * len(IMAGES))
        single = np.array(IMAGES) == 1
        # People whom nobody can look for in a gallery are strangers before others are.
        assert not (draw.enrolled & single).any() or not (~draw.enrolled & ~single).any()
        searched = set(draw.person.tolist())
        assert searched == {p for p in range(len(IMAGES)) if IMAGES[p] > 1 or not draw.enrolled[p]}
        seen |= set(draw.gallery.tolist())
    assert seen == set(owner)
    again = draw_gallery(people(), strangers, seed=3, draw=49)
    assert all(np.array_equal(one, other) for one, other in zip(draw, again, strict=True))


@pytest.mark.parametrize(
    ("images", "strangers", "message"),
    [
        ([1, 1, 1, 1, 1], 0.5, "no person has two images, one for the gallery and one to find; add images"),
        ([2, 2, 2, 2, 2], 0.9, r"strangers=0\.9 of 5 people leaves fewer than two for the gallery; choose a"),
        ([2, 2, 2], 0.5, r"strangers=0\.5 of 3 people.*\(0: closed set only\)"),
        ([9], 0.0, "the gallery has 1 person; add people"),
    ],
)
def test_what_cannot_be_searched_is_refused(images: list[int], strangers: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_gallery(people(images), strangers, seed=0, draw=0)


def test_three_people_are_enough_for_an_open_set() -> None:
    draw = draw_gallery(people([2, 2, 1]), 0.34, seed=0, draw=0)
    assert draw.enrolled.tolist() == [True, True, False]
    assert draw_gallery(people([2, 2, 1]), 0.0, seed=0, draw=0).enrolled.all()


def test_scores_that_are_not_finite_are_refused() -> None:
    draw = draw_gallery(people(), 0.5, seed=0, draw=0)
    scores = random_scores(draw, 0)
    scores[2, 3] = np.nan
    with pytest.raises(ValueError, match="a score is not finite"):
        search(scores, draw)


def test_searches_equal_those_carried_out_one_by_one() -> None:
    for k in range(100):
        draw = draw_gallery(people(), 0.4, seed=1, draw=k)
        scores = random_scores(draw, k, separation=1.0)
        found = joined([search(scores[:3], draw, slice(0, 3)), search(scores[3:], draw, slice(3, None))])
        for q, person in enumerate(draw.person.tolist()):
            order = sorted(range(len(IMAGES)), key=lambda p, q=q, person=person: (-scores[q, p], p == person))
            assert (found.rank[q], found.has_mate[q]) == (order.index(person) + 1, draw.has_mate[q])
            named = next(p for p in order if draw.enrolled[p])
            assert found.top[q] == scores[q, named]
            assert found.is_stranger[q] == (not draw.enrolled[person])
            assert found.is_right[q] == (named == person)


def many_searches(separation: float, draws: int = 20) -> Searches:
    drawn = [draw_gallery(people(), 0.4, seed=2, draw=k) for k in range(draws)]
    return joined([search(random_scores(draw, k, separation), draw) for k, draw in enumerate(drawn)])


def test_the_cumulative_match_curve_counts_ranks() -> None:
    found = many_searches(1.0)
    curve = cumulative_matches(found, len(IMAGES))
    assert not found.has_mate.all()
    ranks = found.rank[found.has_mate]
    assert [point.rank for point in curve] == list(range(1, len(IMAGES) + 1))
    for point in curve:
        assert point.rate == pytest.approx(np.mean(ranks <= point.rank))
        assert point.low <= point.rate <= point.high
    assert curve[-1].rate == 1
    assert len(cumulative_matches(found, 10**6)) == MAX_RANK


def test_guessing_ranks_at_chance_level_and_equal_scores_last() -> None:
    drawn = [draw_gallery(people([2] * 8), 0.5, seed=0, draw=k) for k in range(400)]
    guessed = [search(np.random.default_rng(k).random((8, 8)), draw) for k, draw in enumerate(drawn)]
    for point in cumulative_matches(joined(guessed), 8):
        assert point.rate == pytest.approx(point.rank / 8, abs=0.03)
    collapsed = search(np.zeros((8, 8)), drawn[0])
    assert set(collapsed.rank.tolist()) == {8}
    assert not collapsed.is_right.any()
    assert open_set_curve(collapsed).tpr.max() == 0


@pytest.mark.parametrize("separation", [0.0, 1.5, 20.0])
@pytest.mark.parametrize("seed", range(10))
def test_the_open_set_curve_has_the_rates_of_each_threshold(separation: float, seed: int) -> None:
    draw = draw_gallery(people(), 0.4, seed, draw=0)
    found = search(random_scores(draw, seed, separation), draw) if seed else many_searches(separation)
    curve = open_set_curve(found)
    assert (curve.fpr[0], curve.tpr[0], curve.thresholds[0]) == (0, 0, np.inf)
    strangers, others = found.is_stranger, ~found.is_stranger
    rates = {}
    for threshold in np.unique(found.top):
        named = found.top >= threshold
        rates[threshold] = named[strangers].mean(), (named & found.is_right)[others].mean()
    for fpir, tpir, threshold in zip(*(one[1:] for one in curve), strict=True):
        assert (fpir, tpir) == pytest.approx(rates[threshold])
    assert (curve.fpr[-1], curve.tpr[-1]) == (1, pytest.approx(found.is_right[others].mean()))
    scores, labels = as_verification(found)
    for far in (0.02, 0.1, 0.5):
        expected = max([0.0, *(tpir for fpir, tpir in rates.values() if fpir <= far)])
        assert tar_at_far(scores, labels, far) == pytest.approx(expected)
        assert max(curve.tpr[curve.fpr <= far]) == pytest.approx(expected)
    if separation == 20:
        assert found.is_right[others].all()


def test_repeated_searches_for_a_person_are_not_independent() -> None:
    """In 100 simulations, some of the 60 people are easier to find. The intervals over people contain the true rate."""
    rng = np.random.default_rng(0)
    covered, draws = [], 4
    for _ in range(100):
        found_at = np.tile(rng.beta(1, 1, 60), draws)  # chance of each person to be found first
        person = np.tile(np.arange(60), draws)
        rank = np.where(rng.random(60 * draws) < found_at, 1, 2)
        none = np.zeros(60 * draws, bool)
        (first, *_) = cumulative_matches(Searches(person, ~none, rank, none, none, none.astype(float)), 60)
        covered.append(first.low <= 0.5 <= first.high)
    assert np.mean(covered) >= 0.9
