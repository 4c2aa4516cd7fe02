"""The people and pairs of the synthetic data set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from siamese.data.synthetic.plan import SyntheticSpec, make_plan
from siamese.errors import ConfigError


def photos_of(row: tuple[str | int, ...]) -> tuple[tuple[str | int, str | int], tuple[str | int, str | int]]:
    name, i, *rest = row
    return ((name, i), (name, rest[0])) if len(rest) == 1 else ((name, i), (rest[0], rest[1]))


def test_pairs_are_spread_over_people_and_photos():
    plan = make_plan(SyntheticSpec())
    same, different = plan.train_pairs
    per_person = Counter(name for name, _, _ in same)
    uses = Counter(photo for row in (*same, *different) for photo in photos_of(row))
    assert len(per_person) == len(plan.train)
    assert max(uses.values()) <= 5
    assert np.mean(list(uses.values())) < 2.5


@pytest.mark.parametrize("people", [2, 18])
def test_people_get_more_photos_if_there_are_many_pairs(people):
    spec = SyntheticSpec(train_people=people, test_people=20 - people, train_pairs=300, test_pairs=60, view2_pairs=200)
    plan = make_plan(spec)
    assert [len(part) for part in (*plan.train_pairs, *plan.test_pairs)] == [150, 150, 30, 30]
    assert {len(part) for fold in plan.fold_pairs for part in fold} == {10}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_pairs", 7),
        ("test_pairs", 0),
        ("view2_pairs", 30),
        ("train_people", 1),
        ("test_people", 10**6),
        ("seed", -1),
    ],
)
def test_invalid_numbers(key, value):
    with pytest.raises(ConfigError, match=key):
        SyntheticSpec(**{key: value})
