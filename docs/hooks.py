"""MkDocs hooks: the configuration reference from the schema, and links that lead out of docs/."""

from __future__ import annotations

import re
import typing
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from siamese.config.load import configuration_folder
from siamese.config.schema import Section, TrainConfig

MARKER = "<!-- configuration -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the reference in its place; files outside docs/, which the site lacks, are named without a link."""
    if MARKER in markdown:
        markdown = markdown.replace(MARKER, reference())
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)


def reference() -> str:
    """Every key of ``train.py`` in Markdown: a table for the top level, one for each option of each group."""
    top = yaml.safe_load((configuration_folder() / "train.yaml").read_text(encoding="utf-8"))
    groups = {name: sections(field.annotation) for name, field in TrainConfig.model_fields.items()}
    keys = {name: field for name, field in TrainConfig.model_fields.items() if not groups[name]}
    lines = ["## Keys of every run", "", *table(keys, top)]
    for name, found in groups.items():
        if not found:
            continue
        lines += ["", f"## `{name}`", ""]
        for section in found:
            lines += [*heading(section, len(found)), *table(fields_of(section), values_of(name, section))]
    return "\n".join(lines)


def sections(annotation: Any) -> list[type[Section]]:
    """The sections that a value may be, in the order of the schema."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in sections(part)]


def heading(section: type[Section], number: int) -> list[str]:
    """The option's name and what the schema says of it."""
    names = " ".join(f"`{name}`" for name in names_of(section))
    doc = " ".join((section.__doc__ or "").split()).replace("``", "`")
    return [f"### {names}", "", doc, ""] if number > 1 and names else [doc, ""]


def names_of(section: type[Section]) -> list[str]:
    """The options that a section describes: the values of its ``name``."""
    field = section.model_fields.get("name")
    return [str(value) for value in typing.get_args(field.annotation)] if field else []


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The keys of a section, its name apart."""
    return {key: field for key, field in section.model_fields.items() if key != "name"}


def values_of(group: str, section: type[Section]) -> dict[str, Any]:
    """What the file of the section's first option sets."""
    for name in names_of(section) or ["auto"]:
        file = configuration_folder() / group / f"{name}.yaml"
        if file.is_file():
            values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            return dict(values.get(group, values))
    return {}


def table(fields: dict[str, FieldInfo], values: dict[str, Any]) -> list[str]:
    """Key, default, what it may be, meaning; the default is that of the file, else of the schema."""
    if not fields:
        return ["No keys.", ""]
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    for key, field in fields.items():
        default = values.get(key, field.default if field.default is not PydanticUndefined else "")
        if isinstance(default, Section):
            default = ""
        shown = "" if default == "" else f"`{yaml.safe_dump(default, default_flow_style=True).split(chr(10))[0]}`"
        limits = ", ".join(str(limit) for limit in field.metadata if type(limit).__module__.startswith("annotated"))
        rows.append(
            " | ".join([f"| `{key}`", shown, kinds(field.annotation, limits), (field.description or "") + " |"])
        )
    return [*rows, ""]


def kinds(annotation: Any, limits: str) -> str:
    """What a value may be, in words."""
    words = {int: "whole number", float: "number", bool: "true, false", str: "text", type(None): "null"}
    if annotation in words:
        told = words[annotation]
    elif typing.get_origin(annotation) is typing.Literal:
        told = ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    elif typing.get_origin(annotation) is list:
        told = f"list of {kinds(typing.get_args(annotation)[0], '')}"
    elif typing.get_args(annotation):
        parts = [kinds(part, "") for part in typing.get_args(annotation) if part in words or typing.get_origin(part)]
        told = " or ".join(dict.fromkeys(part for part in parts if part))
    else:
        told = ""
    bounds = re.findall(r"(Ge|Gt|Le|Lt|MultipleOf)\(\w+=([^)]+)\)", limits)
    signs = {"Ge": "≥", "Gt": ">", "Le": "≤", "Lt": "<", "MultipleOf": "multiple of"}
    return " ".join([told, ", ".join(f"{signs[kind]} {value}" for kind, value in bounds)]).strip()
