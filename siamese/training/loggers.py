"""The loggers (TensorBoard, CSV, MLflow, W&B), and what they get after training: settings, results, pictures."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from siamese.config.logger import FileLogger, LoggerConfig
from siamese.config.logger import MlflowLogger as MlflowConfig
from siamese.config.logger import WandbLogger as WandbConfig
from siamese.config.schema import HOW_IT_IS_STARTED, TrainConfig
from siamese.config.section import to_plain
from siamese.data.lists import person_of
from siamese.errors import ConfigError
from siamese.files import flatten
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, config_text
from siamese.runs.tables import read_predictions
from siamese.training.hparams import hparams_summaries, settings_of

SECTIONS = {
    "train/loss": "1 loss", "val/loss": "1 loss",
    "train/acc": "2 accuracy", "val/acc": "2 accuracy", "val/auc": "2 accuracy",
    "lr": "3 learning rate",
}  # fmt: skip
"""Curves -> section of TensorBoard's pages. It sorts sections by name, and opens only the first two."""

RESULTS = {
    "best/val_loss": "val/loss", "best/val_acc": "val/acc", "test/acc": "test/acc", "test/eer": "test/eer",
    "best/epoch": "best_epoch", "best/val_auc": "val/auc", "test/auc": "test/auc", "test/loss": "test/loss",
    "train_seconds": "train_seconds",
}  # fmt: skip
"""Results: name in the loggers -> key of ``result.json``; the HParams tab shows the first five.

Results on the validation pairs need names of their own, because loggers take the last point of a curve for its result.
"""

SPRITE = 8192
"""Largest side, in pixels, of the picture with all thumbnails that TensorBoard's projector can show."""

THUMBNAIL = 64
"""Side of a thumbnail in pixels, if all thumbnails then fit into `SPRITE`."""


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger without its ``hparams.yaml``, as the run folder has ``config.yaml``.

    It stays open when training ends, because test figures and pictures follow. Tags of curves begin with their section.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write figures."""
        super().log_metrics({tag_of(name): value for name, value in metrics.items()}, step)

    def save(self) -> None:
        """Write pending events."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write pending events."""
        self.experiment.flush()


def tag_of(name: str) -> str:
    """Return the tag of a figure in TensorBoard: ``1 loss/val/loss`` for ``val/loss``."""
    return f"{SECTIONS[name]}/{name}" if name in SECTIONS else name


def as_folder_name(label: str) -> str:
    """Turn a label into a folder name that is valid on every system; equal signs and commas stay."""
    return re.sub(r"[^\w.,=+-]+", "-", label).strip(".-")[:120] or "run"


def build_logger(config: LoggerConfig, path: Path, label: str, known: str | None = None) -> tuple[Logger, str | None]:
    """Build the configured logger of a run.

    Args:
        config: the configured logger.
        path: the run folder.
        label: name of the run in the logger. TensorBoard names runs by the path of their events, so there it is the
            name of the folder.
        known: id of a resumed run in MLflow or W&B; None if it has none yet.

    Returns:
        the logger, and the id of the run in MLflow or W&B, or None.

    Raises:
        ConfigError: MLflow or W&B cannot be used.
    """
    match config:
        case FileLogger(name="csv"):
            return CSVLogger(path, name="", version=""), None
        case MlflowConfig():
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
            try:
                logger = MLFlowLogger(config.project, run_name=label, tracking_uri=uri, run_id=known)
                return logger, logger.run_id
            except Exception as error:  # MLflow's stores raise errors of many kinds
                reason = " ".join(str(error).split())
                raise ConfigError(f"logger=mlflow: {uri} cannot be used ({reason}); give another logger.uri") from None
        case WandbConfig():
            import wandb

            os.environ.setdefault("WANDB_SILENT", "true")
            if wandb.run is not None:  # left open by a failed job of the same sweep
                wandb.finish()
            name = known or secrets.token_hex(4)
            options: dict[str, Any] = {"project": config.project, "offline": config.offline, "resume": "allow"}
            return WandbLogger(label, save_dir=path, id=name, **options), name
        case _:
            return RunTensorBoardLogger(path, name=as_folder_name(label), version=""), None


