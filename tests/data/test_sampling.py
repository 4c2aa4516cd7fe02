"""What training sees: listed pairs, pairs and groups by names, and nobody of validation or test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamese.config.schema import LfwData, SamplingConfig, SyntheticData, View1Protocol, View2Protocol
from siamese.data.lists import Pair, person_of, read_pairs
from siamese.data.sampling import GroupBatchSampler, NamedPairSampler, groups_of_pairs
from siamese.data.sources import count_folds, read_listed, read_test_people
from siamese.data.split import people_split
from siamese.errors import DataError
from siamese.training.data_module import GroupBatch, PairBatch, PairDataModule

PEOPLE = [np.array(rows) for rows in ([0, 1, 2], [3], [4, 5], [6], list(range(7, 37)))]
OWNER = {int(row): person for person, rows in enumerate(PEOPLE) for row in rows}
UNRESTRICTED = View1Protocol(name="view1", setting="unrestricted")


def sampler(kind: type, batch_size: int = 4, seed: int = 0, **options: int):
    return kind(PEOPLE, batch_size, SamplingConfig(**options), seed)


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


# --- the split by people ----------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([0.1, 0.2, 0.4]))
def test_people_split_shares_nobody(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    pairs = [Pair(f"{p}/a", f"{p}/b", 1) for p in rng.integers(60, size=40)]
    pairs += [Pair(f"{a}/a", f"{b}/a", 0) for a, b in rng.integers(60, size=(40, 2)) if a != b]
    train, validation = people_split(pairs, fraction, seed)
    assert not set(train) & set(validation)
    people = [{person_of(name) for k in part for name in pairs[k][:2]} for part in (train, validation)]
    assert not people[0] & people[1]
    for label in (0, 1):
        held = sum(pairs[k].label == label for k in validation)
        assert 0 < held <= round(fraction * sum(pair.label == label for pair in pairs))
    assert np.array_equal(people_split(pairs, fraction, seed)[1], validation)


def test_people_split_of_a_chain_cuts_it_once() -> None:
    pairs = [Pair(f"{k}/a", f"{k + 1}/a", 0) for k in range(40)] + [Pair(f"{k}/a", f"{k}/b", 1) for k in range(40)]
    train, validation = people_split(pairs, 0.2, 0)
    assert sum(pairs[k].label == 0 for k in validation) == 8
    assert sum(pairs[k].label == 0 for k in train) == 40 - 8 - 1


def test_people_split_tells_when_nobody_can_be_parted() -> None:
    pairs = [Pair(f"{a}/a", f"{b}/a", 0) for a in range(4) for b in range(a)] + [Pair("0/a", "0/b", 1)] * 5
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.2.*people being kept apart.*give data\.split=pairs"):
        people_split(pairs, 0.2, 0)


# --- the data module --------------------------------------------------------------------------------------


def set_up(tiny_data: dict[str, object], **options: object) -> PairDataModule:
    data_options = {key: options.pop(key) for key in ("split", "val_fraction") if key in options}
    config = SyntheticData.model_validate({**tiny_data, **data_options})
    data = PairDataModule(config, 4, 0, **options)  # type: ignore[arg-type]
    data.setup()
    return data


def seen(data: PairDataModule) -> set[str]:
    """The names of all images in two epochs of training."""
    loader, rows = data.train_dataloader(), set()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            rows |= set(batch[0].reshape(-1).tolist())
    return {data.images.names[row] for row in rows}


def people(names: set[str]) -> set[str]:
    return {person_of(name) for name in names}


def of(pairs: list[Pair]) -> set[str]:
    return {name for pair in pairs for name in pair[:2]}


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("split", ["pairs", "people"])
@pytest.mark.parametrize("protocol", [View1Protocol(name="view1"), UNRESTRICTED])
def test_training_sees_nobody_of_test_or_held_out(
    tiny_data: dict[str, object], protocol: View1Protocol, split: str, groups: bool
) -> None:
    data = set_up(tiny_data, protocol=protocol, split=split, groups=groups)
    shown = seen(data)
    assert not people(shown) & people(of(data.test.pairs))
    if split == "people":
        assert not people(shown) & people(of(data.val.pairs))
    if protocol.setting == "restricted":
        assert shown == of(data.train.pairs)
    else:
        assert not shown & of(data.val.pairs)
        assert shown - of(data.train.pairs)


@pytest.mark.parametrize("setting", ["restricted", "unrestricted"])
def test_no_fold_of_view_2_is_trained_on_people_that_it_tests(tiny_data: dict[str, object], setting: str) -> None:
    config = SyntheticData.model_validate(tiny_data)
    tested = []
    for fold in range(1, count_folds(config) + 1):
        protocol = View2Protocol.model_validate({"name": "view2", "setting": setting, "fold": fold})
        data = set_up(tiny_data, protocol=protocol, groups=True)
        assert not people(seen(data)) & people(of(data.test.pairs))
        tested += data.test.pairs
    assert len(tested) == len(set(tested)) == 20


def test_batches_of_groups_hold_their_pairs_and_images(tiny_data: dict[str, object]) -> None:
    listed = set_up(tiny_data, groups=True)
    indices = next(iter(listed.train_dataloader()))
    batch = listed.transfer_batch_to_device(indices, torch.device("cpu"), 0)
    assert isinstance(batch, GroupBatch)
    assert batch.images.shape == (8, 1, 65, 65)
    assert torch.equal(batch.groups[:4] == batch.groups[4:], batch.label == 1)
    named = set_up(tiny_data, groups=True, protocol=UNRESTRICTED)
    batch = named.transfer_batch_to_device(next(iter(named.train_dataloader())), torch.device("cpu"), 0)
    assert isinstance(batch, GroupBatch)
    assert len(batch.label) == 0
    formed = set_up(tiny_data, protocol=UNRESTRICTED)
    assert isinstance(
        formed.transfer_batch_to_device(next(iter(formed.train_dataloader())), torch.device("cpu"), 0), PairBatch
    )


def test_people_with_few_images_can_be_left_out(tiny_data: dict[str, object]) -> None:
    everyone = set_up(tiny_data, protocol=UNRESTRICTED).people
    several = set_up(tiny_data, protocol=UNRESTRICTED, sampling=SamplingConfig(min_images=3)).people
    assert everyone is not None
    assert several is not None
    assert sorted(map(len, several)) == sorted(len(rows) for rows in everyone if len(rows) >= 3)
    with pytest.raises(DataError, match=r"sampling\.min_images=50"):
        set_up(tiny_data, protocol=UNRESTRICTED, sampling=SamplingConfig(min_images=50))


@pytest.mark.parametrize("protocol", [View1Protocol(name="view1"), UNRESTRICTED], ids=lambda protocol: protocol.setting)
def test_a_cohort_is_of_people_who_are_not_scored(tiny_data: dict[str, object], protocol: View1Protocol) -> None:
    data = set_up(tiny_data, protocol=protocol, split="people", sampling=SamplingConfig(min_images=3))
    cohort = [data.images.names[row] for row in data.cohort]
    scored = people(of(data.test.pairs)) | people(of(data.val.pairs))
    assert cohort
    assert not people(set(cohort)) & scored
    if protocol.setting == "restricted":
        assert set(cohort) == of(data.train.pairs)
    else:
        everyone = set_up(tiny_data, protocol=protocol, split="people").people
        assert everyone is not None
        assert len(cohort) == len(everyone)
        assert all(sum(row in rows for row in data.cohort) == 1 for rows in everyone)


def with_list(tiny_root: Path, tmp_path: Path, name: str, other: str) -> Path:
    """The tiny faces with one list in the place of another."""
    root = tmp_path / "mixed"
    root.mkdir()
    for file in tiny_root.iterdir():
        (root / file.name).symlink_to(tiny_root / (other if file.name == name else file.name))
    return root


def test_people_in_both_lists_are_refused(tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    root = with_list(tiny_root, tmp_path, "peopleDevTrain.txt", "peopleDevTest.txt")
    data = SyntheticData.model_validate({**tiny_data, "root": str(root)})
    with pytest.raises(DataError, match=r"peopleDevTrain\.txt: \d+ of its people are in the test pairs too"):
        read_listed(data, UNRESTRICTED)
    assert read_test_people(data)  # what was trained in the restricted setting has not seen them
    with pytest.raises(DataError, match=r"peopleDevTest\.txt: \d+ of its people are trained on too"):
        read_test_people(data, UNRESTRICTED)


def test_people_in_both_lists_of_pairs_are_warned_of(
    tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = with_list(tiny_root, tmp_path, "pairsDevTest.txt", "pairsDevTrain.txt")
    set_up({**tiny_data, "root": str(root)})
    assert "people are in pairsDevTrain.txt and in pairsDevTest.txt" in caplog.text


def test_a_fold_that_is_not_there_is_told(tiny_data: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"protocol\.fold=11: pairs\.txt has 10 folds"):
        read_listed(SyntheticData.model_validate(tiny_data), View2Protocol(name="view2", fold=11))


# --- the real lists ---------------------------------------------------------------------------------------


def test_real_view_1_shares_nobody(lfw_root) -> None:
    data = LfwData.model_validate({"name": "lfw_deepfunneled", "root": str(lfw_root)})
    listed = read_listed(data, UNRESTRICTED)
    assert listed.people is not None
    assert (len(listed.people), sum(map(len, listed.people.values()))) == (4038, 9525)
    test = read_test_people(data)
    assert (len(test), sum(map(len, test.values()))) == (1711, 3708)
    assert not set(listed.people) & set(test)
    assert people(of(listed.test)) <= set(test)
    assert people(of(listed.train)) <= set(listed.people)


def test_real_pairs_split_by_people_to_the_pair(lfw_root) -> None:
    pairs = read_pairs(lfw_root / "pairsDevTrain.txt")
    train, validation = people_split(pairs, 0.2, 0)
    assert (len(train), len(validation), sum(pairs[k].label for k in validation)) == (1760, 440, 220)
    assert not people(of([pairs[k] for k in train])) & people(of([pairs[k] for k in validation]))
