"""Confidence intervals, against their definitions, published values and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import fast, two_classes, unzip

from siamese.evaluation import intervals, metrics


def slow_components(scores, labels):
    """DeLong's structural components, straight from the definition."""
    same, different = scores[labels == 1], scores[labels == 0]
    wins = (same[:, None] > different[None]) + 0.5 * (same[:, None] == different[None])
    return wins.mean(1), wins.mean(0)


class TestWilson:
    @pytest.mark.parametrize(
        ("successes", "n", "low", "high"),
        [
            (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0000, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ],
    )
    def test_published_values(self, successes, n, low, high):
        assert intervals.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)

    @fast
    @given(st.integers(1, 300), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
    def test_inverts_the_score_test(self, n, data, level):
        """At its ends p0, |p - p0| is exactly z standard errors under p0."""
        k = data.draw(st.integers(0, n))
        low, high = intervals.wilson(k, n, level)
        assert 0 <= low <= k / n <= high <= 1
        z = intervals._normal_quantile(level)
        for end in {low, high} - {0.0, 1.0}:
            assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)

    @pytest.mark.parametrize(("k", "n", "level"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (1, 5, 1.0), (1, 5, 0)])
    def test_impossible(self, k, n, level):
        with pytest.raises(ValueError, match=r"n=|level="):
            intervals.wilson(k, n, level)


@pytest.mark.parametrize(
    ("correct", "chance", "name"),
    [
        (50, 0.5, "chance level"),
        (55, 0.5, "chance level"),  # not significant
        (70, 0.5, ""),
        (90, 0.9, "chance level"),  # always different, with 90 % different pairs
        (98, 0.9, ""),
        (0, 0.5, "below chance level"),
        (35, 0.5, "below chance level"),
        (70, None, ""),  # only same pairs: nothing to tell apart
    ],
)
def test_accuracy_not_above_chance(correct, chance, name):
    assert intervals.not_above_chance(intervals.wilson(correct, 100), chance) == name
    assert intervals.not_above_chance(None, chance) == ""


class TestAucInterval:
    @fast
    @given(two_classes)
    def test_equals_delong_by_definition(self, pairs):
        scores, labels = unzip(pairs)
        v10, v01 = slow_components(scores, labels)
        low, high = intervals.auc_interval(scores, labels)
        if min(len(v10), len(v01)) < 2:
            assert math.isnan(low)
            assert math.isnan(high)
            return
        area, variance = v10.mean(), v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)
        assert low <= area <= high
        if variance > 1e-12:
            half = 1.959963984540054 * math.sqrt(variance)
            assert (low, high) == pytest.approx((max(0, area - half), min(1, area + half)), abs=1e-12)
        else:
            assert high - low > 0.1

    def test_separated_classes_give_an_interval_with_a_width(self):
        low, high = intervals.auc_interval(np.arange(100), np.arange(100) >= 50)
        assert (low, high) == (intervals.wilson(50, 50).low, 1.0)
        assert 0.9 < low < 0.95


def test_mean_interval():
    assert intervals.mean_interval([1, 2, 3, 4]) == pytest.approx(
        (2.5 - 3.182446 * math.sqrt(5 / 3) / 2, 2.5 + 3.182446 * math.sqrt(5 / 3) / 2), abs=1e-6
    )  # Student's t of 3 degrees of freedom
    assert intervals.mean_interval([5, 5, 5]) == (5, 5)
    assert all(map(math.isnan, intervals.mean_interval([3])))
    with pytest.raises(ValueError, match="not empty"):
        intervals.mean_interval([])


class TestBootstrap:
    def test_same_seed_same_interval(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 60)
        scores = rng.normal(labels)
        first, again, other = (
            intervals.bootstrap_interval(metrics.eer, scores, labels, 50, seed) for seed in (0, 0, 1)
        )
        assert first == again != other

    def test_agrees_with_wilson_on_an_accuracy(self):
        labels = np.arange(400) % 2
        scores = np.where(np.arange(400) < 280, labels, 1 - labels)  # 70 % right

        def right(scores, labels):
            return metrics.accuracy(scores >= 0.5, labels)

        found = intervals.bootstrap_interval(right, scores, labels)
        assert found == pytest.approx(intervals.wilson(280, 400), abs=0.01)

    def test_needs_a_resample(self):
        with pytest.raises(ValueError, match="resamples=0"):
            intervals.bootstrap_interval(metrics.eer, [1, 2], [0, 1], resamples=0)


def test_intervals_cover_the_truth():
    """Each interval contains the true value in about 95 % of 300 test sets (+- 4 standard errors)."""
    rng = np.random.default_rng(3)
    truth_auc = 0.7602499  # Phi(1 / sqrt 2)
    truth_acc = 0.6914625  # Phi(1 / 2), at the threshold 1 / 2
    hits = np.zeros(3)
    for _ in range(300):
        labels = np.arange(200) % 2
        scores = rng.normal(labels)
        right = int(((scores >= 0.5) == labels).sum())
        found = [
            (intervals.auc_interval(scores, labels), truth_auc),
            (intervals.wilson(right, 200), truth_acc),
            (intervals.mean_interval(scores), 0.5),
        ]
        hits += [low <= truth <= high for (low, high), truth in found]
    assert np.all(hits / 300 > 0.95 - 4 * 0.0126)
    assert np.all(hits / 300 < 0.995)
