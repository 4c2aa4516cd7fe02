"""Calibration and threshold together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from strategies import scored_pairs

from siamese.evaluation.decision import choose_decision


@given(scored_pairs(), st.sampled_from(["none", "platt"]), st.sampled_from([0, 0.1]), st.floats(1, 60))
def test_a_decision_keeps_the_false_accept_rate(pairs, calibration, far, scale):
    """Even if the sigmoid rounds neighbouring scores to the same probability."""
    scores, labels = pairs
    scores = scores * scale
    decision = choose_decision(scores, labels, calibration, f"far:{far}")
    accepted = decision.predict(scores)
    saturated = decision.probabilities(scores) == 1.0
    assert (accepted & ~saturated)[labels == 0].mean() <= far
    assert 0 < decision.threshold <= 1
