"""The progress bar of the training."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar for a terminal of 80 columns: epochs count from 1, and only two figures follow.

    Args:
        monitor: the figure shown after the training loss.
    """

    BAR_FORMAT = "{desc} {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"

    def __init__(self, monitor: str) -> None:
        super().__init__(leave=False)
        self.monitor = monitor

    def on_train_epoch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Name the epoch as the log does."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description_str(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Name the bar of the validation pairs."""
        super().on_validation_batch_start(*args, **kwargs)
        self.val_progress_bar.set_description_str("validation")

    def get_metrics(self, *args: Any) -> dict[str, int | str | float | dict[str, float]]:
        """Return the running training loss and the last value of ``monitor``."""
        metrics = super().get_metrics(*args)
        return {name: metrics[name] for name in ("train/loss", self.monitor) if name in metrics}
