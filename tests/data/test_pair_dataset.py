"""Loading a data set: who is in which set, unusable images, warnings (`siamese.data.dataset`)."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import section
from conftest import TINY, read_rows

from siamese.config.protocol import View1Protocol
from siamese.data.dataset import PairDataset, load_dataset, to_float
from siamese.data.images import decode
from siamese.data.lists import Pair, people_of, person_of
from siamese.errors import DataError

RESTRICTED = section("protocol", name="view1")
UNRESTRICTED = section("protocol", name="view1", setting="unrestricted")


def load(tiny_data: dict[str, object], protocol: View1Protocol = RESTRICTED, **options: object) -> PairDataset:
    sampling = section("sampling", min_images=options.pop("min_images", 1))
    return load_dataset(section("data", **tiny_data | options), protocol, sampling)


def trained_images(data: PairDataset) -> set[str]:
    """The names of all images that training may use."""
    rows = data.train.indices.reshape(-1).tolist() if data.people is None else np.concatenate(data.people)
    return {data.images.names[row] for row in rows}


def images_of(pairs: list[Pair]) -> set[str]:
    return {name for pair in pairs for name in pair[:2]}


def people_in(names: set[str]) -> set[str]:
    return {person_of(name) for name in names}


def test_pairs_point_to_the_decoded_images(tiny_data: dict[str, object]) -> None:
    data = load(tiny_data)
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, TINY.test_pairs)
    assert int(data.val.labels.sum()) == 3
    assert data.pixels.shape[1:] == (1, 65, 65)
    config = section("data", **tiny_data)
    for pair, (first, second), label in zip(data.test.pairs, data.test.indices, data.test.labels, strict=True):
        assert (data.images.names[first], data.images.names[second], int(label)) == pair
    name = data.test.pairs[1].image2
    expected = decode(Path(config.root) / "lfw" / name, config)
    np.testing.assert_array_equal(data.pixels[data.test.indices[1, 1]].numpy(), expected)


def test_to_float_is_between_0_and_1() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("split", ["pairs", "people"])
@pytest.mark.parametrize("protocol", [RESTRICTED, UNRESTRICTED], ids=lambda protocol: protocol.setting)
def test_training_has_no_test_people_and_nothing_of_validation(
    tiny_data: dict[str, object], protocol: View1Protocol, split: str
) -> None:
    data = load(tiny_data, protocol, split=split)
    trained = trained_images(data)
    assert not people_in(trained) & people_of(data.test.pairs)
    if split == "people":
        assert not people_in(trained) & people_of(data.val.pairs)
    if protocol.setting == "unrestricted":
        assert not trained & images_of(data.val.pairs)
        assert trained - images_of(data.train.pairs)


def test_people_with_few_images_can_be_excluded(tiny_data: dict[str, object]) -> None:
    everyone, several = load(tiny_data, UNRESTRICTED).people, load(tiny_data, UNRESTRICTED, min_images=3).people
    assert everyone is not None
    assert several is not None
    assert sorted(map(len, several)) == sorted(len(rows) for rows in everyone if len(rows) >= 3)
    with pytest.raises(DataError, match=r"sampling\.min_images=50"):
        load(tiny_data, UNRESTRICTED, min_images=50)


@pytest.mark.parametrize("protocol", [RESTRICTED, UNRESTRICTED], ids=lambda protocol: protocol.setting)
def test_the_cohort_has_no_people_that_are_scored(tiny_data: dict[str, object], protocol: View1Protocol) -> None:
    data = load(tiny_data, protocol, split="people", min_images=3)
    cohort = [data.images.names[row] for row in data.cohort]
    assert cohort
    assert not people_in(set(cohort)) & (people_of(data.test.pairs) | people_of(data.val.pairs))
    if protocol.setting == "restricted":
        assert set(cohort) == images_of(data.train.pairs)
    else:
        everyone = load(tiny_data, protocol, split="people").people
        assert everyone is not None
        assert len(cohort) == len(everyone)
        assert all(sum(row in rows for row in data.cohort) == 1 for rows in everyone)


def test_people_in_both_lists_of_pairs_are_a_warning(
    tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    for file in tiny_root.iterdir():
        name = "pairsDevTrain.txt" if file.name == "pairsDevTest.txt" else file.name
        (root / file.name).symlink_to(tiny_root / name)
    load(tiny_data, root=str(root))
    assert "people are in both pairsDevTrain.txt and pairsDevTest.txt" in caplog.text


def test_pairs_with_unusable_images_are_dropped(
    tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_root, root)
    data = load(tiny_data)
    victim = data.test.pairs[0].image1
    (root / "lfw" / victim).write_bytes(b"broken")
    hit = [pair for pair in data.test.pairs if victim in pair[:2]]
    config = section("data", **tiny_data | {"root": str(root), "cache": str(tmp_path / "cache")})
    with caplog.at_level(logging.WARNING):
        damaged = load_dataset(config, excluded=tmp_path / "excluded.csv")
    assert damaged.test.pairs == [pair for pair in data.test.pairs if pair not in hit]
    assert list(damaged.images.excluded) == [victim]
    assert f"1 image file could not be used (see excluded.csv; for example {victim}: not an image" in caplog.text
    assert f"pairs: 0 of 30 in pairsDevTrain.txt, {len(hit)} of {TINY.test_pairs} in pairsDevTest.txt" in caplog.text
    assert [row["file"] for row in read_rows(tmp_path / "excluded.csv")] == [victim]


def test_a_list_without_usable_pairs_is_an_error(tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_root, root)
    for image in (root / "lfw").rglob("*.jpg"):
        image.write_bytes(b"")
    config = section("data", **tiny_data | {"root": str(root), "cache": str(tmp_path / "cache")})
    with pytest.raises(DataError, match=r"usable pairs in pairsDevTrain\.txt \(0 of 30\) need .*not an image"):
        load_dataset(config, excluded=tmp_path / "excluded.csv")
    assert read_rows(tmp_path / "excluded.csv")
