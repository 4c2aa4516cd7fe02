"""Calibration, against slow second implementations and against simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import scored_pairs

from siamese.evaluation.calibration import Calibration, brier, ece, fit_fusion, fit_platt, fit_temperature, reliability
from siamese.evaluation.metrics import auc, bce_with_logits, sigmoid


def drawn(slope, intercept, n, seed=0):
    """Random scores, and labels drawn with the probabilities of a known calibration."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.3, 0.2, n)
    return scores, (rng.random(n) < sigmoid(slope * scores + intercept)).astype(int)


def test_platt_finds_the_calibration_of_the_simulation():
    found = fit_platt(*drawn(12.0, -4.0, 200_000))
    assert found.slope == pytest.approx(12.0, rel=0.02)
    assert found.intercept == pytest.approx(-4.0, rel=0.03)


def test_temperature_finds_the_factor_of_overconfident_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 200_000)
    labels = (rng.random(200_000) < sigmoid(logits)).astype(int)
    found = fit_temperature(3 * logits, labels)
    assert found == (pytest.approx(1 / 3, rel=0.02), 0.0)


@given(scored_pairs(), st.sampled_from([fit_platt, fit_temperature]))
def test_no_small_change_of_a_fit_lowers_its_loss(pairs, fit):
    scores, labels = pairs
    found = fit(scores, labels)
    n = labels.sum()
    target = np.where(labels == 1, (n + 1) / (n + 2), 1 / (len(labels) - n + 2))

    def loss(slope, intercept):
        logit = slope * scores + intercept
        return np.sum(np.logaddexp(0, logit) - target * logit)

    here = loss(*found)
    assert found.slope > 0
    for step in (-1e-3, 1e-3):
        if found.slope + step >= 0:
            assert loss(found.slope + step, found.intercept) >= here - 1e-9
        if fit is fit_platt:
            assert loss(found.slope, found.intercept + step) >= here - 1e-9


@given(scored_pairs())
def test_platt_keeps_the_order_and_the_scale_of_scores_does_not_matter(pairs):
    scores, labels = pairs
    found = fit_platt(scores, labels)
    assert auc(found.logits(scores), labels) == auc(scores, labels)
    moved = fit_platt(1000 * scores - 7, labels)
    np.testing.assert_allclose(moved.logits(1000 * scores - 7), found.logits(scores), atol=1e-5)


def test_separated_scores_give_a_finite_slope():
    labels = np.arange(100) >= 50
    for fit in (fit_platt, fit_temperature):
        found = fit(np.arange(100) - 49.5, labels)
        assert 0 < found.slope < 100
        assert bce_with_logits(found.logits(np.arange(100) - 49.5), labels).mean() < 0.2


def test_the_order_of_inverted_scores_is_kept():
    found = fit_platt([3.0, 2.0, 1.0, 0.0], [0, 0, 1, 1])
    assert 0 < found.slope < 1e-5
    assert sigmoid(found.logits([9.0]))[0] == pytest.approx(0.5, abs=1e-4)


def members(*noise, n=100_000):
    """Logits of members that see the same evidence with independent noise, each calibrated, and the labels."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, n)
    seen = [2 * labels - 1 + rng.normal(0, deviation, n) for deviation in noise]
    return [fit_platt(scores, labels).logits(scores) for scores in seen], labels


def test_fusion_finds_the_weights_of_independent_evidence():
    """The logits of independent evidence add up, so calibrated members have equal weights, however good they are."""
    logits, labels = members(1.0, 2.0, 3.0)
    assert fit_fusion(logits, labels) == pytest.approx([1 / 3] * 3, abs=0.05)


def test_fusion_gives_one_weight_to_evidence_that_is_counted_twice():
    (one, other), labels = members(1.0, 1.0)
    assert fit_fusion([one, other, other], labels) == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


def test_fusion_leaves_out_members_without_evidence_or_against_it():
    (good, fair), labels = members(0.7, 1.5)
    noise = np.random.default_rng(3).normal(0, 1, len(labels))
    assert fit_fusion([good, -fair], labels).tolist() == [1.0, 0.0]
    assert fit_fusion([good, noise], labels)[1] < 0.02
    assert fit_fusion([-good, -fair], labels).tolist() == [0.5, 0.5]


@given(scored_pairs(), st.integers(1, 4))
def test_weights_of_a_fusion_are_shares(pairs, number):
    scores, labels = pairs
    rng = np.random.default_rng(4)
    weights = fit_fusion([scores + rng.normal(0, 1, len(labels)) for _ in range(number)], labels)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("fit", [fit_platt, fit_temperature])
def test_one_label_is_an_error(fit):
    with pytest.raises(ValueError, match="at least one same pair"):
        fit([0.1, 0.2], [1, 1])


def test_no_calibration_leaves_logits_unchanged():
    np.testing.assert_array_equal(Calibration().logits([-1.5, 2.0]), [-1.5, 2.0])


def test_reliability_brier_and_ece_by_hand():
    probabilities, labels = [0.0, 0.05, 0.55, 0.58, 1.0], [0, 1, 1, 0, 1]
    found = reliability(probabilities, labels)
    assert [one[:5] for one in found] == [
        (0.0, 0.1, 2, pytest.approx(0.025), 0.5),
        (0.5, 0.6, 2, pytest.approx(0.565), 0.5),
        (0.9, 1.0, 1, 1.0, 1.0),
    ]
    assert [one.rows.tolist() for one in found] == [[0, 1], [2, 3], [4]]
    assert ece(probabilities, labels) == pytest.approx((2 * 0.475 + 2 * 0.065) / 5)
    assert brier(probabilities, labels) == pytest.approx((0.95**2 + 0.45**2 + 0.58**2) / 5)


def test_true_probabilities_have_almost_no_calibration_error():
    scores, labels = drawn(12.0, -4.0, 200_000)
    truth = sigmoid(Calibration(12.0, -4.0).logits(scores))
    assert ece(truth, labels) < 0.01
    assert ece(sigmoid(Calibration(36.0, -12.0).logits(scores)), labels) > 0.05


@pytest.mark.parametrize("figure", [brier, ece, reliability])
def test_values_outside_0_and_1_are_an_error(figure):
    with pytest.raises(ValueError, match="must lie in"):
        figure([0.2, 1.5], [0, 1])
