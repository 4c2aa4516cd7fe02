"""Samplers: batches of listed pairs, of pairs formed from names, and of groups of images of one person."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from configs import section
from hypothesis import given
from hypothesis import strategies as st

from siamese.data.sampling import GroupBatchSampler, NamedPairSampler, PairBatchSampler, groups_of_pairs

PEOPLE = [np.array(rows) for rows in ([0, 1, 2], [3], [4, 5], [6], list(range(7, 37)))]
OWNER = {int(row): person for person, rows in enumerate(PEOPLE) for row in rows}


# --- listed pairs -----------------------------------------------------------------------------------------


def listed(pairs: int, shuffle: bool = True, seed: int = 0) -> PairBatchSampler:
    indices = torch.arange(pairs)[:, None] + torch.tensor([0, 1])
    return PairBatchSampler(indices, torch.arange(pairs) % 2, 8, shuffle, seed)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17])
def test_an_epoch_has_every_pair_once_and_no_batch_of_one(n: int) -> None:
    batches = list(listed(n, seed=3))
    assert len(batches) == len(listed(n))
    indices, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert sorted(indices[:, 0].tolist()) == list(range(n))
    assert torch.equal(indices[:, 0] % 2, labels)
    assert n == 1 or min(len(labels) for _, labels in batches) > 1


def test_order_depends_only_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = listed(50, seed=seed)
        sampler.set_epoch(epoch)
        return [int(i) for indices, _ in sampler for i in indices[:, 0]]

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1) != order(1, 1)


# --- images of known people -------------------------------------------------------------------------------


def sampler(kind: type, batch_size: int = 4, seed: int = 0, **options: int):
    return kind(PEOPLE, batch_size, section("sampling", **options), seed)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_groups_are_images_of_one_person_each(size: int) -> None:
    batches = list(sampler(GroupBatchSampler, batch_size=6, images_per_person=size))
    assert len(batches) == len(sampler(GroupBatchSampler, batch_size=6, images_per_person=size))
    for rows, groups in batches:
        assert len(rows) == len(groups) == 12 // size * size
        assert [OWNER[row] for row in rows.tolist()] == groups.tolist()
        for one in rows.reshape(-1, size).tolist():
            images = len(PEOPLE[OWNER[one[0]]])
            assert len(set(one)) == min(size, images)


def test_an_epoch_shows_nobody_more_often_than_allowed_and_another_epoch_others() -> None:
    kind = sampler(GroupBatchSampler, batch_size=2, max_images=6)
    shown = []
    for epoch in range(2):
        kind.set_epoch(epoch)
        shown.append([row for rows, _ in kind for row in rows.tolist()])
    assert Counter(OWNER[row] for row in shown[0])[4] <= 6
    assert shown[0] != shown[1]
    kind.set_epoch(0)
    assert [row for rows, _ in kind for row in rows.tolist()] == shown[0]


def test_pairs_by_name_are_what_their_label_says_half_of_each() -> None:
    kind = sampler(NamedPairSampler)
    batches = list(kind)
    assert len(batches) == len(kind)
    pairs = torch.cat([indices for indices, _ in batches]).tolist()
    labels = torch.cat([labels for _, labels in batches]).tolist()
    assert [int(OWNER[a] == OWNER[b]) for a, b in pairs] == labels
    assert all(a != b for a, b in pairs)
    assert sum(labels) * 2 == len(labels) == 2 * (1 + 0 + 1 + 0 + 10)
    same = [row for pair, label in zip(pairs, labels, strict=True) if label for row in pair]
    assert len(same) == len(set(same))
    assert max(len(labels) for _, labels in batches) <= 5
    kind.set_epoch(1)
    assert torch.cat([indices for indices, _ in kind]).tolist() != pairs


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=12))
def test_groups_of_pairs_are_the_closure_of_the_same_ones(pairs: list[tuple[int, int, int]]) -> None:
    indices = torch.tensor([pair[:2] for pair in pairs])
    labels = torch.tensor([pair[2] for pair in pairs])
    images = indices.T.reshape(-1).tolist()
    linked = np.eye(9, dtype=bool)
    for a, b, label in pairs:
        linked[a, b] |= label == 1
        linked[b, a] |= label == 1
    for _ in range(4):
        linked = linked @ linked
    groups = groups_of_pairs(indices, labels).tolist()
    assert [[g == h for h in groups] for g in groups] == [[linked[a, b] for b in images] for a in images]
