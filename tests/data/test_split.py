"""The split of pairs into training and validation: of pairs (stratified), and of people."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from configs import image_options
from hypothesis import given
from hypothesis import strategies as st

from siamese.data.lists import Pair, person_of, read_pairs
from siamese.data.split import PairPeople, _one_by_one, people_split, stratified_split, validation_split
from siamese.errors import DataError


def people_of(pairs: list[Pair], rows: np.ndarray) -> set[str]:
    return {person_of(name) for k in rows for name in pairs[k][:2]}


# --- data.split=pairs -------------------------------------------------------------------------------------


@given(st.integers(5, 60), st.integers(5, 60), st.floats(0.1, 0.9), st.integers(0, 2**32))
def test_split_is_a_stratified_partition(ones: int, zeros: int, fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation([1] * ones + [0] * zeros)
    try:
        train, validation = stratified_split(labels, fraction, seed)
    except DataError:
        assert min(round(fraction * n) for n in (ones, zeros)) == 0 or any(
            round(fraction * n) == n for n in (ones, zeros)
        )
        return
    assert sorted([*train, *validation]) == list(range(ones + zeros))
    assert labels[validation].sum() == round(fraction * ones)
    assert len(validation) == round(fraction * ones) + round(fraction * zeros)
    again = stratified_split(labels, fraction, seed)
    assert np.array_equal(again[1], validation)


def test_split_of_view_1_has_the_sizes_of_the_course_report() -> None:
    labels = np.array([1] * 1100 + [0] * 1100)
    train, validation = stratified_split(labels, 0.2, 0)
    assert (len(train), len(validation), labels[train].sum()) == (1760, 440, 880)
    assert not np.array_equal(stratified_split(labels, 0.2, 1)[1], validation)


# --- data.split=people ------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.2, 0.4]))
def test_people_split_shares_nobody(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    pairs = [Pair(f"{p}/a", f"{p}/b", 1) for p in rng.integers(60, size=40)]
    pairs += [Pair(f"{a}/a", f"{b}/a", 0) for a, b in rng.integers(60, size=(40, 2)) if a != b]
    train, validation = people_split(pairs, fraction, seed)
    assert not set(train) & set(validation)
    assert not people_of(pairs, train) & people_of(pairs, validation)
    for label in (0, 1):
        held = sum(pairs[k].label == label for k in validation)
        assert 0 < held <= round(fraction * sum(pair.label == label for pair in pairs))
    assert np.array_equal(people_split(pairs, fraction, seed)[1], validation)


def slow_one_by_one(
    pair_people: PairPeople, labels: np.ndarray, wanted: np.ndarray, rng: np.random.Generator
) -> set[str]:
    """Reference: compares all people who are still outside for each person who goes inside."""
    tied: dict[str, dict[str, int]] = {}
    same: dict[str, int] = {}
    for (one, other), label in zip(pair_people, labels.tolist(), strict=True):
        for x, y in dict.fromkeys([(one, other), (other, one)]):
            tied.setdefault(x, {})
            if label == 0:
                tied[x][y] = tied[x].get(y, 0) + 1
        same[one] = same.get(one, 0) + label
    order = [list(tied)[k] for k in rng.permutation(len(tied))]
    inside: set[str] = set()
    taken = np.zeros(2, int)

    def ties(person: str) -> int:
        return sum(-number if other in inside else number for other, number in tied[person].items())

    while (taken < wanted).any() and len(inside) < len(order) - 2:
        person = min((p for p in order if p not in inside), key=ties)
        taken += [sum(number for other, number in tied[person].items() if other in inside), same.get(person, 0)]
        inside.add(person)
    return inside


@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 1)), min_size=2, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32),
)
def test_people_go_inside_in_the_order_of_the_slow_reference(
    pairs: list[tuple[int, int, int]], fraction: float, seed: int
) -> None:
    pair_people = [(f"p{a}", f"p{a if label else b}") for a, b, label in pairs]  # a different pair of one person, too
    labels = np.array([label for *_, label in pairs])
    wanted = np.rint(fraction * np.bincount(labels, minlength=2)).astype(int)
    fast, slow = np.random.default_rng(seed), np.random.default_rng(seed)
    assert _one_by_one(pair_people, labels, wanted, fast) == slow_one_by_one(pair_people, labels, wanted, slow)
    assert fast.random() == slow.random()  # the surplus is drawn with the same generator


def test_people_split_of_a_chain_cuts_it_once() -> None:
    pairs = [Pair(f"{k}/a", f"{k + 1}/a", 0) for k in range(40)] + [Pair(f"{k}/a", f"{k}/b", 1) for k in range(40)]
    train, validation = people_split(pairs, 0.2, 0)
    assert sum(pairs[k].label == 0 for k in validation) == 8
    assert sum(pairs[k].label == 0 for k in train) == 40 - 8 - 1


def test_people_who_cannot_be_kept_apart_are_an_error() -> None:
    pairs = [Pair(f"{a}/a", f"{b}/a", 0) for a in range(4) for b in range(a)] + [Pair("0/a", "0/b", 1)] * 5
    with pytest.raises(
        DataError, match=r"data\.val_fraction=0\.2: .* no person is in both parts.*set data\.split=pairs"
    ):
        people_split(pairs, 0.2, 0)


@pytest.mark.integration
def test_the_split_of_connected_people_is_the_same_in_every_process() -> None:
    code = (
        "from siamese.data.split import people_split; from siamese.data.lists import Pair\n"
        "same = [Pair(f'p{k}/1.jpg', f'p{k}/2.jpg', 1) for k in range(40)]\n"
        "different = [Pair(f'p{k}/1.jpg', f'p{(k * 7 + 1) % 40}/2.jpg', 0) for k in range(40)]\n"
        "print([part.tolist() for part in people_split(same + different, 0.2, 0)])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1


def test_the_error_names_the_key_of_the_fraction() -> None:
    pairs = [Pair("a.png", "b.png", 1), Pair("a.png", "c.png", 0)]
    with pytest.raises(DataError, match=r"data\.test_fraction=0\.2: .* no person is in both parts"):
        people_split(pairs, 0.2, 0, key="data.test_fraction")


def test_dropped_pairs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [Pair(f"{k}/a", f"{k + 1}/a", 0) for k in range(40)] + [Pair(f"{k}/a", f"{k}/b", 1) for k in range(40)]
    validation_split(pairs, image_options(split="people"))
    assert (
        "data.split=people: dropped 2 of 80 pairs, so that no person is in both training and validation" in caplog.text
    )


def test_real_pairs_split_by_people_lose_no_pair(lfw_root) -> None:
    pairs = read_pairs(lfw_root / "pairsDevTrain.txt")
    train, validation = people_split(pairs, 0.2, 0)
    assert (len(train), len(validation), sum(pairs[k].label for k in validation)) == (1760, 440, 220)
    assert not people_of(pairs, train) & people_of(pairs, validation)
