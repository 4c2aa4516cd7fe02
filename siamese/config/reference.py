"""What ``--help`` and docs/configuration.md say about keys, their values, groups and options.

Keys and groups are described in the schema, options by the comment that their YAML file opens with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from siamese.config.defaults import configuration_folder
from siamese.config.schema import PRESETS, EvalConfig, TrainConfig
from siamese.text import either

KINDS: dict[Any, list[str]] = {
    int: ["whole number"], float: ["number"], bool: ["true", "false"], str: ["text"], type(None): ["null"],
}  # fmt: skip
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def groups_of(schema: type[TrainConfig | EvalConfig]) -> dict[str, str]:
    """The groups of ``train.py`` or ``eval.py``, and what each of them is for."""
    fields = {name: field.description or "" for name, field in schema.model_fields.items()}
    own = {name: meaning for name, meaning in fields.items() if (configuration_folder() / name).is_dir()}
    return own | (PRESETS if schema is TrainConfig else {})


def options_of_group(group: str) -> dict[str, str]:
    """The options of a group, and the first sentence of the comment that each file opens with."""
    folder = configuration_folder() / group
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
    return {
        option: _first_sentence(file.read_text(encoding="utf-8"))
        for option, file in files.items()
        if not option.startswith("_")  # a part of other options
    }


def values_of(field: FieldInfo) -> str:
    """The values that a key may have, in words."""
    return either(_alternatives(field.annotation, field.metadata))


def _alternatives(annotation: Any, metadata: Iterable[Any]) -> list[str]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in KINDS:
        limits = [
            f"{sign} {getattr(one, name)}" for one in metadata for name, sign in LIMITS.items() if hasattr(one, name)
        ]
        bounds = f" {' and '.join(limits)}" if annotation in (int, float) and limits else ""
        return [f"{kind}{bounds}" for kind in KINDS[annotation]]
    if origin is Literal:
        return [str(value) for value in parts]
    if origin is Annotated:
        return _alternatives(parts[0], [one for extra in parts[1:] for one in getattr(extra, "metadata", ())])
    if origin is list:
        return [
            f"list of {one.replace('number', 'numbers').replace('text', 'texts')}"
            for one in _alternatives(parts[0], ())
        ]
    numbers = [part for part in parts if part is not int or float not in parts]
    return [one for part in numbers for one in _alternatives(part, metadata)]


def _first_sentence(text: str) -> str:
    comment = [
        line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and "@package" not in line
    ]
    return re.split(r"(?<![a ]al[.])(?<=[.]) |  ", " ".join(comment))[0].rstrip(".:")
