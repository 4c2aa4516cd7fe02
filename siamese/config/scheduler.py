"""The keys of ``conf/scheduler/``: how the learning rate changes from epoch to epoch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from siamese.config.section import Section


class StepScheduler(Section):
    """Multiply the learning rate by ``gamma`` every ``step_size`` epochs."""

    name: Literal["step"] = Field(description="the schedule")
    step_size: int = Field(ge=1, description="epochs between two changes")
    gamma: float = Field(gt=0, le=1, description="factor on the learning rate")


class CosineScheduler(Section):
    """Decay the learning rate along half a cosine over ``max_epochs``, after a linear warm-up."""

    name: Literal["cosine"] = Field(description="the schedule")
    final_fraction: float = Field(ge=0, le=1, description="last learning rate, as a fraction of `learning_rate`")
    warmup_epochs: int = Field(ge=0, description="epochs of the warm-up, in which the learning rate grows; 0: off")


class ConstantScheduler(Section):
    """Keep the learning rate constant."""

    name: Literal["constant"] = Field(description="the schedule")


SchedulerConfig = Annotated[StepScheduler | CosineScheduler | ConstantScheduler, Field(discriminator="name")]
