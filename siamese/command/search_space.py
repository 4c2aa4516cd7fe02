"""The YAML file of a hyperparameter search: which keys vary, over which values, and how the search proceeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from siamese.config.defaults import configuration_folder
from siamese.config.load import compose_train
from siamese.config.schema import TrainConfig
from siamese.config.section import Section
from siamese.data.sources import check_data
from siamese.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str


class Values(Section):
    """The values of one key: a number from ``low`` to ``high`` (an integer if both are), or one of ``choices``."""

    low: int | float | None = None
    high: int | float | None = Field(None, description="included in the range")
    log: bool = Field(False, description="draw uniformly on a logarithmic scale")
    step: int | float | None = Field(None, gt=0, description="distance between neighbouring values")
    choices: list[Value] | None = Field(None, min_length=2, description="written as on the command line")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Values:
        if self.choices is not None:
            if self.model_fields_set != {"choices"}:
                raise ValueError("choices cannot be combined with low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log=true needs low above 0 and no step")
        return self

    @property
    def extremes(self) -> list[Value]:
        """Both ends of a range, or all choices."""
        return self.choices or [end for end in (self.low, self.high) if end is not None]

    @property
    def distribution(self) -> BaseDistribution:
        """The same values as one of Optuna's distributions."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float):
            return IntDistribution(self.low, self.high, self.log, self.step or 1)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)


class Pruning(Section):
    """Stop a trial early if its best value so far is worse than the median of other trials after as many epochs."""

    startup: int = Field(5, ge=1, description="number of finished trials before pruning begins")
    warmup: int = Field(2, ge=0, description="number of epochs before a trial may be stopped")


class SearchConfig(Section):
    """A search space, and how it is searched."""

    metric: Literal["val/loss", "val/acc", "val/auc"] = Field(
        "val/loss", description="figure to optimise: the loss is minimised, the others are maximised"
    )
    trials: int = Field(30, ge=1, description="total number of trials, including pruned and failed ones")
    random: int = Field(10, ge=1, description="number of random trials before Optuna's TPE sampler proposes values")
    seed: int = Field(0, ge=0, description="seed of the sampler")
    pruning: Pruning | None = Field(Pruning(), description="null: no trial is stopped early")
    space: dict[str, Values] = Field(min_length=1, description="configuration keys and their values")

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Optuna's name of the direction in which the metric improves."""
        return "minimize" if self.metric == "val/loss" else "maximize"

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The search space as Optuna takes it."""
        return {key: values.distribution for key, values in self.space.items()}


def space_file(name: str) -> Path:
    """Return the file of a search space, given its path or the name of one in ``conf/search``.

    Raises:
        ConfigError: there is no such file.
    """
    if (file := Path(name)).is_file():
        return file
    folder = configuration_folder() / "search"
    if (file := folder / f"{name}.yaml").is_file():
        return file
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
    raise ConfigError(f"{name}: no such file; give a YAML file with a search space, or one of {known}")


def check_space(plan: SearchConfig, overrides: Sequence[str]) -> None:
    """Check the data, and the configuration with both ends of each range and with each choice.

    Raises:
        UserError: a value or the data cannot be used.
    """
    train = compose_trial(overrides)
    check_data(train.data, train.protocol)
    if train.trainer.processes > 1:
        raise ConfigError("a search trains each network in one process; leave out trainer=ddp")
    for key, values in plan.space.items():
        for value in values.extremes:
            try:
                compose_trial([*overrides, as_override(key, value)])
            except ConfigError as error:
                raise ConfigError(f"space: {error}") from None


def compose_trial(overrides: Sequence[str]) -> TrainConfig:
    """Compose the configuration of a trial with these overrides; raises a ConfigError if it is invalid."""
    return compose_train([*overrides, "resume=true"])


def as_override(key: str, value: Value) -> str:
    """Format a value as on the command line."""
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={value}"  # 0.3, not 0.30000000000000004
