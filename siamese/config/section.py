"""What all sections of the configuration share."""

from __future__ import annotations

import os
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator

UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or folder; ``~`` is the home directory."""


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors, types are strict, and values cannot be changed.

    Fields have no defaults: the YAML files in ``conf/`` set every key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def number_or_fraction(least: int, unit: str, example: str) -> PlainValidator:
    """Accept a whole number from ``least`` on, a fraction in (0, 1] written with a decimal point, or null."""

    def check(value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if value is None or is_number or (isinstance(value, float) and 0 < value <= 1):
            return value
        raise ValueError(
            f"{value!r} is neither a number of {unit} ({least} or more) nor a fraction such as {example} or 1.0"
        )

    return PlainValidator(check)


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as nested dicts of str, int, float, bool, None and list: safe in a checkpoint."""
    return config.model_dump(mode="json")


def sections_of(annotation: Any) -> list[type[Section]]:
    """The sections that a value with this annotation may be, in the order of the schema."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_of(part)]


def options_of(section: type[Section]) -> list[str]:
    """The options of a group that a section describes: the values of its key ``name``."""
    return list(get_args(section.model_fields["name"].annotation)) if "name" in section.model_fields else []
