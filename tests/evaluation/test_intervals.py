"""Confidence intervals, against their definitions, published values and simulations."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import fast, strangers, two_classes, unzip

from siamese.evaluation import intervals, metrics
from siamese.evaluation.people import are_few, people_with_variation, variance_over_people
from siamese.evaluation.summary import summarise


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
        (55, 0.5, "not clearly above chance level"),  # not significant, but not near 50 % either
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


class TestTrueAcceptRate:
    @pytest.mark.parametrize(("different", "far"), [(500, 0.01), (1000, 0.1), (4000, 0.001)])
    def test_intervals_cover_the_truth(self, different, far):
        rng, normal = np.random.default_rng(4), NormalDist()
        truth = 1 - normal.cdf(normal.inv_cdf(1 - far) - 2.5)
        labels, people, found = np.repeat([1, 0], [400, different]), strangers(400 + different), []
        for _ in range(100):
            ends = intervals.tar_interval(rng.normal(2.5 * labels, 1), labels, far, people)
            found.append(ends.low <= truth <= ends.high)
        assert np.mean(found) >= 0.88
        assert ends.high - ends.low < 0.5

    @fast
    @given(two_classes)
    def test_contains_the_rate(self, pairs):
        scores, labels = unzip(pairs)
        low, high = intervals.tar_interval(scores, labels, 0.5, strangers(len(labels)))
        if not math.isnan(low):
            assert 0 <= low <= metrics.tar_at_far(scores, labels, 0.5) <= high <= 1

    def test_an_uncertain_threshold_widens_it(self):
        rng = np.random.default_rng(5)
        labels = np.repeat([1, 0], [1000, 50_000])
        scores = rng.normal(2 * labels, 1)
        many = intervals.tar_interval(scores, labels, 0.01, strangers(51_000))
        few = intervals.tar_interval(scores[:1500], labels[:1500], 0.01, strangers(1500))
        alone = intervals.wilson(1000 * metrics.tar_at_far(scores, labels, 0.01), 1000)
        assert (alone.high - alone.low) < (many.high - many.low) < 1.3 * (alone.high - alone.low)
        assert (few.high - few.low) > 2 * (many.high - many.low)

    def test_is_wider_over_few_people(self):
        rng = np.random.default_rng(6)
        labels = np.arange(6000) % 2
        scores = rng.normal(2 * labels, 1)
        person = rng.integers(0, 100, (6000, 2))
        person[labels == 1, 1] = person[labels == 1, 0]
        over_people = intervals.tar_interval(scores, labels, 0.01, list(map(tuple, person)))
        over_pairs = intervals.tar_interval(scores, labels, 0.01, strangers(6000))
        assert over_people.high - over_people.low > over_pairs.high - over_pairs.low

    def test_many_strangers_do_not_make_up_for_few_people(self):
        """Four people have ten same pairs each; those of one person are never accepted. 200 others are strangers."""
        people = [(k % 4, k % 4) for k in range(40)] + [(10 + k % 200, 10 + k % 200) for k in range(2000)]
        labels = np.repeat([1, 0], [40, 2000])
        scores = np.where(
            labels == 1, [9.0 if one else -9.0 for one, _ in people], np.random.default_rng(0).random(2040)
        )
        found = intervals.tar_interval(scores, labels, 0.01, people)
        alone = intervals.share_interval(scores[:40] > 5, people[:40])
        assert found.low <= alone.low
        assert found.high >= alone.high
        assert math.isnan(intervals.tar_interval(scores[20:], labels[20:], 0.01, [(0, 0)] * 20 + people[40:]).low)

    @pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
    def test_one_class_has_none(self, labels):
        assert math.isnan(intervals.tar_interval([0.0, 1.0, 2.0], labels, 0.5, strangers(3)).low)


class TestFewPeople:
    @pytest.mark.parametrize(
        ("people", "few"),
        [
            (strangers(100), False),
            ([(k // 4, k // 4) for k in range(100)], False),
            ([(k // 5, k // 5) for k in range(100)], True),
            ([(k, k) for k in range(100)] + [("star", k) for k in range(40)], True),  # one person is in many pairs
        ],
    )
    def test_what_counts_as_few(self, people, few):
        assert are_few(people) is few
        right = np.arange(len(people)) % 10 > 0
        assert (intervals.share_interval(right, people) == intervals.wilson(right.sum(), len(right))) is not few

    @given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.floats(-1, 1)), min_size=1, max_size=30))
    def test_variance_is_the_sum_over_all_pairs_that_share_a_person(self, drawn):
        people, values = [(a, b) for a, b, _ in drawn], np.array([value for *_, value in drawn])
        residual = values - values.mean()
        n = len({person for pair in people for person in pair})
        shared = sum(
            residual[p] * residual[q]
            for p, one in enumerate(people)
            for q, other in enumerate(people)
            if set(one) & set(other)
        )
        expected = max(shared * n / max(1, n - 2), (residual**2).sum()) / len(drawn) ** 2
        assert variance_over_people(people, values) == (pytest.approx(expected, abs=1e-9), n)

    @pytest.mark.parametrize(
        ("wrong", "expected"),
        [
            ({}, 0),
            ({0: 1}, 1),
            ({0: 5}, 1),
            ({0: 1, 1: 1}, 2),
            (dict.fromkeys(range(10), 2), 10),
            ({0: 5, 1: 1}, 36 / 26),
        ],
    )
    def test_people_with_variation_are_about_those_with_errors(self, wrong, expected):
        people = [(k % 10, k % 10) for k in range(10_000)]
        right = np.ones(10_000)
        for person, errors in wrong.items():
            right[person : 10 * errors : 10] = 0
        assert people_with_variation(people, right) == pytest.approx(expected, rel=0.02)
        assert people_with_variation(people, 1 - right) == pytest.approx(expected, rel=0.02)

    def test_one_wrong_pair_of_two_people_is_one_error(self):
        assert people_with_variation([(0, 1), *[(k % 9, k % 9) for k in range(999)]], np.arange(1000) > 0) == (
            pytest.approx(1, rel=0.01)
        )

    def test_without_an_error_each_person_counts_once(self):
        people = [(k % 12, k % 12) for k in range(600)]
        low, high = intervals.share_interval(np.ones(600), people)
        assert high == 1.0
        assert low < intervals.wilson(12, 12).low < 0.8

    @pytest.mark.parametrize("in_one_person", [True, False])
    def test_an_error_does_not_make_the_interval_much_narrower(self, in_one_person):
        people = [(k % 12, k % 12) for k in range(500)]
        ends = []
        for errors in range(40):
            right = np.ones(500)
            right[: errors * 12 if in_one_person else errors : 12 if in_one_person else 1] = 0
            ends.append(intervals.share_interval(right, people))
        widths = np.array([high - low for low, high in ends])
        assert ends[0].low > ends[1].low > ends[2].low
        assert np.all(widths[1:] > widths[:-1] / 1.4)
        if in_one_person:
            assert np.all(np.diff([low for low, _ in ends]) < 0)

    @pytest.mark.parametrize("number", [12, 20])
    @pytest.mark.parametrize("usual", [0, 0.002, 0.02])
    def test_intervals_cover_the_truth_if_some_people_are_hard(self, number, usual):
        """500 pairs, 300 times. Half of the decisions on 10 % of the people are wrong; of the others, few or none."""
        rng = np.random.default_rng(7)
        of_pair = np.arange(500) % number
        people = list(zip(of_pair.tolist(), of_pair.tolist(), strict=True))
        truth = 1 - (0.1 * 0.5 + 0.9 * usual)
        held = 0
        for _ in range(300):
            errors = np.where(rng.random(number) < 0.1, 0.5, usual)
            low, high = intervals.share_interval(rng.random(500) >= errors[of_pair], people)
            held += low <= truth <= high
        assert held / 300 >= 0.94

    @pytest.mark.parametrize(("number", "least"), [(10, 0.93), (40, 0.92)])
    def test_intervals_cover_the_truth_of_other_people(self, number, least):
        """1,000 pairs of 10 or 40 people, 200 times. Intervals over pairs cover it in 30 to 60 % of the times."""
        rng = np.random.default_rng(5)
        a = np.tile(np.arange(number), 1000 // number)
        b = (a + 1 + np.arange(1000) // number % (number - 1)) % number
        labels = np.arange(1000) % 2
        people = list(zip(a.tolist(), np.where(labels == 1, a, b).tolist(), strict=True))
        truth = {"acc": 0.76025, "auc": 0.84135, "eer": 0.23975}  # scores: normal, mean +-1, variance 2
        truth |= {f"{name}_over_pairs": truth[name] for name in ("acc", "auc")}
        found = []
        for _ in range(200):
            hard = rng.normal(0, 1, number)
            of_pair = np.where(labels == 1, hard[a], (hard[a] + hard[b]) / math.sqrt(2))
            logits = rng.normal((2 * labels - 1) + (2 * labels - 1) * of_pair, 1)
            ends = summarise(logits, labels, people)
            ends["acc_over_pairs_ci"] = intervals.wilson(ends["tp"] + ends["tn"], 1000)
            ends["auc_over_pairs_ci"] = intervals.auc_interval(logits, labels)
            found.append(ends)
        for name, value in truth.items():
            held = np.mean([low <= value <= high for low, high in (ends[f"{name}_ci"] for ends in found)])
            assert held < 0.7 if "pairs" in name else least <= held <= 0.99
