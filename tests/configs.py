"""Build typed configurations from a few keys; the others get their defaults from the YAML files in ``conf/``."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from pydantic import create_model

from siamese.config.data import ImageOptions
from siamese.config.defaults import configuration_folder, group_defaults
from siamese.config.schema import EvalConfig, TrainConfig


def train_config(**values: Any) -> TrainConfig:
    """The configuration of a run. A group is given as a dict, whose ``name`` chooses the file in ``conf/GROUP/``."""
    return TrainConfig.model_validate(_defaults() | _completed(values))


def eval_config(**values: Any) -> EvalConfig:
    """The configuration of an evaluation; groups as in `train_config`."""
    return EvalConfig.model_validate(_completed(values))


def section(group: str, **values: Any) -> Any:
    """A section alone, such as ``section("backend", name="lda")``."""
    field = TrainConfig.model_fields[group]
    alone: Any = create_model("Alone", **{group: (field.annotation, field)})  # type: ignore[call-overload]
    return getattr(alone.model_validate(_completed({group: values})), group)


def image_options(**values: Any) -> ImageOptions:
    """The options of images, of no particular data set."""
    return ImageOptions.model_validate(group_defaults("data", "_images") | values)


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    completed = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            completed[key] = (group_defaults(key, value["name"]) if "name" in value else _defaults()[key]) | value
    return completed


@cache
def _defaults() -> dict[str, Any]:
    """What ``train.yaml`` sets, and the options that it chooses."""
    top = yaml.safe_load((configuration_folder() / "train.yaml").read_text(encoding="utf-8"))
    chosen = {
        group: group_defaults(group, option)
        for entry in top["defaults"] if isinstance(entry, dict)
        for group, option in entry.items() if group in TrainConfig.model_fields
    }  # fmt: skip
    return {key: value for key, value in top.items() if key in TrainConfig.model_fields} | chosen
