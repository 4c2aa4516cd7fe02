"""The LightningModule: connects network, objective, optimizer and metrics."""

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
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import BinaryAccuracy

from siamese.config.augmentation import AugmentationConfig
from siamese.data.augmentation import augment, draws_for
from siamese.errors import TrainingError
from siamese.evaluation.decision import choose_decision
from siamese.evaluation.metrics import accuracy, auc, bce_with_logits
from siamese.models.siamese import SiameseNetwork
from siamese.objectives.pairs import BinaryCrossEntropy
from siamese.training.data_module import GroupBatch, PairBatch
from siamese.training.processes.collective import gather, share

Tensors = tuple[Tensor, ...] | list[Tensor]


class SiameseModule(L.LightningModule):
    """A Siamese network in training.

    Per epoch it computes ``train/loss``, ``train/acc`` (binary cross-entropy only), ``val/loss``, ``val/acc`` and
    ``val/auc``, and ``test/...`` in ``trainer.test``. Validation figures are those of all validation pairs together;
    a calibration or threshold that is not configured is chosen on the same pairs. The figures go to the callbacks, and
    `siamese.training.callbacks.History` writes them to the loggers.

    Args:
        network: the network to train.
        objective: on pairs, (scores [B], labels [B]) -> scalar loss; or on groups, (embeddings [M, D], groups [M],
            labels of listed pairs [P]) -> scalar loss. Its parameters are trained too.
        optimizer: parameters -> optimizer.
        scheduler: optimizer -> schedule, stepped once per epoch; None for a constant learning rate.
        threshold: decision boundary on the probability, or a rule of `siamese.config.threshold_rules` that chooses it.
        calibration: how scores become probabilities: ``none`` if they are logits, else ``platt`` or ``temperature``.
        augmentation: changes to training images; None for no changes.
        views: number of differently augmented copies of each image in a batch of groups.
        ema_decay: decay of the exponential moving average of the weights, which is validated and tested instead of the
            last weights; 0 for no average. Checkpoints hold both.
        config: plain values (dicts, lists, numbers, strings) saved in every checkpoint, so that the file describes
            itself and still loads with ``weights_only=True``.
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
        self._augmentation = augmentation
        self._views = views
        # Part of this module, so that every checkpoint holds it. (Lightning's own callback does not save the average
        # in checkpoints of weights only.)
        self.average = averaged(network, ema_decay) if ema_decay else None
        self._config = config or {}
        self._scored: list[tuple[Tensor, Tensor]] = []
        # Saved in every checkpoint, so that an epoch resumed in the middle ends with the same figures. They need no
        # synchronization: each of several processes has the figures of the whole batch.
        self.train_loss = MeanMetric(nan_strategy="disable", sync_on_compute=False)
        self.train_accuracy = BinaryAccuracy(validate_args=False, sync_on_compute=False)
        for metric in (self.train_loss, self.train_accuracy):
            metric.persistent(True)

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        """Score pairs of images, each float [B, C, H, W] in [0, 1] -> [B]; outside training by the averaged weights."""
        network = self.network if self.training or self.average is None else self.average
        scores: Tensor = network(image1, image2)
        return scores

    def on_train_start(self) -> None:
        """Take the learning rate from the schedule: a restored optimizer may have that of a smaller ``max_epochs``."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, LambdaLR):
            for group, rate, factor in zip(
                schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
            ):
                group["lr"] = rate * factor(schedule.last_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Reset the metrics in the first step, not after the last: a checkpoint between epochs needs them."""
        if batch_idx == 0:
            self.train_loss.reset()
            self.train_accuracy.reset()

    def training_step(self, batch: PairBatch | GroupBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self._loss_of_groups(batch) if isinstance(batch, GroupBatch) else self._loss_of_pairs(batch)
        self.train_loss(loss.detach(), len(batch.groups if isinstance(batch, GroupBatch) else batch.label))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the weights, then their average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Score a batch of validation pairs."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Compute validation loss, accuracy and AUC (area under the ROC curve)."""
        self._log_scored("val")

    def test_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Score a batch of test pairs, for ``trainer.test``."""
        self._score(batch)

    def on_test_epoch_end(self) -> None:
        """Compute test loss, accuracy and AUC."""
        self._log_scored("test")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule, which is stepped once per epoch."""
        optimizer = self._optimizer(chain(self.network.parameters(), self.objective.parameters()))
        scheduler = self._scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the configuration beside the weights."""
        checkpoint["config"] = self._config

    def _loss_of_pairs(self, batch: PairBatch) -> Tensor:
        pairs = len(batch.label)
        scores = self(self._augmented(batch.image1, pairs), self._augmented(batch.image2, pairs))
        scores = gather(scores, pairs, self.all_gather)
        loss: Tensor = self.objective(scores, batch.label)
        if isinstance(self.objective, BinaryCrossEntropy):
            # Not by torchmetrics: it requires probability > threshold, and we require >=. A threshold that validation
            # chooses is not known here; 0.5 stands in for it.
            threshold = self._threshold if isinstance(self._threshold, float) else 0.5
            same = torch.sigmoid(scores.detach().float()) >= threshold
            self.train_accuracy(same.int(), batch.label.int())
            self.log("train/acc", self.train_accuracy, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def _loss_of_groups(self, batch: GroupBatch) -> Tensor:
        total = len(batch.groups)
        views = torch.cat([self._augmented(batch.images, total) for _ in range(self._views)])
        parts = self.network.embed(views).chunk(self._views)
        z_MD = torch.cat([gather(z_mD, total, self.all_gather) for z_mD in parts])
        loss: Tensor = self.objective(z_MD, batch.groups.repeat(self._views), batch.label)
        return loss

    def _augmented(self, x_BCHW: Tensor, total: int) -> Tensor:
        """Augment this process's share of a batch of ``total`` images exactly as a single process would."""
        if self._augmentation is None or not self._augmentation.changes:
            return x_BCHW
        return augment(x_BCHW, self._augmentation, share(draws_for(total)))

    def _score(self, batch: PairBatch) -> None:
        scores = self(batch.image1, batch.image2).float()
        self._scored.append((gather(scores, len(batch.label), self.all_gather), batch.label))

    def _log_scored(self, split: str) -> None:
        scores, labels = (torch.cat(parts).cpu().numpy() for parts in zip(*self._scored, strict=True))
        self._scored.clear()
        if not np.isfinite(scores).all():
            raise TrainingError(
                f"{np.sum(~np.isfinite(scores))} of {len(scores)} scores of the {split} pairs are not finite "
                f"after epoch {self.current_epoch + 1}; give a lower learning_rate, trainer.gradient_clip_val or "
                "precision=32 (checkpoints/ has the weights from before that epoch)"
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
    """Return an exponential moving average of a network's weights and batch statistics.

    Update n keeps the share ``min(decay, (1 + n) / (10 + n))`` of the average, so that the initial weights are soon
    forgotten.
    """

    def update(averages: Tensors, lasts: Tensors, updates: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # counts of batches; all tensors of a call have one dtype
            torch._foreach_copy_(averages, lasts)
            return
        n = int(updates)
        # The foreach operations (in beta) update all weights in a few kernels; a loop would slow down a GPU.
        torch._foreach_copy_(averages, torch._foreach_lerp(lasts, averages, min(decay, (1 + n) / (10 + n))))

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True).requires_grad_(False)
