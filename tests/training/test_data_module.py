"""The batches that training gets: which images, as floats, resumable in the middle of an epoch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import section

from siamese.data.dataset import PairDataset, load_dataset, to_float
from siamese.data.image_cache import load_images
from siamese.data.pixels import Pixels
from siamese.training.data_module import (
    BatchLoader,
    GroupBatch,
    GroupIndices,
    PairBatch,
    PairDataModule,
    PairIndices,
    on_device,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["restricted", "unrestricted"])
def dataset(request: pytest.FixtureRequest, tiny_data: dict[str, object]) -> PairDataset:
    data = load_dataset(section("data", **tiny_data), section("protocol", name="view1", setting=request.param))
    data.pixels = data.pixels.to("cpu")  # in memory, as on a GPU
    return data


def module(dataset: PairDataset, **options: Any) -> PairDataModule:
    return PairDataModule(dataset, 4, 0, sampling=section("sampling"), **options)


@pytest.mark.parametrize("groups", [False, True])
def test_training_batches_have_only_training_images(dataset: PairDataset, groups: bool) -> None:
    loader, rows = module(dataset, groups=groups).train_dataloader(), set()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            rows |= set(batch[0].reshape(-1).tolist())
    if dataset.people is None:
        assert rows == set(dataset.train.indices.reshape(-1).tolist())
    else:
        assert rows <= {int(row) for images in dataset.people for row in images}


@pytest.mark.parametrize("groups", [False, True])
def test_images_are_gathered_as_floats(dataset: PairDataset, groups: bool) -> None:
    data = module(dataset, groups=groups)
    indices = next(iter(data.train_dataloader()))
    batch = data.transfer_batch_to_device(indices, CPU, 0)
    if isinstance(batch, PairBatch):
        assert not groups
        assert torch.equal(batch.image2, to_float(dataset.pixels[indices[0][:, 1]]))
        assert torch.equal(batch.label, indices[1].float())
        return
    assert groups
    assert isinstance(batch, GroupBatch)
    assert torch.equal(batch.images, to_float(dataset.pixels[indices[0]]))
    if dataset.people is None:
        assert torch.equal(batch.groups[:4] == batch.groups[4:], batch.label == 1)
    else:
        assert len(batch.label) == 0


def test_without_chains_only_the_labels_say_who_is_the_same(dataset: PairDataset) -> None:
    if dataset.people is not None:
        pytest.skip("batches of named people have no listed pairs")
    listed = set(zip(*dataset.train.indices.T.tolist(), dataset.train.labels.tolist(), strict=True))
    found = set()
    for rows, groups, labels in module(dataset, groups=True, chain_pairs=False).train_dataloader():
        assert torch.equal(rows, groups)
        found |= set(zip(*rows.view(2, -1).tolist(), labels.tolist(), strict=True))
    assert found == listed


@pytest.mark.parametrize("groups", [False, True])
def test_images_read_from_disk_give_the_same_batches(
    dataset: PairDataset, tiny_data: dict[str, object], groups: bool
) -> None:
    """Also if an epoch is interrupted while a thread is some batches ahead."""
    stored = load_images(Path(str(tiny_data["root"])) / "lfw", dataset.images.names, section("data", **tiny_data))
    assert isinstance(stored.pixels, Pixels)
    in_memory, on_disk = (
        module(data, groups=groups, limit_batches=3)
        for data in (dataset, dataclasses.replace(dataset, pixels=stored.pixels))
    )
    for make in (PairDataModule.train_dataloader, PairDataModule.val_dataloader):
        one, other = make(in_memory), make(on_disk)
        assert not isinstance(next(iter(other)), PairIndices | GroupIndices)
        other.load_state_dict({"given": 0})
        for epoch in range(2):
            for loader in (one, other):
                getattr(loader.sampler, "set_epoch", int)(epoch)
            expected = [in_memory.transfer_batch_to_device(batch, CPU, 0) for batch in one]
            found = []
            for batch in other:
                found.append(on_disk.transfer_batch_to_device(batch, CPU, 0))
                if len(found) == 1:
                    break
            resumed = make(on_disk)
            resumed.load_state_dict(other.state_dict())
            getattr(resumed.sampler, "set_epoch", int)(epoch)
            found += [on_disk.transfer_batch_to_device(batch, CPU, 0) for batch in resumed]
            other.load_state_dict({"given": 0})
            assert len(found) == len(expected)
            for one_batch, other_batch in zip(found, expected, strict=True):
                assert all(map(torch.equal, one_batch, other_batch))


def test_images_that_do_not_fit_stay_on_disk(dataset: PairDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision alone; `tests/training/test_gpu.py` trains on a GPU."""
    gpu = torch.device("cuda")
    images = Pixels((1, 4, 4), [], np.zeros((10, 2), np.int64), lambda number, reason: pytest.fail(reason))
    monkeypatch.setattr(Pixels, "to", lambda self, device: torch.empty(self.shape))
    for free, fits in ((320, True), (319, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert (on_device(images, gpu) is not images) == fits
    assert on_device(images, CPU) is images
    assert on_device(dataset.pixels, gpu) is dataset.pixels


def test_evaluation_batches_are_the_pairs_in_order(dataset: PairDataset) -> None:
    data = module(dataset)
    for loader, pairs in ((data.val_dataloader(), dataset.val), (data.test_dataloader(), dataset.test)):
        indices, labels = (torch.cat(part) for part in zip(*loader, strict=True))
        assert torch.equal(indices, pairs.indices)
        assert torch.equal(labels, pairs.labels)


@pytest.mark.parametrize(("limit", "batches"), [(None, 10), (3, 3), (99, 10), (0.5, 5), (0.01, 1)])
def test_an_epoch_can_be_limited(limit: float | None, batches: int) -> None:
    loader = BatchLoader([(k,) for k in range(10)], lambda k: k, limit)
    assert len(loader) == batches
    assert list(loader) == list(range(batches))


@pytest.mark.parametrize("limit", [None, 4])
def test_an_interrupted_epoch_continues_after_the_last_batch(limit: int | None) -> None:
    whole = list(range(5))[:limit]
    loader = BatchLoader([(k,) for k in range(5)], lambda k: k, limit)
    iterator = iter(loader)
    assert [next(iterator), next(iterator)] == [0, 1]
    resumed = BatchLoader([(k,) for k in range(5)], lambda k: k, limit)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == whole[2:]
    assert list(resumed) == whole
    assert resumed.state_dict() == {"given": 0}  # a complete epoch
    next(iter(resumed))
    assert list(resumed) == whole


def test_overfitting_repeats_the_same_batches(dataset: PairDataset) -> None:
    whole = len(module(dataset).train_dataloader())
    batches = list(module(dataset, overfit_batches=2).train_dataloader())
    assert len(batches) == whole
    assert all(torch.equal(batch[0], batches[k % 2][0]) for k, batch in enumerate(batches))
