"""Lightning callbacks: the record of epochs, when to stop, and what makes a resumed run equal to an undisturbed one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger

from siamese.errors import TrainingError
from siamese.runs import signals
from siamese.runs.records import HISTORY_COLUMNS, HistoryRow, write_history

log = logging.getLogger(__name__)


class History(Callback):
    """Writes a row an epoch to ``history.csv``, to the log and to the loggers (the epoch is their step)."""

    def __init__(self, file: Path, monitor: str) -> None:
        self.file = file
        self.monitor = monitor
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._before = 0.0  # seconds that the epoch had taken when it was interrupted
        self._lr = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the epochs before a resumption to loggers that begin a new file."""
        anew: list[Logger] = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        for row in self.rows:
            self._log(row, anew)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock. (Lightning leaves out ``on_train_epoch_start`` in the first epoch of a resumed run.)"""
        if batch_idx == 0 or not self._started:
            self._started = time.perf_counter() - self._before
            self._before = 0.0
            self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row; validation has run by now."""
        # numpy writes the shortest digits that tell a float32 from its neighbours: 0.5875, not 0.5874999761581421.
        measured = {name: np.float32(float(value)) for name, value in trainer.callback_metrics.items()}
        metrics = {name: float(str(value)) for name, value in measured.items() if name in HISTORY_COLUMNS}
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, **metrics}
        row |= {"lr": self._lr, "seconds": round(time.perf_counter() - self._started, 3)}
        self.rows.append(row)
        self._started = 0.0
        if trainer.is_global_zero:
            write_history(self.file, self.rows)
        self._log(row, trainer.loggers)
        told = [f"{name} {row[name]:.4f}" for name in HISTORY_COLUMNS if name in row and "/" in name]
        log.info(
            "epoch %d/%s  %s  %.1f s%s",
            row["epoch"], trainer.max_epochs, "  ".join(told), row["seconds"],
            "  best" if best_epoch(self.rows, self.monitor) == row["epoch"] else "",
        )  # fmt: skip

    def _log(self, row: dict[str, float], loggers: list[Logger]) -> None:
        for logger in loggers:
            logger.log_metrics({name: row[name] for name in row if name != "epoch"}, step=int(row["epoch"]))

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the time that the epoch which goes on has taken."""
        return {"rows": list(self.rows), "seconds": time.perf_counter() - self._started if self._started else 0.0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to the checkpoint; what was written after it is trained again."""
        self.rows = list(state_dict["rows"])
        self._before = state_dict.get("seconds", 0.0)  # from before it was kept


class StepSeed(Callback):
    """Seeds torch before every step from (seed, step).

    Dropout then draws the same masks in a step whether the run was resumed before it or not.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch on all devices."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, trainer.global_step]).generate_state(1)[0]))


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that also holds for a run resumed after its last epoch; Lightning's would train one more."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once when the restored state says that the patience was used up."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class StopDiverged(Callback):
    """Ends training when the loss is no number any more, before what came of it is saved.

    On a GPU, which a look at every loss would have wait, every `EVERY` steps, at ends of epochs, and before weights are
    saved.

    Args:
        steps: they are saved after every so many; None for ends of epochs.
    """

    EVERY = 20

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of the step.

        Raises:
            TrainingError: it is infinite or NaN.
        """
        loss = outputs["loss"]
        saved = trainer.is_last_batch or signals.received() or trainer.global_step % (self.steps or self.EVERY) == 0
        due = loss.device.type == "cpu" or trainer.global_step % self.EVERY == 0
        if (saved or due) and not torch.isfinite(loss):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            raise TrainingError(
                f"the training loss is {float(loss)} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}) "
                f"with a learning rate of {rate:.3g}; give a lower learning_rate, trainer.gradient_clip_val or "
                "precision=32 (checkpoints/ has the weights from before)"
            )


class HearSignals(Callback):
    """Takes the signals back from Lightning, which sets handlers of its own.

    And tells all processes that train together of one that any of them has received.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take them back."""
        signals.reclaim_signals()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree between steps."""
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Agree between epochs."""
        self._agree(trainer)

    @staticmethod
    def _agree(trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            signum = torch.tensor(float(signals.waiting() or 0), device=trainer.strategy.root_device)
            signals.agree(int(trainer.strategy.reduce(signum, reduce_op="max")))


class StopOnSignal(Checkpoint):
    """Ends training for a signal that waits (`siamese.signals.deferred`), when `KeepLast` before it has saved."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop between steps; after the last of an epoch its validation comes first."""
        if (signum := signals.received()) and not trainer.is_last_batch:
            raise signals.Interrupted(signum)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs."""
        if signum := signals.received():
            raise signals.Interrupted(signum)


class KeepLast(Checkpoint):
    """Keeps ``last.ckpt``, all that is needed to go on: before the first step, then at ends of epochs or every N steps.

    An epoch that ends within ``EVERY`` seconds of the last time is left out: writing 470 MB takes longer than short
    epochs do, and a run that goes on repeats less than that. When a signal waits, it is saved whatever the time.
    (Lightning calls a `Checkpoint` after other callbacks and in the order given: the state saved here knows the best
    epoch only if ``ModelCheckpoint`` stands before it.)

    Args:
        file: ``last.ckpt``.
        save_final: save at the end whatever the time.
        steps: save after every so many steps instead (of an epoch's last one, after its validation).
    """

    EVERY = 30.0
    """Seconds."""

    def __init__(self, file: Path, save_final: bool, steps: int | None = None) -> None:
        self.file = file
        self.save_final = save_final
        self.steps = steps
        self._saved = -math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, so that a run interrupted in its first epoch can go on too; unless it is resumed from that file."""
        if trainer.ckpt_path is None:
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between steps."""
        due = self.steps is not None and trainer.global_step % self.steps == 0
        if (due or signals.received()) and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a whole epoch, validation included."""
        if self.steps is None:
            due = time.monotonic() - self._saved >= self.EVERY
        else:
            due = trainer.global_step % self.steps == 0
        # All processes or none: saving, they wait for each other.
        if trainer.strategy.broadcast(due) or signals.received():
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last epoch."""
        if self.save_final:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved = time.monotonic()
        trainer.save_checkpoint(self.file)


def best_epoch(rows: Sequence[HistoryRow], monitor: str) -> int:
    """The first epoch with the best monitor: what `ModelCheckpoint` keeps."""
    sign = 1 if mode_of(monitor) == "min" else -1
    return int(min(rows, key=lambda row: sign * row[monitor])["epoch"])


def mode_of(monitor: str) -> str:
    """Whether a lower (``min``) or a higher (``max``) value is better."""
    return "min" if monitor.endswith("loss") else "max"
