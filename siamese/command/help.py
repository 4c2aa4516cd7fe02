"""The tables of ``train.py --help`` and ``eval.py --help``: what is used most, then all groups, options and keys.

Hydra composes the configuration first, so the tables show the keys and values of what the command line chooses.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from pydantic.fields import FieldInfo

from siamese.config.reference import groups_of, options_of_group, values_of
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import options_of, sections_of

MOST_USED = (
    "data", "model", "optimizer", "learning_rate", "batch_size", "max_epochs", "patience", "weight_decay",
    "model.dropout", "seed", "resume",
)  # fmt: skip
"""Groups and keys that the help of ``train.py`` lists first."""

COLUMN, WIDEST = 28, 100
"""Column at which descriptions start, and the largest width of a line."""

Schema = type[TrainConfig | EvalConfig]


class Entry(NamedTuple):
    """A key or a group."""

    assignment: str
    """``key=value`` or ``group=option``."""
    meaning: str
    values: str = ""


OUTPUT = Entry("hydra.run.dir=FOLDER", "output folder of the run (default: a new one in outputs/)")


def help_tables(plain: dict[str, Any], choices: Mapping[str, str | None]) -> str:
    """The tables as text, for the width of the terminal.

    Args:
        plain: the composed configuration as nested dicts, without Hydra's section.
        choices: the chosen option of each group.
    """
    schema: Schema = EvalConfig if "run" in plain else TrainConfig
    keys, groups = _keys(schema, plain), groups_of(schema)
    options = {group: options_of_group(group) for group in groups}
    lines = []
    if schema is TrainConfig:
        chosen = {group: Entry(f"{group}={choices.get(group)}", meaning) for group, meaning in groups.items()}
        used = [entry for name in MOST_USED if (entry := (chosen | keys).get(name))]
        lines = ["Used most:", *_table([(one.assignment, one.meaning) for one in (*used, OUTPUT)]), ""]
    lines += ["Groups and their options:", *_table([(group, ", ".join(options[group])) for group in groups])]
    lines += ["", "All keys and options (* chosen):", *_table_of_keys(keys, "")]
    sections = {name: field.description or "" for name, field in schema.model_fields.items() if name not in keys}
    for name, meaning in (sections | groups).items():
        lines += ["", *textwrap.wrap(f"{name}: {meaning}", _width())]
        marks = {option: "*" if option == choices.get(name) else " " for option in options.get(name, ())}
        lines += _table([(f"{mark} {option}", options[name][option]) for option, mark in marks.items()])
        lines += _table_of_keys(keys, name)
    return "\n".join(lines)


def _keys(schema: Schema, plain: dict[str, Any]) -> dict[str, Entry]:
    """The keys that can be set, also those of the chosen options."""
    found = {}
    for name, field in schema.model_fields.items():
        sections, value = sections_of(field.annotation), plain.get(name)
        if not sections:
            found[name] = _entry(name, field, value)
        elif isinstance(value, dict):
            chosen = next((one for one in sections if value.get("name") in options_of(one)), sections[0])
            for key, of_section in chosen.model_fields.items():
                if key != "name":
                    found[f"{name}.{key}"] = _entry(f"{name}.{key}", of_section, value.get(key))
    return found


def _entry(key: str, field: FieldInfo, value: Any) -> Entry:
    meaning = (field.description or "").replace("`", "")
    if value == "???":
        return Entry(f"{key}=", meaning, f"required: {values_of(field)}")
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]
    return Entry(f"{key}={shown}", meaning, values_of(field))


def _table_of_keys(keys: Mapping[str, Entry], section: str) -> list[str]:
    own = [entry for key, entry in keys.items() if key.rpartition(".")[0] == section]
    return _table([(one.assignment, f"{one.meaning} [{one.values}]") for one in own])


def _table(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns; a long first cell has a line of its own."""
    lines = []
    for left, right in rows:
        first, *rest = textwrap.wrap(right, _width() - COLUMN, break_long_words=False, break_on_hyphens=False)
        fits = len(left) + 4 <= COLUMN
        lines += [f"  {left}".ljust(COLUMN) + first] if fits else [f"  {left}", " " * COLUMN + first]
        lines += [" " * COLUMN + line for line in rest]
    return lines


def _width() -> int:
    return max(60, min(shutil.get_terminal_size().columns, WIDEST))
