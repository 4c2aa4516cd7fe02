"""The keys of ``conf/logger/``: where the curves of a run go, in addition to ``history.csv``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from siamese.config.section import Section


class FileLogger(Section):
    """TensorBoard events or a CSV file, in the run folder."""

    name: Literal["tensorboard", "csv"] = Field(description="the logger")
    projector: bool = Field(
        description="write the embeddings and thumbnails of the test images for TensorBoard's projector (80 MB or "
        "more); logger=tensorboard only"
    )

    @model_validator(mode="after")
    def _projector_needs_tensorboard(self) -> FileLogger:
        if self.projector and self.name != "tensorboard":
            raise ValueError("projector=true needs logger=tensorboard")
        return self


class MlflowLogger(Section):
    """MLflow."""

    name: Literal["mlflow"] = Field(description="the logger")
    project: str = Field(min_length=1, description="name of the MLflow experiment")
    uri: str | None = Field(
        min_length=1,
        description="address of the tracking server; null: MLFLOW_TRACKING_URI, or else sqlite:///mlflow.db",
    )


class WandbLogger(Section):
    """Weights & Biases."""

    name: Literal["wandb"] = Field(description="the logger")
    project: str = Field(min_length=1, description="name of the Weights & Biases project")
    offline: bool = Field(description="keep the data in the run folder for a later `wandb sync`, instead of sending it")


LoggerConfig = Annotated[FileLogger | MlflowLogger | WandbLogger, Field(discriminator="name")]
