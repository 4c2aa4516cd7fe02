"""Check a configuration against its schema; errors are one line with the key, its value and what was expected."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from siamese.config.section import options_of, sections_of
from siamese.config.suggestions import is_set, keys_of, suggest_keys
from siamese.errors import ConfigError, UnknownKeyError
from siamese.text import either

S = TypeVar("S", bound=BaseModel)

MOST_LISTED = 15
"""Number of keys up to which a message lists them all."""

_NO_WORKERS = "there are no worker processes to configure, because all images are kept in memory as one array"
NOT_NEEDED = dict.fromkeys(("num_workers", "n_workers", "workers", "pin_memory", "prefetch_factor"), _NO_WORKERS)
"""Keys of other projects that have no counterpart here -> why."""


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
        return unknown_key(key, plain, schema)
    if detail["input"] in ("", None) and kind in ("string_too_short", "too_short", "string_type"):
        return not_set(key, plain, schema)
    if kind == "missing":
        return f"{key} is missing"
    if kind == "union_tag_invalid":
        return f"{key}={detail['ctx']['tag']} is not possible here; give one of {detail['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return f"{key}.name is missing; choose an option of the group {key}"
    if kind == "list_type" and isinstance(detail["input"], str | float | int):
        return f"{key}={detail['input']}: expected a list; give {key}=[{str(detail['input']).strip('[]')}]"
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
            or (part == detail["loc"][-1] and isinstance(node, dict) and not is_branch)
        ):
            path.append(str(part))
            node = node.get(part) if isinstance(node, dict) else None
    return ".".join(path)


def not_set(key: str, plain: Any, schema: type[BaseModel]) -> str:
    """Say what to give for a key without a value; arguments as of `unknown_key`."""
    field = schema.model_fields.get(key)
    section, _, last = key.rpartition(".")
    if section in schema.model_fields and isinstance(plain, dict):
        name = plain[section].get("name")
        sections = sections_of(schema.model_fields[section].annotation)
        chosen = (one for one in sections if not options_of(one) or name in options_of(one))
        field = next((one.model_fields.get(last) for one in chosen), None)
    meaning = ((field and field.description) or "value").partition(";")[0]
    example = ((field and field.examples) or [last.upper()])[0]
    return f"{key} is not set; give the {meaning}, as in {key}={example}"


def unknown_key(key: str, plain: Any, schema: type[BaseModel]) -> str:
    """Describe an unknown key: with keys that were probably meant, otherwise with all keys of its section.

    Args:
        key: the key, as ``section.key``.
        plain: the configuration as nested dicts.
        schema: the section that ``plain`` is checked against.
    """
    known = keys_of(schema)
    section, _, last = key.rpartition(".")
    if section not in known:
        section = key.partition(".")[0] if "." in key else ""
    if last in NOT_NEEDED:
        return f"unknown key '{key}'; {NOT_NEEDED[last]}"
    if options := known.get(key):
        chosen = plain.get(section) if isinstance(plain, dict) else None
        now = f" with {section}={chosen['name']}" if isinstance(chosen, dict) and "name" in chosen else ""
        return f"unknown key '{key}'{now}; it is a key of {section}={either(options)}"
    if names := suggest_keys(key, plain, schema):
        return f"unknown key '{key}'; did you mean {either(names)}?"
    parts = [name.rpartition(".") for name in known if is_set(name, plain) or not known[name]]
    siblings = [part for prefix, _, part in parts if prefix == section]
    if len(siblings) > MOST_LISTED:
        return f"unknown key '{key}'; --help lists all keys"
    return f"unknown key '{key}' (keys{f' of {section}' if section else ''}: {', '.join(siblings)})"


def validate(plain: Any, schema: type[S]) -> S:
    """Check nested dicts against the schema and return the typed section.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        raise explained(error, plain, schema) from None
