"""Check a configuration against its schema; errors are one line with the key, its value and what was expected."""

from __future__ import annotations

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from siamese.errors import ConfigError, UnknownKeyError

S = TypeVar("S", bound=BaseModel)


def explained(error: ValidationError, plain: Any, schema: type[BaseModel]) -> ConfigError:
    """Turn pydantic's error into a `ConfigError` about the first problem; an `UnknownKeyError` if a key is unknown.

    Args:
        error: pydantic's error on ``plain``.
        plain: the configuration as nested dicts and lists.
        schema: the section that ``plain`` was checked against.
    """
    details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    message = _explain(details[0], plain, schema) + more
    if details[0]["type"] == "extra_forbidden":
        return UnknownKeyError(message, _key(details[0], plain))
    return ConfigError(message)


def _explain(detail: Any, plain: Any, schema: type[BaseModel]) -> str:
    """Describe one of pydantic's problems as ``key=value: what is wrong``."""
    key, kind = _key(detail, plain), detail["type"]
    if kind == "extra_forbidden":
        return unknown_key(key, _known_keys(schema, plain, key.split(".")[:-1]))
    if kind == "missing":
        return f"{key} is missing"
    if kind == "union_tag_invalid":
        return f"{key}={detail['ctx']['tag']} is not possible here; give one of {detail['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{key}.name is missing; choose an option of the group {key}"
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return f"{key}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _key(detail: Any, plain: Any) -> str:
    """Return the key that one of pydantic's problems is about, as ``section.key``."""
    path, node = [], plain
    for part in detail["loc"]:
        # Pydantic's location also contains the branch of a union, which is not a key of the configuration.
        is_branch = isinstance(node, dict) and part == node.get("name") and part not in node
        if (
            isinstance(part, int)
            or (isinstance(node, dict) and part in node)
            or (part == detail["loc"][-1] and not is_branch)
        ):
            path.append(str(part))
            node = node.get(part) if isinstance(node, dict) else None
    return ".".join(path)


def _known_keys(schema: type[BaseModel], plain: Any, path: list[str]) -> list[str]:
    """Return the valid keys of the section at ``path``."""
    sections = [schema]
    for part in path:
        plain = plain.get(part) if isinstance(plain, dict) else None
        sections = [found for section in sections for found in _sections_of(section.model_fields[part].annotation)]
    named = [
        section
        for section in sections
        if isinstance(plain, dict)
        and "name" in section.model_fields
        and plain.get("name") in getattr(section.model_fields["name"].annotation, "__args__", ())
    ]
    return [key for section in (named or sections) for key in section.model_fields]


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections_of(part)]


def unknown_key(key: str, known: list[str]) -> str:
    """Describe an unknown key, with the most similar valid key or all of them."""
    prefix, _, last = key.rpartition(".")
    near = difflib.get_close_matches(last, known, n=1)
    where = f" of {prefix}" if prefix else ""
    hint = f"; did you mean {prefix + '.' if prefix else ''}{near[0]}?" if near else ""
    return f"unknown key '{key}'{hint}" + (f" (keys{where}: {', '.join(known)})" if known and not near else "")


def validate(plain: Any, schema: type[S]) -> S:
    """Check nested dicts against the schema and return the typed section.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        raise explained(error, plain, schema) from None
