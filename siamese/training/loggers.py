"""What a run shows in its logger besides the curves: configuration, final figures, pictures."""

from __future__ import annotations

import math
import os
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from siamese.config.schema import HOW_IT_IS_STARTED, FileLogger, LoggerConfig, TrainConfig, to_plain
from siamese.config.schema import MlflowLogger as MlflowConfig
from siamese.config.schema import WandbLogger as WandbConfig
from siamese.data.lists import person_of
from siamese.errors import ConfigError
from siamese.files import flatten
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, config_text, read_predictions

HPARAMS = (
    "batch_size", "learning_rate", "weight_decay", "seed", "max_epochs", "precision", "data.name", "data.image_size",
    "model.name", "model.batchnorm", "model.dropout", "model.init", "objective.name", "optimizer.name",
    "scheduler.name", "protocol.setting",
)  # fmt: skip
"""What TensorBoard's HParams tab lists: the same keys in every run, or its columns do not line up."""

FINAL = (
    "val/loss", "val/acc", "val/auc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "train_seconds",
)  # fmt: skip
"""The figures that it lists beside them."""


SPRITE = 8192
"""Pixels a side of the largest picture that a browser gives the projector, which holds all thumbnails."""

THUMBNAIL = 64
"""Pixels a side of a thumbnail where these all fit in."""


class RunTensorBoardLogger(TensorBoardLogger):
    """One file of TensorBoard events in a folder of the run folder.

    Without Lightning's ``hparams.yaml`` (``config.yaml`` is there), and left open when training ends: the test's
    figures and pictures follow.
    """

    def save(self) -> None:
        """Write what is pending."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write what is pending."""
        self.experiment.flush()


def as_folder_name(label: str) -> str:
    """A label as the name of one folder that any system takes; equal signs and commas stay."""
    return re.sub(r"[^\w.,=+-]+", "-", label).strip(".-")[:120] or "run"


def build_logger(config: LoggerConfig, path: Path, label: str, known: str | None = None) -> tuple[Logger, str | None]:
    """The configured logger of a run.

    Args:
        config: which.
        path: the run folder.
        label: what it calls the run; TensorBoard calls it by the path of its events, whose last part is the label.
        known: by which name MLflow or W&B knows the run already, when it goes on.

    Returns:
        the logger, and that name, None where there is none.

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
            except Exception as error:  # whatever its stores raise
                reason = " ".join(str(error).split())
                raise ConfigError(f"logger=mlflow: {uri} cannot be used ({reason}); give another logger.uri") from None
        case WandbConfig():
            import wandb

            os.environ.setdefault("WANDB_SILENT", "true")
            if wandb.run is not None:  # of a job of the same sweep that failed
                wandb.finish()
            name = known or secrets.token_hex(4)
            options: dict[str, Any] = {"project": config.project, "offline": config.offline, "resume": "allow"}
            return WandbLogger(label, save_dir=path, id=name, **options), name
        case _:
            return RunTensorBoardLogger(path, name=as_folder_name(label), version=""), None


def log_configuration(loggers: list[Logger], config: TrainConfig) -> None:
    """The configuration, and in TensorBoard loss and accuracy of both splits in one chart each, from the start."""
    for logger in loggers:
        if isinstance(logger, MLFlowLogger | WandbLogger):
            settings = flatten(to_plain(config))
            logger.log_hyperparams({key: value for key, value in settings.items() if key not in HOW_IT_IS_STARTED})
        if isinstance(logger, TensorBoardLogger):
            text = "".join(f"    {line}\n" for line in config_text(config).splitlines())
            logger.experiment.add_text("configuration", text)
            charts = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "acc")}
            logger.experiment.add_custom_scalars({"training": charts})


def log_result(loggers: list[Logger], config: TrainConfig, result: Result, folder: Path) -> None:
    """Final figures and the report's pictures to every logger that takes them; to TensorBoard also HParams."""
    final = {name: value for name in FINAL if (value := result.figure(name)) is not None}
    test = {name: value for name, value in final.items() if name.startswith("test/")}
    for logger in loggers:
        logger.log_metrics(test, step=result.epochs)
        if isinstance(logger, TensorBoardLogger):
            # What auto stood for, not auto.
            settings = flatten(to_plain(config)) | {"precision": result.precision}
            _log_to_tensorboard(logger, settings, final, result.epochs or 0, folder)
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
    """Embeddings of images for TensorBoard's projector, each with its thumbnail, its person and its name.

    Args:
        loggers: those of TensorBoard are used.
        z_BD: [B, D].
        pixels_BCHW: uint8, the images.
        names: as in the lists, ``Name/Name_0001.jpg``.
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


def _log_to_tensorboard(
    logger: TensorBoardLogger, settings: dict[str, Any], final: dict[str, float], epochs: int, folder: Path
) -> None:
    writer = logger.experiment
    predictions = read_predictions(RunFolder(folder).predictions)
    for split in ("val", "test"):
        if scored := [prediction for prediction in predictions if prediction.split == split]:
            labels, probabilities = np.array([(p.label, p.probability) for p in scored]).T
            writer.add_pr_curve(f"{split}/precision_recall", labels, probabilities, epochs)
    for picture in sorted(folder.glob("*.png")):
        # As the file is: add_image would decode it and encode it anew.
        with Image.open(picture) as image:
            width, height = image.size
            bands = len(image.getbands())
        content = Summary.Image(width=width, height=height, colorspace=bands, encoded_image_string=picture.read_bytes())
        summary = Summary(value=[Summary.Value(tag=f"report/{picture.stem}", image=content)])
        writer.file_writer.add_summary(summary, 0)
    # Tags of their own: the HParams tab shows the last point of a tag, and a curve's is not the best epoch's. The
    # name sorts behind train/ and val/, so that the curves stay on top.
    figures = {f"with_best_weights/{name.replace('/', '_')}": value for name, value in final.items()}
    logger.log_hyperparams({key: settings.get(key, "") for key in HPARAMS}, figures)
