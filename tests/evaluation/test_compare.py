"""Comparisons of two classifiers on the same pairs, against counts by hand and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese.evaluation.compare import accuracy_difference, mcnemar
from siamese.evaluation.people import NumberedPeople


def test_people_that_are_prepared_once_give_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    people = [(f"p{a}", f"p{b}") for a, b in rng.integers(0, 12, (300, 2))]
    first, second = rng.random((2, 300)) < 0.8, rng.random((3, 300)) < 0.7
    assert accuracy_difference(NumberedPeople(people), first, second) == accuracy_difference(people, first, second)


def test_mcnemar_by_hand() -> None:
    # Three pairs to the first, one to the second: (C(4,0) + C(4,1)) / 2^4, twice.
    first = np.array([1, 1, 1, 0, 1, 0], bool)
    second = np.array([0, 0, 0, 1, 1, 0], bool)
    assert mcnemar(first, second) == (3, 1, pytest.approx(2 * 5 / 16))
    assert mcnemar(first, first) == (0, 0, 1.0)
    # Ten to none: 2 / 2^10.
    assert mcnemar(np.ones(10), np.zeros(10)) == (10, 0, pytest.approx(2 / 1024))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_a_probability_and_symmetric(decisions: list[tuple[bool, bool]]) -> None:
    first, second = np.array(decisions).T
    found, mirrored = mcnemar(first, second), mcnemar(second, first)
    assert 0 < found.p <= 1
    assert (found.only_first, found.only_second, found.p) == (mirrored.only_second, mirrored.only_first, mirrored.p)


@pytest.mark.parametrize(("only_first", "only_second"), [(1, 0), (3, 5), (40, 61), (480, 520), (900, 1300)])
def test_mcnemar_is_exact_for_many_pairs(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    first = np.arange(n) < only_first
    assert mcnemar(first, ~first).p == pytest.approx(2 * tail / 2**n, rel=1e-11)


def test_mcnemar_rejects_at_its_level() -> None:
    rng = np.random.default_rng(0)
    found = [mcnemar(rng.random(300) < 0.7, rng.random(300) < 0.7).p for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) <= 0.07  # exact tests reject slightly less often


def test_thousands_of_pairs_do_not_overflow() -> None:
    assert mcnemar(np.ones(3000), np.zeros(3000)).p < 1e-300
    assert mcnemar(np.arange(3000) % 2, np.arange(1, 3001) % 2).p == 1.0


def draw_people(rng: np.random.Generator, pairs: int, people: int) -> list[tuple[int, int]]:
    ends = rng.integers(0, people, (pairs, 2))
    ends[: pairs // 2, 1] = ends[: pairs // 2, 0]
    return [(int(a), int(b)) for a, b in ends]


def test_the_interval_is_centred_on_the_difference() -> None:
    rng = np.random.default_rng(1)
    people = draw_people(rng, 1000, 400)
    first, second = rng.random(1000) < 0.8, rng.random(1000) < 0.7
    low, high = accuracy_difference(people, first, second)
    assert (low + high) / 2 == pytest.approx(first.mean() - second.mean())
    assert low > 0  # ten percentage points are significant with a thousand pairs
    assert accuracy_difference(people, second, first) == pytest.approx((-high, -low))
    assert accuracy_difference(people, first, first) == (0.0, 0.0)


def test_the_variance_lets_pairs_that_share_a_person_depend_on_each_other() -> None:
    """The explicit sum over all pairs of pairs; two of them show the same two people, one is a same pair."""
    people = [("a", "b"), ("b", "a"), ("a", "a"), ("a", "c"), ("d", "e"), ("c", "d")]
    first, second = np.array([1, 1, 1, 1, 0, 0], bool), np.zeros(6, bool)
    residual = first - first.mean()
    variance = sum(
        residual[p] * residual[q] for p in range(6) for q in range(6) if set(people[p]) & set(people[q])
    ) / 36  # fmt: skip
    assert variance > (residual**2).sum() / 36
    # 2.776445: Student's t of 4 degrees of freedom, one less than there are people. 5 / 3: few people.
    half = 2.776445 * (variance * 5 / 3) ** 0.5
    assert accuracy_difference(people, first, second) == pytest.approx((first.mean() - half, 1.0), rel=1e-5)


def test_errors_that_depend_on_the_person_widen_it() -> None:
    rng = np.random.default_rng(2)
    people = [(i // 20, i // 20) for i in range(1000)]  # fifty people, twenty pairs each
    by_person = np.repeat(rng.random(50) < 0.5, 20)
    nothing = np.zeros(1000, bool)
    together = accuracy_difference(people, by_person, nothing)
    apart = accuracy_difference(people, rng.permutation(by_person), nothing)
    assert together.high - together.low > 3 * (apart.high - apart.low)


def test_seeds_that_differ_widen_it() -> None:
    rng = np.random.default_rng(3)
    people = draw_people(rng, 600, 300)
    runs = np.array([rng.random(600) < rate for rate in (0.55, 0.65, 0.75, 0.85)])
    other = rng.random((4, 600)) < 0.7
    alike = np.array([rng.permutation(row) for row in rng.random((4, 600)) < 0.7])
    wide, narrow = (accuracy_difference(people, rows, other) for rows in (runs, alike))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


@pytest.mark.parametrize(
    ("seeds", "person", "seed_effect"), [(1, 0.0, 0.0), (1, 0.9, 0.0), (3, 0.9, 0.0), (3, 0.9, 0.1), (8, 0.6, 0.2)]
)
def test_the_interval_contains_the_truth_at_its_level(seeds: int, person: float, seed_effect: float) -> None:
    """Not less often, and not almost always. As in LFW's lists, most people are in one or two pairs."""
    rng = np.random.default_rng(4)
    people = draw_people(rng, 1000, 960)
    first_of, second_of = np.array(people).T
    held, widths, found = 0, [], []
    for _ in range(300):
        hard = rng.normal(0, 1.0, 1000)  # difficulty of a pair, for both classifiers
        rows = []
        for _ in range(2):
            effect = rng.normal(0, person, 960)  # of a person, for this classifier
            logit = 0.9 + hard + (effect[first_of] + effect[second_of]) / 2 + rng.normal(0, 0.8, 1000)
            logit = logit + rng.normal(0, seed_effect, (seeds, 1)) + rng.normal(0, 0.5, (seeds, 1000))
            rows.append(rng.random((seeds, 1000)) < 1 / (1 + np.exp(-logit)))
        low, high = accuracy_difference(people, *rows)
        held += low <= 0 <= high
        widths.append((high - low) / 2)
        found.append(rows[0].mean() - rows[1].mean())
    assert 0.92 <= held / 300 <= 0.993
    assert np.mean(widths) < 2.8 * np.std(found)


@pytest.mark.parametrize(
    ("first", "second", "people"),
    [
        ([], [], []),
        ([1, 0], [1], [(0, 1)] * 2),
        ([1, 0], [1, 0], [(0, 1)]),
        ([2, 0], [1, 0], [(0, 1)] * 2),
    ],
)
def test_decisions_on_different_pairs_are_an_error(
    first: list[int], second: list[int], people: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match=r"pairs|decisions"):
        accuracy_difference(people, first, second)
