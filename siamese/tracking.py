"""What a run shows in its logger besides the curves: configuration, final figures, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary

from siamese.config import TrainConfig, to_plain, write_yaml
from siamese.files import flatten

HPARAMS = (
    "batch_size", "learning_rate", "weight_decay", "seed", "max_epochs", "precision", "data.name", "data.image_size",
    "model.name", "model.batchnorm", "model.dropout", "model.init", "objective.name", "optimizer.name",
    "scheduler.name",
)  # fmt: skip
"""What TensorBoard's HParams tab lists: the same keys in every run, or its columns do not line up."""

FINAL = (
    "val/loss", "val/acc", "val/auc", "test/loss", "test/acc", "test/auc", "test/eer", "best_epoch", "train_seconds",
)  # fmt: skip
"""The figures that it lists beside them."""


class RunTensorBoardLogger(TensorBoardLogger):
    """One file of TensorBoard events in the run folder.

    Without Lightning's ``hparams.yaml`` (``config.yaml`` is there), and left open when training ends: the test's
    figures and pictures follow.
    """

    def save(self) -> None:
        """Write what is pending."""
        self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Write what is pending."""
        self.experiment.flush()


def log_configuration(loggers: list[Logger], config: TrainConfig) -> None:
    """The configuration as text, and loss and accuracy of both splits in one chart each, from the start."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            text = "".join(f"    {line}\n" for line in write_yaml(config).splitlines())
            logger.experiment.add_text("configuration", text)
            charts = {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "acc")}
            logger.experiment.add_custom_scalars({"training": charts})


def log_result(loggers: list[Logger], config: TrainConfig, result: dict[str, Any], folder: Path) -> None:
    """Final figures to every logger; to TensorBoard also HParams and the report's pictures."""
    final = {name: float(result[name]) for name in FINAL if result.get(name) is not None}
    test = {name: value for name, value in final.items() if name.startswith("test/")}
    for logger in loggers:
        logger.log_metrics(test, step=result["epochs"])
        if isinstance(logger, TensorBoardLogger):
            # What auto stood for, not auto.
            settings = flatten(to_plain(config)) | {"precision": result["precision"]}
            _log_to_tensorboard(logger, settings, final, folder)
            logger.experiment.close()
        else:
            logger.save()


def _log_to_tensorboard(
    logger: TensorBoardLogger, settings: dict[str, Any], final: dict[str, float], folder: Path
) -> None:
    for picture in sorted(folder.glob("*.png")):
        # As the file is: add_image would decode it and encode it anew.
        with Image.open(picture) as image:
            width, height = image.size
            bands = len(image.getbands())
        content = Summary.Image(width=width, height=height, colorspace=bands, encoded_image_string=picture.read_bytes())
        summary = Summary(value=[Summary.Value(tag=f"report/{picture.stem}", image=content)])
        logger.experiment.file_writer.add_summary(summary, 0)
    # Tags of their own: the HParams tab shows the last point of a tag, and a curve's is not the best epoch's. The
    # name sorts behind train/ and val/, so that the curves stay on top.
    figures = {f"with_best_weights/{name.replace('/', '_')}": value for name, value in final.items()}
    logger.log_hyperparams({key: settings[key] for key in HPARAMS}, figures)
