"""Rules that choose a threshold, against a search over all thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import scored_pairs

from siamese.config.threshold_rules import far_of
from siamese.evaluation.thresholds import choose_threshold


@given(scored_pairs(), st.sampled_from(["accuracy", "eer", "far:0", "far:0.1", "far:0.5"]))
def test_a_threshold_is_the_best_by_its_rule(pairs, rule):
    scores, labels = pairs
    candidates = np.append(np.unique(scores), scores.max() + 1)

    def rates(threshold):
        predicted = scores >= threshold
        return predicted[labels == 0].mean(), predicted[labels == 1].mean(), (predicted == labels).mean()

    fpr, tpr, right = rates(choose_threshold(scores, labels, rule))
    every = [rates(t) for t in candidates]
    if rule == "accuracy":
        assert right == max(r for _, _, r in every)
    elif rule == "eer":
        assert abs(fpr - (1 - tpr)) == pytest.approx(min(abs(f - (1 - t)) for f, t, _ in every))
    else:
        far = far_of(rule)
        assert fpr <= far
        assert tpr == max(t for f, t, _ in every if f <= far)


def test_a_threshold_lies_midway_between_two_scores():
    assert choose_threshold([0.1, 0.2, 0.6, 0.7], [0, 0, 1, 1], "accuracy") == pytest.approx(0.4)


@pytest.mark.parametrize("rule", ["best", "far", "far:", "far:1", "far:-0.1", "far:x", "far:1e", "far:nan"])
def test_an_unknown_rule_is_an_error(rule):
    with pytest.raises(ValueError, match="accuracy, eer, or far:RATE"):
        choose_threshold([0.0, 1.0], [0, 1], rule)


def test_a_threshold_needs_both_labels():
    with pytest.raises(ValueError, match="at least one same pair"):
        choose_threshold([0.0, 1.0], [1, 1], "eer")
