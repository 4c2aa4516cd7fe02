"""The LightningModule: wires network, objective, optimizer and metrics together; no experiment logic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import BinaryAccuracy

from siamese.config.schema import AugmentationConfig
from siamese.data.augmentation import augment, draws_for
from siamese.errors import TrainingError
from siamese.evaluation.decision import choose_decision
from siamese.evaluation.metrics import accuracy, auc, bce_with_logits
from siamese.models.siamese import SiameseNetwork
from siamese.objectives.pairs import BinaryCrossEntropy
from siamese.training.collective import gather, share
from siamese.training.data_module import GroupBatch, PairBatch

Tensors = tuple[Tensor, ...] | list[Tensor]


class SiameseModule(L.LightningModule):
    """A Siamese network in training.

    Logs ``train/loss``, averaged over an epoch, and under the binary cross-entropy ``train/acc``; then ``val/loss``,
    ``val/acc`` and ``val/auc`` of all validation pairs together (and ``test/...`` under ``trainer.test``), for which
    calibration and threshold are chosen on those pairs themselves where they are not given. They are handed to the
    trainer's callbacks; `siamese.callbacks.History` writes them to the loggers, with the epoch as the step.

    Args:
        network: the network to train.
        objective: on pairs, (scores [B], labels [B]) -> scalar loss; or on groups, (embeddings [M, D], groups [M],
            labels of listed pairs [P]) -> scalar loss. Its parameters are trained too.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> schedule, stepped once an epoch; None keeps the learning rate.
        threshold: probability from which a pair counts as the same person, or a rule of `siamese.evaluation.rules`.
        calibration: how scores become probabilities: ``none`` where they are logits, or ``platt``, ``temperature``.
        augmentation: what is changed in training images; nothing when None.
        views: augmentations of each image in a batch of groups.
        ema_decay: of the exponential moving average of the weights that is validated and tested in place of the last
            ones; 0 for none. Checkpoints hold both.
        config: plain values (dicts, lists, numbers, strings) kept in every checkpoint, so that a file of weights
            tells what it is and still loads with ``weights_only=True``.
    """

    def __init__(
        self,
        network: SiameseNetwork,
        objective: nn.Module,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler | None],
        threshold: float | str = 0.5,
        calibration: str = "none",
        augmentation: AugmentationConfig | None = None,
        views: int = 1,
        ema_decay: float = 0.0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._threshold = threshold
        self._calibration = calibration
        self._augmentation = augmentation or AugmentationConfig()
        self._views = views
        # Part of this module, so that it is in every checkpoint. (Lightning's own callback swaps weights around
        # validation, and leaves the averages out of checkpoints of weights alone.)
        self.average = averaged(network, ema_decay) if ema_decay else None
        self._config = config or {}
        self._scored: list[tuple[Tensor, Tensor]] = []
        # In every checkpoint, so that a run which was stopped in the middle of an epoch ends it with the same figures.
        # (Each of several processes has those of the whole batch.)
        self.train_loss = MeanMetric(nan_strategy="disable", sync_on_compute=False)
        self.train_accuracy = BinaryAccuracy(validate_args=False, sync_on_compute=False)
        for metric in (self.train_loss, self.train_accuracy):
            metric.persistent(True)

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        """Both images of each pair, float [B, C, H, W] in [0, 1] -> scores [B]; of the average, not in training."""
        network = self.network if self.training or self.average is None else self.average
        scores: Tensor = network(image1, image2)
        return scores

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Forget the epoch before: a checkpoint saved at its end still has its figures."""
        if batch_idx == 0:
            self.train_loss.reset()
            self.train_accuracy.reset()

    def training_step(self, batch: PairBatch | GroupBatch, batch_idx: int) -> Tensor:
        """One step's loss."""
        loss = self._loss_of_groups(batch) if isinstance(batch, GroupBatch) else self._loss_of_pairs(batch)
        self.train_loss(loss.detach(), len(batch.groups if isinstance(batch, GroupBatch) else batch.label))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, which the average follows."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Score a batch of validation pairs."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Validation loss, accuracy and AUC."""
        self._log_scored("val")

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Score a batch of test pairs, for ``trainer.test``."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Test loss, accuracy and AUC."""
        self._log_scored("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and its schedule in steps of epochs."""
        optimizer = self._optimizer(chain(self.network.parameters(), self.objective.parameters()))
        scheduler = self._scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the configuration beside the weights."""
        checkpoint["config"] = self._config

    def _loss_of_pairs(self, batch: PairBatch) -> Tensor:
        pairs = len(batch.label)
        scores = gather(self(self._augmented(batch.image1, pairs), self._augmented(batch.image2, pairs)), pairs)
        loss: Tensor = self.objective(scores, batch.label)
        if isinstance(self.objective, BinaryCrossEntropy):
            # Decided here, not by torchmetrics, which asks for more than the threshold where the report asks for at
            # least; and at 0.5 where validation is to choose, since here are no others than the training pairs.
            threshold = self._threshold if isinstance(self._threshold, float) else 0.5
            same = torch.sigmoid(scores.detach().float()) >= threshold
            self.train_accuracy(same.int(), batch.label.int())
            self.log("train/acc", self.train_accuracy, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def _loss_of_groups(self, batch: GroupBatch) -> Tensor:
        total = len(batch.groups)
        views = torch.cat([self._augmented(batch.images, total) for _ in range(self._views)])
        z_MD = torch.cat([gather(z_mD, total) for z_mD in self.network.embed(views).chunk(self._views)])
        loss: Tensor = self.objective(z_MD, batch.groups.repeat(self._views), batch.label)
        return loss

    def _augmented(self, x_BCHW: Tensor, total: int) -> Tensor:
        """This process's images of a batch of ``total``, changed as one process would change them."""
        if not self._augmentation.changes:
            return x_BCHW
        return augment(x_BCHW, self._augmentation, share(draws_for(total)))

    def _score(self, batch: PairBatch) -> None:
        scores = self(batch.image1, batch.image2).float()
        self._scored.append((gather(scores, len(batch.label)), batch.label))

    def _log_scored(self, split: str) -> None:
        scores, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*self._scored, strict=True))
        self._scored.clear()
        if not np.isfinite(scores).all():
            raise TrainingError(
                f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores of the {split} pairs are no finite numbers "
                f"after epoch {self.current_epoch + 1}; give a lower learning_rate, trainer.gradient_clip_val or "
                "precision=32 (checkpoints/ has the weights from before)"
            )
        decision = choose_decision(scores, labels, self._calibration, self._threshold)
        figures = {
            "loss": float(bce_with_logits(decision.calibration.logits(scores), labels).mean()),
            "acc": accuracy(decision.predict(scores), labels),
            "auc": auc(scores, labels),
        }
        for name, value in figures.items():
            self.log(f"{split}/{name}", value, logger=split == "test", prog_bar=split == "val", batch_size=len(labels))


def averaged(network: SiameseNetwork, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and of its statistics of batches.

    Of update n on the average keeps ``min(decay, (1 + n) / (10 + n))``: the weights before training are soon forgotten.
    """

    def follow(averages: Tensors, lasts: Tensors, updates: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # counts; all tensors of a call are of one dtype
            torch._foreach_copy_(averages, lasts)
            return
        n = int(updates)
        # All weights in a few kernels: on a GPU a step would wait for each of them otherwise.
        torch._foreach_copy_(averages, torch._foreach_lerp(lasts, averages, min(decay, (1 + n) / (10 + n))))

    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True).requires_grad_(False)
