"""Figures by group: every pair is counted once, figures are those of the definition, differences cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import fast, strangers

from siamese.evaluation.intervals import difference_interval, share_interval, wilson
from siamese.evaluation.metrics import confusion
from siamese.evaluation.subgroups import LEAST, comparisons, figures_by_group

values = st.sampled_from(["", "f", "m", "x"])
tested = st.lists(
    st.tuples(st.tuples(values, values), st.tuples(values, values), st.booleans(), st.booleans()),
    min_size=1, max_size=60,
)  # fmt: skip


@fast
@given(tested)
def test_every_pair_is_counted_once_for_each_attribute(pairs):
    one, other, labels, predicted = zip(*pairs, strict=True)
    found = figures_by_group({"one": one, "other": other}, labels, predicted, strangers(len(pairs)))
    counts = confusion(predicted, labels)
    totals = {
        "acc": (counts.tp + counts.tn, len(pairs)),
        "fnmr": (counts.fn, counts.tp + counts.fn),
        "fmr": (counts.fp, counts.fp + counts.tn),
    }
    for attribute in ("", "one", "other"):
        for figure, (cases, number) in totals.items():
            rows = [row for row in found if (row.attribute, row.figure) == (attribute, figure)]
            rows = [row for row in rows if row.kind != "difference"]
            assert sum(row.cases for row in rows) == cases
            assert sum(row.pairs for row in rows) == number
            assert len({(row.kind, row.group) for row in rows}) == len(rows)


PAIRS = [  # values of both images, label, predicted
    *[(("f", "f"), 1, 1)] * 3, *[(("f", "f"), 1, 0)] * 1, *[(("f", "f"), 0, 1)] * 2,
    *[(("m", "m"), 1, 1)] * 5, *[(("m", "m"), 0, 0)] * 4, *[(("f", "m"), 0, 0)] * 6, *[(("m", "f"), 0, 1)] * 1,
    *[(("f", ""), 0, 0)] * 2, *[(("", ""), 1, 0)] * 1,
]  # fmt: skip


def test_figures_by_hand():
    both, labels, predicted = zip(*PAIRS, strict=True)
    found = figures_by_group({"gender": both}, labels, predicted, strangers(len(PAIRS)))
    by_hand = {
        ("all", ""): ((20, 25), (2, 10), (3, 15)),
        ("group", "f"): ((3, 6), (1, 4), (2, 2)),
        ("group", "m"): ((9, 9), (0, 5), (0, 4)),
        ("mixed", ""): ((6, 7), (0, 0), (1, 7)),
        ("unknown", ""): ((2, 3), (1, 1), (0, 2)),
    }
    assert list(dict.fromkeys((row.kind, row.group) for row in found)) == list(by_hand)
    for row in found:
        cases, pairs = by_hand[row.kind, row.group][("acc", "fnmr", "fmr").index(row.figure)]
        assert (row.cases, row.pairs, row.people) == (cases, pairs, 2 * pairs)
        assert row.too_few
        if pairs:
            assert row.share == cases / pairs
            assert (row.low, row.high) == wilson(cases, pairs)
        else:
            assert math.isnan(row.share)
            assert math.isnan(row.low)


@pytest.mark.parametrize("pairs", [LEAST - 1, LEAST])
def test_a_group_is_too_small_by_its_pairs_or_its_people(pairs):
    both, labels = [("f", "f")] * pairs, [1] * pairs
    own = figures_by_group({"gender": both}, labels, labels, [(k, k) for k in range(pairs)])
    shared = figures_by_group({"gender": both}, labels, labels, [(k % 5, k % 5) for k in range(pairs)])
    assert [row.too_few for row in own if row.kind == "group"][:2] == [pairs < LEAST] * 2
    assert all(row.too_few for row in shared)


def test_the_rule_of_three():
    """Without an error, the groups that are just large enough reach to about 10 %."""
    assert 0.9**LEAST < 0.05 < 0.9 ** (LEAST - 2)


def test_intervals_are_over_people_if_all_pairs_come_from_few():
    rng = np.random.default_rng(0)
    people = [(int(k), int(k)) for k in rng.integers(0, 40, 600)]
    both = [("f", "f") if one < 3 else ("m", "m") for one, _ in people]
    predicted = rng.random(600) < 0.8
    found = figures_by_group({"gender": both}, [1] * 600, predicted, people)
    row = next(row for row in found if (row.group, row.figure) == ("f", "fnmr"))
    rows = [k for k in range(600) if both[k] == ("f", "f")]
    alone = share_interval(~predicted[rows], [people[k] for k in rows], over_people=True)
    assert (row.low, row.high) == alone
    assert row.people == 3
    assert row.too_few


def test_newcombes_example():
    """Newcombe 1998, table II, method 10: 56 of 70 against 48 of 80."""
    assert difference_interval(56 / 70, wilson(56, 70), 48 / 80, wilson(48, 80)) == pytest.approx(
        (0.0524, 0.3339), abs=5e-5
    )


def groups_of(rates, n, rng):
    """Same pairs in groups with these false non-match rates."""
    both = [(name, name) for name in rates for _ in range(n)]
    wrong = [rng.random() < rate for rate in rates.values() for _ in range(n)]
    return both, [1] * len(both), [not one for one in wrong]


def differences(attributes, labels, predicted):
    found = figures_by_group(attributes, labels, predicted, strangers(len(labels)))
    return [row for row in found if row.kind == "difference"], comparisons(found)


def test_a_difference_is_between_the_extreme_groups_and_wider_with_more_comparisons():
    both, labels, predicted = groups_of({"a": 0.1, "b": 0.5, "c": 0.3}, 200, np.random.default_rng(0))
    [alone], number = differences({"x": both}, labels, predicted)
    assert (alone.group, alone.minus, alone.figure, number) == ("b", "a", "fnmr", 3)
    assert 0.25 < alone.low < alone.share < alone.high
    [first, second], number = differences({"x": both, "y": both}, labels, predicted)
    assert number == 6
    assert first.low < alone.low < alone.high < first.high
    assert second.attribute == "y"


def test_equal_groups_seldom_differ():
    rng = np.random.default_rng(0)
    rates = dict.fromkeys("abcde", 0.2)
    low = [differences({"x": (drawn := groups_of(rates, 60, rng))[0]}, *drawn[1:])[0][0].low for _ in range(200)]
    assert np.mean(np.array(low) <= 0) > 0.94
