"""Metrics, against slow second implementations written here from the definitions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from strategies import fast, strangers, two_classes, unzip

from siamese.evaluation import intervals, metrics
from siamese.evaluation.summary import summarise


def slow_auc(scores, labels):
    """Every same pair against every different one, in exact arithmetic."""
    wins = [
        Fraction(1 if s > d else 0) if s != d else Fraction(1, 2)
        for s in scores[labels == 1]
        for d in scores[labels == 0]
    ]
    return sum(wins) / len(wins)


def slow_roc(scores, labels):
    """The rates of "same if score >= threshold" for every distinct threshold."""
    same, different = scores[labels == 1], scores[labels == 0]
    thresholds = [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    return [((different >= t).mean(), (same >= t).mean(), t) for t in thresholds]


def slow_eer(scores, labels):
    """Bisection along the ROC curve of `slow_roc`."""
    points = slow_roc(scores, labels)

    def at(position):
        i = min(int(position), len(points) - 2)
        part = position - i
        return [(1 - part) * points[i][k] + part * points[i + 1][k] for k in (0, 1)]

    low, high = 0.0, float(len(points) - 1)
    for _ in range(80):
        middle = (low + high) / 2
        fpr, tpr = at(middle)
        low, high = (middle, high) if fpr < 1 - tpr else (low, middle)
    return at(high)[0]


class TestCounts:
    def test_confusion_and_accuracy(self):
        predicted, labels = [1, 1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 0, 0, 1]
        assert metrics.confusion(predicted, labels) == (2, 2, 2, 1)
        assert metrics.accuracy(predicted, labels) == 4 / 7

    def test_chance_level(self):
        assert metrics.chance_level(3, 4) == metrics.chance_level(4, 3) == 4 / 7
        assert metrics.chance_level(0, 4) is metrics.chance_level(4, 0) is metrics.chance_level(0, 0) is None

    def test_counts_are_python_ints(self):
        counts = metrics.confusion(np.array([True, False]), np.array([1, 1], np.int8))
        assert all(type(count) is int for count in counts)

    @pytest.mark.parametrize("predicted", [[0.7, 0.2], [2, 0], [-1, 1], [math.nan, 1]])
    def test_predicted_must_be_decisions(self, predicted):
        with pytest.raises(ValueError, match="predicted must be 0 or 1"):
            metrics.confusion(predicted, [0, 1])


class TestRoc:
    @fast
    @given(two_classes)
    def test_equals_brute_force(self, pairs):
        scores, labels = unzip(pairs)
        roc = metrics.roc_curve(scores, labels)
        assert_allclose(np.stack(roc, axis=1), slow_roc(scores, labels), atol=1e-15)

    @fast
    @given(two_classes, st.randoms())
    def test_order_of_pairs_does_not_matter(self, pairs, random):
        shuffled = random.sample(pairs, len(pairs))
        for one, other in zip(metrics.roc_curve(*unzip(pairs)), metrics.roc_curve(*unzip(shuffled)), strict=True):
            assert np.array_equal(one, other)

    def test_all_tied_is_one_segment(self):
        roc = metrics.roc_curve([3.0] * 5, [1, 0, 1, 0, 0])
        assert np.array_equal(roc.fpr, [0, 1])
        assert np.array_equal(roc.tpr, [0, 1])
        assert np.array_equal(roc.thresholds, [np.inf, 3])

    @fast
    @given(two_classes)
    def test_corners_are_points_of_the_same_curve(self, pairs):
        roc = metrics.roc_curve(*unzip(pairs))
        kept = metrics.corners(roc)
        every = np.stack(roc, axis=1).tolist()
        assert all(point in every for point in np.stack(kept, axis=1).tolist())
        wrong = min(np.bincount(unzip(pairs)[1], minlength=2))
        assert len(kept.fpr) <= 2 * wrong + 2
        # Nothing but straight lines is lost: each point lies on the curve through the corners.
        for x, y in zip(roc.fpr, roc.tpr, strict=True):
            on = [
                (kept.tpr[k], kept.tpr[k + 1]) for k in range(len(kept.fpr) - 1) if kept.fpr[k] == x == kept.fpr[k + 1]
            ]
            assert any(low <= y <= high for low, high in on) or y == pytest.approx(np.interp(x, kept.fpr, kept.tpr))

    def test_missing_class_gives_nan_rates(self):
        roc = metrics.roc_curve([1.0, 2.0], [1, 1])
        assert np.isnan(roc.fpr).all()
        assert np.array_equal(roc.tpr, [0, 0.5, 1])


class TestAuc:
    @fast
    @given(two_classes)
    def test_equals_brute_force_and_trapezoid(self, pairs):
        scores, labels = unzip(pairs)
        fpr, tpr, _ = metrics.roc_curve(scores, labels)
        assert metrics.auc(scores, labels) == pytest.approx(float(slow_auc(scores, labels)), abs=1e-14)
        assert metrics.auc(scores, labels) == pytest.approx(((tpr[1:] + tpr[:-1]) / 2 * np.diff(fpr)).sum(), abs=1e-12)

    @fast
    @given(two_classes)
    def test_symmetries(self, pairs):
        scores, labels = unzip(pairs)
        value = metrics.auc(scores, labels)
        assert metrics.auc(np.exp(scores) + 7, labels) == value
        assert metrics.auc(-scores, 1 - labels) == pytest.approx(value, abs=1e-14)
        assert metrics.auc(-scores, labels) == pytest.approx(1 - value, abs=1e-14)

    @pytest.mark.parametrize(
        ("scores", "value"),
        [
            ([4, 3, 2, 1], 1),
            ([1, 2, 3, 4], 0),
            ([5, 5, 5, 5], 0.5),
            ([4, 2, 3, 1], 0.75),
            ([2, 1, 1, 0], 0.875),
        ],
    )
    def test_known_values(self, scores, value):
        assert metrics.auc(scores, [1, 1, 0, 0]) == value


class TestEer:
    @fast
    @given(two_classes)
    def test_equals_bisection(self, pairs):
        scores, labels = unzip(pairs)
        assert metrics.eer(scores, labels) == pytest.approx(slow_eer(scores, labels), abs=1e-12)

    @fast
    @given(two_classes)
    def test_symmetries(self, pairs):
        scores, labels = unzip(pairs)
        value = metrics.eer(scores, labels)
        assert metrics.eer(np.exp(scores) + 7, labels) == value
        assert metrics.eer(-scores, 1 - labels) == pytest.approx(value, abs=1e-12)

    @pytest.mark.parametrize(
        ("scores", "labels", "value"),
        [
            ([4, 3, 2, 1], [1, 1, 0, 0], 0.0),
            ([1, 2, 3, 4], [1, 1, 0, 0], 1.0),
            ([5, 5, 5, 5], [1, 1, 0, 0], 0.5),
            ([4, 2, 3, 1], [1, 1, 0, 0], 0.5),
            # (fpr, fnr) is (0, 1/2) and then (1, 0): the segment meets fpr = fnr at 1/3.
            ([2, 1, 1], [1, 1, 0], 1 / 3),
        ],
    )
    def test_known_values(self, scores, labels, value):
        assert metrics.eer(scores, labels) == pytest.approx(value, abs=1e-15)


class TestTarAtFar:
    @fast
    @given(two_classes, st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]))
    def test_equals_brute_force(self, pairs, far):
        scores, labels = unzip(pairs)
        expected = max(tpr for fpr, tpr, _ in slow_roc(scores, labels) if fpr <= far)
        assert metrics.tar_at_far(scores, labels, far) == expected

    def test_does_not_interpolate(self):
        scores, labels = [5, 4, 3, 2, 1, 0], [1, 0, 1, 0, 1, 0]
        assert metrics.tar_at_far(scores, labels, 0.0) == 1 / 3
        assert metrics.tar_at_far(scores, labels, 0.32) == 1 / 3
        assert metrics.tar_at_far(scores, labels, 1 / 3) == 2 / 3

    @pytest.mark.parametrize("far", [-0.1, 1.1, math.nan])
    def test_impossible_rate(self, far):
        with pytest.raises(ValueError, match="far="):
            metrics.tar_at_far([1, 2], [0, 1], far)


class TestBce:
    @fast
    @given(st.lists(st.tuples(st.floats(-30, 30), st.integers(0, 1)), min_size=1, max_size=30))
    def test_equals_the_textbook(self, pairs):
        logits, labels = unzip(pairs)
        for loss, z, y in zip(metrics.bce_with_logits(logits, labels), logits, labels, strict=True):
            p_of_label = 1 / (1 + math.exp(-z)) if y else 1 / (1 + math.exp(z))
            assert loss == pytest.approx(-math.log(p_of_label), rel=1e-9, abs=1e-12)

    def test_stays_finite_and_exact_at_the_ends(self):
        losses = metrics.bce_with_logits([1000.0, -1000.0, -1000.0, 0.0, -40.0], [1, 1, 0, 1, 0])
        assert_allclose(losses, [0, 1000, 0, math.log(2), math.exp(-40)], rtol=1e-12, atol=0)

    def test_float32_logits_are_widened_first(self):
        assert metrics.bce_with_logits(np.float32([-16]), [0])[0] == pytest.approx(math.exp(-16), rel=1e-6)

    def test_sigmoid(self):
        with np.errstate(all="raise", under="ignore"):
            probabilities = metrics.sigmoid([-1e4, -2, 0, 2, 1e4])
        assert_allclose(probabilities, [0, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1])


FUNCTIONS = [
    metrics.roc_curve,
    metrics.auc,
    metrics.eer,
    metrics.bce_with_logits,
    lambda scores, labels: metrics.tar_at_far(scores, labels, 0.1),
    intervals.auc_interval,
    lambda scores, labels: intervals.bootstrap_interval(metrics.eer, scores, labels, resamples=3),
    lambda scores, labels: intervals.eer_interval(scores, labels, strangers(len(scores))),
    lambda scores, labels: summarise(scores, labels, strangers(len(scores))),
]


class TestBadInput:
    @pytest.mark.parametrize("function", FUNCTIONS)
    @pytest.mark.parametrize(
        ("scores", "labels", "message"),
        [
            ([], [], "empty"),
            ([1.0, math.nan, math.inf], [0, 1, 1], r"2 of 3 scores are not finite, the first at index 1: nan"),
            ([1.0, 2.0], [0, 1, 1], "differ in shape"),
            ([[1.0], [2.0]], [0, 1], "differ in shape"),
            ([1.0, 2.0], [[0], [1]], "one dimension"),
            ([1.0, 2.0], [1, 2], r"0 or 1, not \[2\]"),
            ([1.0, 2.0], [0.5, 1], r"0 or 1, not \[0.5\]"),
        ],
    )
    def test_is_a_clear_value_error(self, function, scores, labels, message):
        with pytest.raises(ValueError, match=message):
            function(scores, labels)

    @pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
    def test_missing_class_is_nan_and_no_error(self, labels):
        scores = [1.0, 2.0, 3.0]
        assert math.isnan(metrics.auc(scores, labels))
        assert math.isnan(metrics.eer(scores, labels))
        assert math.isnan(metrics.tar_at_far(scores, labels, 0.1))
        assert all(map(math.isnan, intervals.auc_interval(scores, labels)))
        assert all(map(math.isnan, intervals.bootstrap_interval(metrics.eer, scores, labels, resamples=3)))
