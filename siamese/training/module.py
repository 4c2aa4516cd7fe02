"""The LightningModule: connects network, objective, optimizer and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
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
from siamese.training.step_graph import StepGraphs, Tensors


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
        graphs: on a GPU, run a training step as a CUDA graph (`siamese.training.step_graph`).
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
        graphs: bool = False,
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
        self.average = MovingAverage(network, ema_decay) if ema_decay else None
        self._use_graphs = graphs
        self._graphs: StepGraphs | None = None
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

    def on_train_end(self) -> None:
        """Free the memory of the graphs."""
        self._graphs = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Reset the metrics in the first step, not after the last: a checkpoint between epochs needs them."""
        if batch_idx == 0:
            self.train_loss.reset()
            self.train_accuracy.reset()

    def training_step(self, batch: PairBatch | GroupBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; as a CUDA graph, the step updates the weights too."""
        draws = self._draws(batch)
        if self._graphed:
            if self._graphs is None:
                step = partial(self._whole_step, type(batch))
                self._graphs = StepGraphs(step, self.trainer.optimizers[0], self.device)
            loss, scores = self._graphs((*batch, *(u.to(self.device, non_blocking=True) for u in draws)))
        else:
            loss, scores = self._loss(batch, draws)
        size = len(batch.groups if isinstance(batch, GroupBatch) else batch.label)
        # Not as a weight: torchmetrics would copy it to the GPU in every step, and without checks for NaN ignores it.
        self.train_loss.update(loss.detach().expand(size))
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        if isinstance(self.objective, BinaryCrossEntropy):
            # Not by torchmetrics: it requires probability > threshold, and we require >=. A threshold that validation
            # chooses is not known here; 0.5 stands in for it.
            threshold = self._threshold if isinstance(self._threshold, float) else 0.5
            same = torch.sigmoid(scores.detach().float()) >= threshold
            self.train_accuracy.update(same.int(), batch.label.int())
            self.log("train/acc", self.train_accuracy, on_step=False, on_epoch=True, logger=False, prog_bar=True)
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, unless the training step was a CUDA graph."""
        if not self._graphed:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Reset the gradients, unless the training step was a CUDA graph."""
        if not self._graphed:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Update the weights, then their average."""
        if self._graphed:
            assert optimizer_closure is not None
            optimizer_closure()
            return
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.average is not None:
            self.average.update_parameters(self.network)

    @property
    def _graphed(self) -> bool:
        return self._use_graphs and self.device.type == "cuda"

    def _whole_step(self, kind: type[PairBatch] | type[GroupBatch], tensors: Tensors) -> Tensors:
        """Compute the loss and update the weights, as Lightning's automatic optimization does."""
        optimizer = self.trainer.optimizers[0]
        batch, draws = kind(*tensors[: len(kind._fields)]), tensors[len(kind._fields) :]
        loss, scores = self._loss(batch, draws)
        with torch.autocast(self.device.type, enabled=False):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.detach(), scores.detach()

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

    def _loss(self, batch: PairBatch | GroupBatch, draws: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and the scores of its pairs or the embeddings of its groups."""
        if isinstance(batch, GroupBatch):
            total = len(batch.groups)
            views = torch.cat(self._augmented([batch.images] * self._views, draws))
            parts = self.network.embed(views).chunk(self._views)
            z_MD = torch.cat([gather(z_mD, total, self.all_gather) for z_mD in parts])
            return self.objective(z_MD, batch.groups.repeat(self._views), batch.label), z_MD
        scores = self.network(*self._augmented([batch.image1, batch.image2], draws))
        scores = gather(scores, len(batch.label), self.all_gather)
        return self.objective(scores, batch.label), scores

    def _draws(self, batch: PairBatch | GroupBatch) -> list[Tensor]:
        """Draw the random numbers for `_augmented`; several processes divide those that one process would draw."""
        if self._augmentation is None or not self._augmentation.changes:
            return []
        views, images = (self._views, len(batch.groups)) if isinstance(batch, GroupBatch) else (2, len(batch.label))
        return [share(draws_for(images)) for _ in range(views)]

    def _augmented(self, images: Sequence[Tensor], draws: Sequence[Tensor]) -> list[Tensor]:
        """Augment a batch once for each entry of ``images``."""
        if self._augmentation is None or not draws:
            return list(images)
        return [augment(x_BCHW, self._augmentation, u) for x_BCHW, u in zip(images, draws, strict=True)]

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


class MovingAverage(AveragedModel):
    """An exponential moving average of a network's weights and batch statistics.

    Update n keeps the share ``min(decay, (1 + n) / (10 + n))`` of the average, so that the initial weights are soon
    forgotten. (Torch's own update asks the GPU for n, and waits for the answer.)

    Args:
        network: the network to average.
        decay: in (0, 1).
    """

    def __init__(self, network: SiameseNetwork, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self.decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Include the present weights of ``model`` in the average."""
        n = self.n_averaged
        new = 1 - ((1 + n) / (10.0 + n.double())).clamp(max=self.decay) * (n > 0)
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averages, lasts = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        if n.device.type == "cpu":
            torch._foreach_lerp_(averages, lasts, float(new))
        else:
            differences = torch._foreach_sub(lasts, averages)
            torch._foreach_mul_(differences, new.float())
            torch._foreach_add_(averages, differences)
        if counts := [pair for pair in pairs if not pair[0].is_floating_point()]:  # of batches
            ours, lasts = zip(*counts, strict=True)
            torch._foreach_copy_(ours, lasts)
        n += 1


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())
