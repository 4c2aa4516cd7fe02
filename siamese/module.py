"""The LightningModule: wires network, objective, optimizer and metrics together; no experiment logic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import BinaryAccuracy

from siamese.data.module import PairBatch
from siamese.models.siamese import SiameseNetwork


class SiameseModule(L.LightningModule):
    """A Siamese network in training.

    Logs ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc`` (and ``test/...`` under ``trainer.test``), each
    averaged over the pairs of an epoch. They are handed to the trainer's callbacks; `siamese.callbacks.History`
    writes them to the loggers, with the epoch as the step.

    Args:
        network: the network to train.
        objective: (logits [B], labels [B]) -> scalar loss.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> schedule, stepped once an epoch; None keeps the learning rate.
        threshold: probability from which a pair counts as the same person.
        config: plain values (dicts, lists, numbers, strings) kept in every checkpoint, so that a file of weights
            tells what it is and still loads with ``weights_only=True``.
    """

    def __init__(
        self,
        network: SiameseNetwork,
        objective: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler | None],
        threshold: float = 0.5,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._threshold = threshold
        self._config = config or {}
        self.train_accuracy = BinaryAccuracy(validate_args=False)
        self.val_accuracy = BinaryAccuracy(validate_args=False)
        self.test_accuracy = BinaryAccuracy(validate_args=False)

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        """Both images of each pair, float [B, C, H, W] in [0, 1] -> logits [B]."""
        logits: Tensor = self.network(image1, image2)
        return logits

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """One step's loss."""
        return self._step("train", batch)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Validation loss and accuracy."""
        self._step("val", batch)

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Test loss and accuracy, for ``trainer.test``."""
        self._step("test", batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and its schedule in steps of epochs."""
        optimizer = self._optimizer(self.network.parameters())
        scheduler = self._scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the configuration beside the weights."""
        checkpoint["config"] = self._config

    def _step(self, split: str, batch: PairBatch) -> Tensor:
        logits = self(batch.image1, batch.image2)
        loss: Tensor = self.objective(logits, batch.label)
        accuracy: BinaryAccuracy = getattr(self, f"{split}_accuracy")
        # Decided here, not by torchmetrics, which asks for more than the threshold where the report asks for at least.
        same = torch.sigmoid(logits.detach().float()) >= self._threshold
        accuracy(same.int(), batch.label.int())
        pairs = len(batch.label)
        bar = split != "test"
        self.log(
            f"{split}/loss", loss.detach(), on_step=False, on_epoch=True, logger=not bar, prog_bar=bar, batch_size=pairs
        )
        self.log(f"{split}/acc", accuracy, on_step=False, on_epoch=True, logger=not bar, prog_bar=bar, batch_size=pairs)
        return loss
