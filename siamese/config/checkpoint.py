"""The section ``checkpoint``: which weights a run saves, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PlainValidator, model_validator

from siamese.config.section import Section


def _every(value: object) -> str | int:
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{value!r} is neither epoch nor a number of steps (1 or more)")


class CheckpointConfig(Section):
    """Which checkpoints a run saves, and when. ``checkpoint=best`` is short for ``checkpoint.keep=best``."""

    keep: Literal["best", "all", "none"] = Field(
        description="checkpoints that a finished run keeps; best: best.ckpt, the weights; all: also last.ckpt, with "
        "the state of the optimizer, from which a larger max_epochs continues; none: neither, and the run cannot be "
        "resumed or scored again"
    )
    every: Annotated[Literal["epoch"] | int, PlainValidator(_every)] = Field(
        description="when last.ckpt is saved: at the end of an epoch (at most every 30 seconds), or every N steps"
    )

    @model_validator(mode="after")
    def _something_is_saved(self) -> CheckpointConfig:
        if self.keep == "none" and self.every != "epoch":
            raise ValueError(f"keep=none saves nothing, so every={self.every} has no effect; leave one of them out")
        return self


def as_section(value: object) -> object:
    """``checkpoint=none`` is short for ``checkpoint.keep=none``."""
    return {"keep": value, "every": "epoch"} if isinstance(value, str) else value
