"""N-way one-shot trials: how they are drawn, and the share of trials won."""

from __future__ import annotations

import numpy as np
import pytest

from siamese.evaluation.intervals import wilson
from siamese.evaluation.oneshot import draw_trials, identification_accuracy

PEOPLE = [[0, 1, 2], [3], [4, 5], [6], [7, 8, 9, 10], [11]]
PERSON = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5])


@pytest.mark.parametrize("ways", [2, 6])
def test_a_trial_has_another_image_of_its_person_and_one_of_each_other(ways):
    trials = draw_trials(PEOPLE, ways, 500)
    who = PERSON[trials.support]
    assert trials.support.shape == (500, ways)
    assert (who[:, 0] == PERSON[trials.query]).all()
    assert (trials.support[:, 0] != trials.query).all()
    assert all(len(set(row)) == ways for row in who.tolist())
    assert set(PERSON[trials.query].tolist()) == {0, 2, 4}  # people with two images
    assert set(trials.support[:, 1:].ravel().tolist()) == set(range(12))
    assert trials.pairs.tolist()[: ways + 1] == [
        *[[trials.query[0], other] for other in trials.support[0]],
        [trials.query[1], trials.support[1, 0]],
    ]


def test_people_of_a_trial_are_of_one_group():
    groups = ["a", "b", "a", "b", "a", "c"]
    who = PERSON[draw_trials(PEOPLE, 2, 300, groups=groups).support]
    assert set(map(tuple, np.sort(who, axis=1).tolist())) == {(0, 2), (0, 4), (2, 4)}  # nobody of b has two images
    assert set(PERSON[draw_trials(PEOPLE, 3, 300, groups=groups).support].ravel().tolist()) == {0, 2, 4}
    with pytest.raises(ValueError, match="ways=4: the largest group has 3 people"):
        draw_trials(PEOPLE, 4, 5, groups=groups)
    one = ["one"] * 6  # no restriction: the same trials as without groups
    assert draw_trials(PEOPLE, 3, 50, groups=one).pairs.tolist() == draw_trials(PEOPLE, 3, 50).pairs.tolist()


def test_trials_are_those_of_before():
    trials = draw_trials(PEOPLE, 3, 4, seed=1)
    assert trials.query.tolist() == [4, 2, 4, 7]
    assert trials.support.tolist() == [[5, 10, 2], [1, 6, 9], [5, 1, 6], [8, 3, 11]]


def test_trials_follow_the_seed():
    first, again, other = (draw_trials(PEOPLE, 3, 50, seed).pairs.tolist() for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize(
    ("people", "ways", "trials", "what"),
    [
        (PEOPLE, 1, 5, "at least 2 ways and 1 trial"),
        (PEOPLE, 2, 0, "at least 2 ways and 1 trial"),
        (PEOPLE, 7, 5, "only 6 people"),
        ([[0], [1]], 2, 5, "two images"),
    ],
)
def test_impossible_trials_are_an_error(people, ways, trials, what):
    with pytest.raises(ValueError, match=what):
        draw_trials(people, ways, trials)


def test_ties_count_as_a_share_of_a_win():
    won = identification_accuracy([[3.0, 1.0, 2.0], [1.0, 2.0, 0.0], [5.0, 5.0, 0.0], [1.0, 1.0, 1.0]], "abcd")
    assert won.accuracy == pytest.approx((1 + 0 + 1 / 2 + 1 / 3) / 4)
    assert won.interval.low < won.accuracy < won.interval.high


def test_random_scores_win_by_chance():
    scores = np.random.default_rng(0).random((20_000, 5))
    assert identification_accuracy(scores, range(20_000)).accuracy == pytest.approx(0.2, abs=0.01)
    assert identification_accuracy(np.zeros((10, 5)), range(10)).accuracy == pytest.approx(0.2)


def test_trials_of_few_people_have_a_wider_interval():
    won = np.repeat(np.arange(20) % 4 > 0, 50)  # 20 people with 50 trials each; 15 people are always found
    scores = np.stack([won, ~won], axis=1).astype(float)
    few = identification_accuracy(scores, np.arange(1000) // 50)
    many = identification_accuracy(scores, range(1000))
    assert identification_accuracy(scores, np.arange(1000) // 50, over_people=False) == many
    assert few.accuracy == many.accuracy == 0.75
    assert many.interval == wilson(750, 1000)
    assert few.interval == pytest.approx(wilson(15, 20), abs=0.03)  # as if each person were one trial


@pytest.mark.parametrize("scores", [[], [1.0, 2.0], [[1.0], [2.0]], [[np.nan, 1.0]]])
def test_scores_of_another_shape_or_nan_are_refused(scores):
    with pytest.raises(ValueError, match=r"scores"):
        identification_accuracy(scores, range(len(scores)))
