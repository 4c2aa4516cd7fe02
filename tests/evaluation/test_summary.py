"""The figures of one set of scored pairs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from strategies import strangers

from siamese.evaluation import metrics
from siamese.evaluation.summary import summarise


class TestSummary:
    def test_has_the_results_of_the_functions(self):
        rng = np.random.default_rng(1)
        labels = rng.integers(0, 2, 80)
        logits = rng.normal(2 * labels - 1, 2)
        figures = summarise(logits, labels, strangers(80))
        predicted = logits >= 0
        assert figures["acc"] == metrics.accuracy(predicted, labels)
        assert [figures[name] for name in ("tp", "fp", "tn", "fn")] == [*metrics.confusion(predicted, labels)]
        assert figures["auc"] == metrics.auc(logits, labels)
        assert figures["eer"] == metrics.eer(logits, labels)
        assert figures["loss"] == metrics.bce_with_logits(logits, labels).mean()
        for name in ("loss", "acc", "auc", "eer"):
            low, high = figures[f"{name}_ci"]
            assert low < figures[name] < high
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures
        assert figures.pop("ci_over") == "pairs"
        assert all(type(v) in (int, float) for f in figures.values() for v in (f if isinstance(f, list) else [f]))

    @pytest.mark.parametrize(("different", "fars"), [(99, []), (100, [0.01]), (500, [0.01]), (1000, [0.01, 0.001])])
    def test_rates_at_strict_thresholds_need_enough_different_pairs(self, different, fars):
        rng = np.random.default_rng(3)
        labels = np.repeat([1, 0], [200, different])
        logits = rng.normal(2 * labels, 1)
        figures = summarise(logits, labels, strangers(len(labels)))
        assert {name for name in figures if name.startswith("tar")} == {
            f"tar@far={far}{end}" for far in fars for end in ("", "_ci")
        }
        for far in fars:
            rate, ends = figures[f"tar@far={far}"], figures[f"tar@far={far}_ci"]
            assert rate == metrics.tar_at_far(logits, labels, far)
            if different * far < 3:  # no different pair may be above the right threshold, which has no bound then
                assert ends is None
            else:
                assert ends[0] < rate < ends[1]

    def test_a_probability_equal_to_the_threshold_is_same(self):
        logits = [math.log(3), math.log(3) - 1e-6, 0.0]  # probabilities 3/4, a little less, 1/2
        assert summarise(logits, [1, 1, 0], strangers(3), threshold=0.75)["tp"] == 1
        assert summarise(logits, [1, 1, 0], strangers(3), threshold=0.5)["fp"] == 1
        with pytest.raises(ValueError, match=r"threshold=1\.5"):
            summarise(logits, [1, 1, 0], strangers(3), threshold=1.5)

    def test_auc_uses_the_order_of_saturated_scores(self):
        assert summarise([60.0, 50.0, 40.0], [1, 1, 0], strangers(3))["auc"] == 1.0

    @pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0]])
    def test_one_class_has_no_auc(self, labels):
        figures = summarise([1.0, -1.0, 2.0], labels, strangers(3))
        assert [figures[name] for name in ("auc", "auc_ci", "eer", "eer_ci")] == [None] * 4
        assert figures["acc"] == (2 / 3 if labels[0] else 1 / 3)
        json.dumps(figures, allow_nan=False)

    def test_one_pair(self):
        figures = summarise([0.0], [1], strangers(1))
        assert figures["loss"] == pytest.approx(math.log(2))
        assert figures["loss_ci"] is None
        assert figures["acc_ci"][1] == 1.0

    def test_intervals_of_few_people_are_wider_and_of_too_few_undefined(self):
        rng = np.random.default_rng(2)
        labels = np.arange(400) % 2
        hard = rng.normal(0, 1, 10)  # each person is hard or easy to recognise
        people = [
            (a, a if label else (a + 1) % 10) for a, label in zip(rng.integers(10, size=400), labels, strict=True)
        ]
        logits = (2 * labels - 1) * (1 + np.array([hard[a] + hard[b] for a, b in people])) + rng.normal(0, 1, 400)
        few, many = (summarise(logits, labels, who) for who in (people, strangers(400)))
        assert (few["ci_over"], many["ci_over"]) == ("people", "pairs")
        for name in ("loss", "acc", "auc", "eer"):
            assert few[name] == many[name]
            (low, high), (inner_low, inner_high) = few[f"{name}_ci"], many[f"{name}_ci"]
            assert low < inner_low < inner_high < high
        pair = summarise(logits, labels, [(a % 2, b % 2) for a, b in people])
        assert [pair[f"{name}_ci"] for name in ("loss", "acc", "auc", "eer")] == [None] * 4
