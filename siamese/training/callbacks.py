"""Lightning callbacks: record epochs, stop early, save, and make a resumed run equal to an uninterrupted one."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from siamese.errors import TrainingError
from siamese.runs import signals
from siamese.runs.tables import HISTORY_COLUMNS, write_history
from siamese.training.epochs import epoch_line, time_left

log = logging.getLogger(__name__)


class History(Callback):
    """Writes one row per epoch to ``history.csv``, to the log and to the loggers (the epoch is their step).

    After the first epoch of this process it also logs how long the training will take.

    Args:
        file: ``history.csv``.
        monitor: the figure that selects the best epoch.
        patience: epochs without a better ``monitor`` after which early stopping ends the training.
    """

    def __init__(self, file: Path, monitor: str, patience: int) -> None:
        self.file = file
        self.monitor = monitor
        self.patience = patience
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._before = 0.0  # seconds of the current epoch before it was interrupted
        self._lr = 0.0
        self._estimated = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """After resuming, log the earlier epochs again to loggers that start a new file."""
        new_files: list[Logger] = [logger for logger in trainer.loggers if isinstance(logger, CSVLogger)]
        for row in self.rows:
            self._log(row, new_files)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock. (Lightning does not call ``on_train_epoch_start`` in the first epoch of a resumed run.)"""
        if batch_idx == 0 or not self._started:
            self._started = time.perf_counter() - self._before
            self._before = 0.0
            self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row; validation of this epoch has already run."""
        # numpy prints the shortest decimal that identifies a float32: 0.5875, not 0.5874999761581421.
        measured = {name: np.float32(float(value)) for name, value in trainer.callback_metrics.items()}
        metrics = {name: float(str(value)) for name, value in measured.items() if name in HISTORY_COLUMNS}
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, **metrics}
        row |= {"lr": self._lr, "seconds": round(time.perf_counter() - self._started, 3)}
        self.rows.append(row)
        self._started = 0.0
        if trainer.is_global_zero:
            write_history(self.file, self.rows)
        self._log(row, trainer.loggers)
        limit = trainer.max_epochs or 0
        log.info(epoch_line(self.rows, limit, self.monitor))
        if not self._estimated and (left := time_left(self.rows, limit, self.patience, self.monitor)):
            log.info(left)
        self._estimated = True

    def _log(self, row: dict[str, float], loggers: list[Logger]) -> None:
        for logger in loggers:
            logger.log_metrics({name: row[name] for name in row if name != "epoch"}, step=int(row["epoch"]))

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, and the seconds that the current epoch has taken."""
        return {"rows": list(self.rows), "seconds": time.perf_counter() - self._started if self._started else 0.0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows up to the checkpoint; later epochs are trained again."""
        self.rows = list(state_dict["rows"])
        self._before = state_dict["seconds"]


class StepSeed(Callback):
    """Seeds torch before every step from (seed, step), so that a resumed run draws the same dropout masks."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch on all devices."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, trainer.global_step]).generate_state(1)[0]))


class ResumableEarlyStopping(EarlyStopping):
    """Early stopping that also stops a run resumed after its last epoch; Lightning's would train one more epoch.

    The patience is that of the configuration, which may have been raised, not the one that was saved.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore how long training has waited for a better figure."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop at once if the restored state has no patience left."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class KeepBest(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which also remembers the best epoch of a run folder that was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best figure, with the path that the weights have now."""

        def moved(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class StopDiverged(Callback):
    """Ends training when the loss is NaN or infinite, before such weights are saved.

    On the CPU, the loss of every step is checked. On a GPU, reading the loss makes the GPU wait, so it is checked only
    every `EVERY` steps, in the last step of an epoch, and before weights are saved.

    Args:
        steps: steps between two checkpoints; None if they are saved after epochs.
    """

    EVERY = 200
    """Steps."""

    def __init__(self, steps: int | None = None) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of the step.

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
                "precision=32 (checkpoints/ has the weights from before that step)"
            )


class HearSignals(Callback):
    """Replaces Lightning's signal handlers by ours, and shares a received signal with all processes of the run."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the handlers that Lightning set when the fit started."""
        signals.reclaim_signals()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Share signals between steps."""
        self._agree(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Share signals between epochs."""
        self._agree(trainer)

    @staticmethod
    def _agree(trainer: L.Trainer) -> None:
        if trainer.world_size > 1:
            signum = torch.tensor(float(signals.waiting() or 0), device=trainer.strategy.root_device)
            signals.agree(int(trainer.strategy.reduce(signum, reduce_op="max")))


class StopOnSignal(Checkpoint):
    """Ends training after a signal (see `siamese.runs.signals.deferred`); `KeepLast`, called before it, has saved."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop between steps; after the last step of an epoch, validation runs first."""
        if (signum := signals.received()) and not trainer.is_last_batch:
            raise signals.Interrupted(signum)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop between epochs."""
        if signum := signals.received():
            raise signals.Interrupted(signum)


class KeepLast(Checkpoint):
    """Saves ``last.ckpt``, from which a run is resumed: before the first step, then after epochs or every ``steps``.

    After an epoch that ends within `EVERY` seconds of the last checkpoint, nothing is saved: writing 470 MB takes
    longer than a short epoch, and a resumed run repeats less than that. After a signal, the state is always saved.
    (Lightning calls a `Checkpoint` after all other callbacks and in the given order. Therefore the saved state knows
    the best epoch only if ``ModelCheckpoint`` comes before this one.)

    Args:
        file: ``last.ckpt``.
        save_final: always save at the end of training.
        steps: save after this many steps instead of after epochs. If such a step is the last one of an epoch, the state
            is saved after validation.
    """

    EVERY = 30.0
    """Seconds."""

    def __init__(self, file: Path, save_final: bool, steps: int | None = None) -> None:
        self.file = file
        self.save_final = save_final
        self.steps = steps
        self._saved = -math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, so that a run interrupted in its first epoch can be resumed; not needed in a resumed run."""
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
        """Save after an epoch and its validation."""
        if self.steps is None:
            due = time.monotonic() - self._saved >= self.EVERY
        else:
            due = trainer.global_step % self.steps == 0
        # Either all processes save or none: in saving they wait for each other.
        if trainer.strategy.broadcast(due) or signals.received():
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last epoch."""
        if self.save_final:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        self._saved = time.monotonic()
        trainer.save_checkpoint(self.file)
