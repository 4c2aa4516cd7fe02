"""The batches that training gets: which images, as floats, resumable in the middle of an epoch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from configs import section

from siamese.data.dataset import PairDataset, load_dataset, to_float
from siamese.training.data_module import BatchLoader, GroupBatch, PairBatch, PairDataModule

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["restricted", "unrestricted"])
def dataset(request: pytest.FixtureRequest, tiny_data: dict[str, object]) -> PairDataset:
    return load_dataset(section("data", **tiny_data), section("protocol", name="view1", setting=request.param))


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
