"""The LightningModule: the averaged weights, and that a network learns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from resuming import KINDS, assert_equal

from siamese.config.schema import TrainConfig
from siamese.data.dataset import load_dataset
from siamese.models.build import network_of
from siamese.objectives.pairs import BinaryCrossEntropy
from siamese.runs.folder import RunFolder
from siamese.runs.tables import read_history
from siamese.training.build import build_data_module, build_optimizer, build_scheduler
from siamese.training.data_module import BatchLoader, PairBatch, PairIndices
from siamese.training.module import MovingAverage, SiameseModule
from siamese.training.step_graph import Tensors, tensor_rates
from siamese.training.train import train

Make = Callable[..., TrainConfig]


def test_the_average_forgets_the_start_and_then_follows_with_the_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    average = MovingAverage(network, decay=0.25)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in average.parameters())
    expected = None
    for n in range(6):
        value = float(n * n)
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data.fill_(value)
        average.update_parameters(network)  # type: ignore[arg-type]
        keep = min(0.25, (1 + n) / (10 + n))
        expected = value if expected is None else keep * expected + (1 - keep) * value
        for tensor in (average.module[0].weight, average.module[1].running_var):
            assert tensor.flatten().tolist() == pytest.approx([expected] * tensor.numel())
        assert int(average.module[1].num_batches_tracked) == n * n


@pytest.mark.integration
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon", "sgd"])
def test_eight_pairs_are_overfitted(tiny_config: Make, tmp_path: Path, optimizer: str) -> None:
    config = tiny_config(
        optimizer={"name": optimizer}, learning_rate=0.05 if optimizer == "sgd" else 3e-3,
        scheduler={"name": "constant"},
        model={"name": "koch", "widths": [8, 8, 8, 16], "embedding_dim": 32, "batchnorm": True},
    )  # fmt: skip
    torch.manual_seed(0)
    data = load_dataset(config.data, config.protocol, config.sampling)
    network = network_of(config)
    module = SiameseModule(
        network, BinaryCrossEntropy(), partial(build_optimizer, config), partial(build_scheduler, config)
    )
    rows = torch.tensor([0, 1, 2, 3, -1, -2, -3, -4])
    indices = PairIndices(data.train.indices[rows], data.train.labels[rows])
    batches = build_data_module(config, data)
    batches.train_dataloader = lambda: BatchLoader([indices] * 60, PairIndices)  # type: ignore[method-assign]
    batches.val_dataloader = lambda: []  # type: ignore[method-assign, assignment, return-value]
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=batches)
    batch = batches.transfer_batch_to_device(indices, torch.device("cpu"), 0)
    assert isinstance(batch, PairBatch)
    assert sorted(batch.label.tolist()) == [0, 0, 0, 0, 1, 1, 1, 1]
    with torch.no_grad():
        logits = network.train()(batch.image1, batch.image2)
    assert ((logits > 0) == batch.label.bool()).all()
    assert float(BinaryCrossEntropy()(logits, batch.label)) < 0.1


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_as_one_call_trains_like_lightnings_own(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What a CUDA graph records, called directly, on the CPU; `tests/training/test_gpu.py` records it."""

    class Once:
        calls = 0

        def __init__(self, step: Callable[[Tensors], Tensors], optimizer: object, device: torch.device) -> None:
            self.step = step

        def __call__(self, inputs: Tensors) -> Tensors:
            Once.calls += 1
            return self.step(inputs)

    options = {"max_epochs": 2, "batch_size": 4, **KINDS[kind]}
    train(tiny_config(**options), RunFolder(tmp_path / "lightning"))
    monkeypatch.setattr("siamese.training.module.StepGraphs", Once)
    monkeypatch.setattr(SiameseModule, "_graphed", True)
    train(tiny_config(**options), RunFolder(tmp_path / "whole"))
    assert Once.calls
    assert_equal(tmp_path / "whole", tmp_path / "lightning")


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon", "sgd"])
def test_an_optimizer_reads_its_rates_from_tensors_and_keeps_its_numbers(tiny_config: Make, kind: str) -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 2, 3, 3)) for _ in range(2)]
    config = tiny_config(optimizer={"name": kind}, weight_decay=2.0**-6)
    expected, found = (build_optimizer(config, [weight]) for weight in weights)
    groups = [dict(group) for group in found.param_groups]
    for rate in (2.0**-3, 2.0**-5):
        for weight in weights:
            weight.grad = torch.linspace(-1, 2, 54).reshape(weight.shape)
        for group in expected.param_groups:
            group["lr"] = rate
        expected.step()
        with tensor_rates(found, [torch.tensor(rate)], capturable=False):
            found.step()
        assert torch.equal(*weights)
    with pytest.raises(KeyError), tensor_rates(found, [torch.tensor(1.0)], capturable=True):
        raise KeyError
    assert [{**group, "params": 0} for group in found.param_groups] == [{**group, "params": 0} for group in groups]


@pytest.mark.integration
def test_the_training_loss_of_an_epoch_is_the_mean_over_its_pairs(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def loss(self: BinaryCrossEntropy, logit_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        sizes.append(len(label_B))
        return 0 * logit_B.sum() + len(label_B)

    monkeypatch.setattr(BinaryCrossEntropy, "forward", loss)
    folder = RunFolder(tmp_path)
    train(tiny_config(max_epochs=1, batch_size=5), folder)
    assert len(set(sizes)) > 1
    (epoch,) = read_history(folder.history)
    assert epoch["train/loss"] == pytest.approx(sum(size**2 for size in sizes) / sum(sizes), rel=1e-6)