def log_configuration(loggers: list[Logger], config: TrainConfig) -> None:
    """Log the configuration; in TensorBoard also add charts with training and validation figures in one."""
    for logger in loggers:
        if isinstance(logger, MLFlowLogger | WandbLogger):
            settings = flatten(to_plain(config))
            logger.log_hyperparams({key: value for key, value in settings.items() if key not in HOW_IT_IS_STARTED})
        if isinstance(logger, TensorBoardLogger):
            text = "".join(f"    {line}\n" for line in config_text(config).splitlines())
            logger.experiment.add_text("configuration", text)
            curves = {
                "loss": ("train/loss", "val/loss"),
                "accuracy": ("train/acc", "val/acc"),
                "learning rate": ("lr",),
            }
            charts = {title: ["Multiline", [tag_of(name) for name in names]] for title, names in curves.items()}
            logger.experiment.add_custom_scalars({"training": charts})


def log_result(
    loggers: list[Logger], config: TrainConfig, result: Result, folder: Path, swept: Mapping[str, str] | None
) -> None:
    """Log the results and the run page's pictures; in TensorBoard also fill the HParams tab.

    Args:
        loggers: the run's loggers; closed afterwards.
        config: the run's configuration.
        result: its result.
        folder: its folder.
        swept: key -> value of the overrides in which the run differs from the others of its sweep, if any.
    """
    swept = swept or {}
    results = {name: value for name, key in RESULTS.items() if (value := result.figure(key)) is not None}
    for logger in loggers:
        logger.log_metrics(results, step=result.epochs)
        if isinstance(logger, TensorBoardLogger):
            _log_to_tensorboard(logger, result.epochs or 0, folder)
            for summary in hparams_summaries(settings_of(config, swept), swept, results):
                logger.experiment.file_writer.add_summary(summary)
            logger.experiment.close()
        elif isinstance(logger, MLFlowLogger):
            for picture in sorted(folder.glob("*.png")):
                logger.experiment.log_artifact(logger.run_id, str(picture), "report")
        elif isinstance(logger, WandbLogger):
            for picture in sorted(folder.glob("*.png")):
                logger.log_image(f"report/{picture.stem}", [str(picture)])
            logger.experiment.finish()
        else:
            logger.save()


def log_embedding(loggers: list[Logger], z_BD: Tensor, pixels_BCHW: Tensor, names: list[str]) -> None:
    """Log embeddings for TensorBoard's projector, each with the image's thumbnail, person and name.

    Args:
        loggers: only TensorBoard loggers are used.
        z_BD: the embeddings.
        pixels_BCHW: uint8, the images.
        names: image names as in the lists, ``Name/Name_0001.jpg``.
    """
    side = min(THUMBNAIL, pixels_BCHW.shape[-1], SPRITE // math.ceil(math.sqrt(len(names))))
    thumbnails = torch.nn.functional.interpolate(pixels_BCHW.float() / 255, size=side, mode="area")
    if thumbnails.shape[1] == 1:
        thumbnails = thumbnails.expand(-1, 3, -1, -1)
    people = [[person_of(name), name] for name in names]
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_embedding(
                z_BD.float().cpu(), people, thumbnails, tag="test", metadata_header=["person", "image"]
            )


def _log_to_tensorboard(logger: TensorBoardLogger, epochs: int, folder: Path) -> None:
    writer = logger.experiment
    predictions = read_predictions(RunFolder(folder).predictions)
    for split in ("val", "test"):
        if scored := [prediction for prediction in predictions if prediction.split == split]:
            labels, probabilities = np.array([(p.label, p.probability) for p in scored]).T
            writer.add_pr_curve(f"{split}/precision_recall", labels, probabilities, epochs)
    for picture in sorted(folder.glob("*.png")):
        # Send the file unchanged; add_image would decode and encode it.
        with Image.open(picture) as image:
            width, height = image.size
            bands = len(image.getbands())
        content = Summary.Image(width=width, height=height, colorspace=bands, encoded_image_string=picture.read_bytes())
        summary = Summary(value=[Summary.Value(tag=f"report/{picture.stem}", image=content)])
        writer.file_writer.add_summary(summary, 0)
