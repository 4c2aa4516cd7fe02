"""The keys of ``conf/trainer/``: hardware, and the options of Lightning's Trainer."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from siamese.config.section import Section, number_or_fraction


def _duration(value: str | None) -> str | None:
    if value is None or (re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", value) and value != "00:00:00:00"):
        return value
    raise ValueError(f"{value!r} is not a duration DD:HH:MM:SS such as 00:01:30:00")


class TrainerConfig(Section):
    """Hardware, and options that are passed to Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu"] = Field(description="device; auto: a GPU if there is one")
    devices: int = Field(ge=1, description="processes per machine that train together, each with its own GPU or cores")
    nodes: int = Field(ge=1, description="machines; for more than one, start the run with torchrun or SLURM")
    deterministic: bool = Field(description="use only algorithms with bit-for-bit reproducible results")
    cuda_graphs: bool = Field(
        description="on a GPU, start all kernels of a training step by one call. No effect with several processes, "
        "clipping, detect_anomaly, a profiler, or objective triplet, arcface or cosface"
    )
    gradient_clip_val: float | None = Field(
        gt=0, description="largest norm or value of the gradients, above which they are clipped; null: off"
    )
    gradient_clip_algorithm: Literal["norm", "value"] = Field(
        description="clip the norm of all gradients together, or each value"
    )
    limit_train_batches: Annotated[int | float | None, number_or_fraction(1, "batches", "0.1")] = Field(
        description="training batches per epoch: a whole number, or a fraction of them; null: all"
    )
    overfit_batches: int | None = Field(
        ge=1, description="train on this number of batches only, the same in every epoch; null: off"
    )
    max_time: Annotated[str | None, AfterValidator(_duration)] = Field(
        description="stop training after this time, DD:HH:MM:SS; null: no limit"
    )
    detect_anomaly: bool = Field(description="report the operation that produces the first NaN; slow")
    profiler: Literal["simple", "pytorch"] | None = Field(
        description="measure where the time goes and write it to profile/ in the run folder; null: off"
    )
    progress_bar: bool | None = Field(description="show a progress bar; null: if the output is a terminal")

    @property
    def processes(self) -> int:
        """The number of processes that train together."""
        return self.devices * self.nodes
