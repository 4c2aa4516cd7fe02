"""Overrides as people type them: a value that is text, such as a folder, needs no quotes of Hydra's own."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, Sweep
from hydra.errors import HydraException

from siamese.config.defaults import configuration_folder
from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.text import shell_words

OUTPUT = frozenset({"hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"})
"""Folders that Hydra creates. A ``~`` in other folders is expanded by the schema, so also in YAML files."""

TEXT = OUTPUT | {
    "data.root", "data.list", "data.cache", "protocol.within", "run", "start_from", "groups", "name", "logger.project",
    "logger.uri", "experiment", "debug",
}  # fmt: skip
"""Keys and groups whose value is any text."""

NULLABLE = frozenset({"data.root", "protocol.within", "start_from", "groups", "logger.uri"})
"""Those of `TEXT` for which ``null`` means no value."""

LISTS = frozenset({"run", "experiment", "debug"})
"""Those of `TEXT` that also take a list in brackets."""

MULTIRUN = ("-m", "--multirun")
"""Hydra's option for a sweep."""

_OVERRIDE = re.compile(r"(\+{0,2}([\w./@:-]+)=)(.*)", re.DOTALL)
_VALUE = re.compile(
    r"""\s*(?:(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\[[^]]*])(?=\s*(?:,|$))|(?:\$\{[^}]*}|[^,])+)""", re.DOTALL
)
"""One of several values that are separated by commas."""

_parser = OverridesParser.create()


def as_typed(words: Sequence[str]) -> list[str]:
    """Put values into quotes that Hydra's grammar cannot read, and those of `TEXT` that it would change.

    ``data.root=Fotos (2024)`` becomes ``data.root='Fotos (2024)'``. So do numbers, ``true`` and outer spaces. Hydra's
    own notation keeps its meaning: quotes around the whole value, escapes, ``${...}``, and with ``-m`` the commas and
    functions of a sweep.

    Args:
        words: the arguments of the command line.

    Raises:
        ConfigError: a word without a key, or several options of a group, which Hydra would merge without a word.
    """
    in_sweep = bool({*MULTIRUN, "hydra.mode=MULTIRUN"} & set(words))
    typed = [_quoted_if_needed(word, in_sweep) for word in words]
    return _for_jobs_only(typed) if in_sweep else typed


def _for_jobs_only(words: list[str]) -> list[str]:
    """If a group is swept, make each of its keys a sweep over the one value; if ``experiment`` is, all keys.

    Hydra composes a sweep itself without the swept groups. The default option may lack a key that all swept options
    have, as in ``-m optimizer=sgd,muon optimizer.momentum=0.9``. A sweep over the key is left to the jobs.
    """
    found = [_OVERRIDE.fullmatch(word) for word in words]
    parts = [match.groups() if match else ("", "", "") for match in found]
    groups = {key for _, key, value in parts if _is_group(key) and isinstance(_read(value), Sweep)}

    def may_lack(key: str) -> bool:
        section, dot, _ = key.partition(".")
        return bool(dot) and section != "hydra" and (section in groups or "experiment" in groups)

    return [
        f"{start}choice({value})" if may_lack(key) and _survives(value) else word
        for word, (start, key, value) in zip(words, parts, strict=True)
    ]


def _survives(value: str) -> bool:
    """Whether a sweep over one value gives this value to the job: there, Hydra drops quotes and refuses null."""
    try:
        sweep = _parser.parse_override(f"key=choice({value})")
        return [_read(one) for one in sweep.sweep_string_iterator()] == [_read(value)]
    except HydraException:
        return False


def has_several(override: Override) -> bool:
    """Whether an override is a sweep over more than the one value of `_for_jobs_only`."""
    value = override.value()
    return isinstance(value, Sweep) and not (isinstance(value, ChoiceSweep) and len(value.list) == 1)


def is_option(word: str) -> bool:
    """Whether a word of the command line chooses an option of a group."""
    return _is_group(word.lstrip("+").partition("=")[0])


def _is_group(key: str) -> bool:
    return key.startswith("hydra/") or (bool(key) and (configuration_folder() / key).is_dir())


def quoted(text: str) -> str:
    """A text in Hydra's quotes."""
    return str(QuotedString(text, Quote.single).with_quotes())


def shell_word(key: str, text: str) -> str:
    """``key=text`` as a word of a shell command, in quotes only where they are needed."""
    [typed] = as_typed([f"{key}={text}"])
    return shell_words([f"{key}={text if _read(typed.partition('=')[2]) == text else quoted(text)}"])


def _quoted_if_needed(word: str, in_sweep: bool) -> str:
    if word.startswith("="):  # Hydra would end with a ValueError
        raise ConfigError(f"'{word}': expected KEY=VALUE or GROUP=OPTION, without spaces around the equals sign")
    found = _OVERRIDE.fullmatch(word)
    if found is None:
        return word
    start, key, value = found.groups()
    try:
        read = _read(value)
    except HydraException:
        several = in_sweep and key in TEXT
        return start + (_each(key, value) if several else _text(key, value))
    if _is_group(key) and key not in TEXT:
        _check_options(key, read)
        names = read.list if isinstance(read, ChoiceSweep) else [read]
        if wrong := [name for name in names if name is None or isinstance(name, bool | int | float | dict | Sweep)]:
            # As text, a name that no option has: Hydra would end with a ValueError.
            if not isinstance(read, Sweep):
                return start + _text(key, value)
            if isinstance(read, ChoiceSweep) and read.simple_form and not any(isinstance(name, dict) for name in wrong):
                return start + _each(key, value)
            raise ConfigError(f"{key}={value}: expected names of options; set their keys as {key}.KEY=VALUE")
    if key not in TEXT:
        return word
    if isinstance(read, Sweep) and (in_sweep or key in LISTS):  # without -m, Hydra explains what several values mean
        is_plain = in_sweep and isinstance(read, ChoiceSweep) and read.simple_form
        return start + _each(key, value) if is_plain else word
    return start + _text(key, value)


def _check_options(group: str, read: Any) -> None:
    lists = [one for one in (read.list if isinstance(read, ChoiceSweep) else [read]) if isinstance(one, list)]
    if lists and group in TrainConfig.model_fields:
        options = ",".join(map(str, lists[0]))
        remedy = f"a sweep over them is -m {group}={options}"
        if group == "logger":
            remedy = "every run also writes its curves to history.csv, whatever the logger"
        raise ConfigError(f"{group}=[{options}]: give one option; {remedy}")


def _each(key: str, values: str) -> str:
    return ",".join(_text(key, value.strip()) for value in _VALUE.findall(values))


def _text(key: str, value: str) -> str:
    if key in LISTS and value.startswith("[") and value.endswith("]"):
        return f"[{_each(key, value[1:-1])}]"
    try:
        read = _read(value)
    except HydraException:
        read = None
    typed = read if isinstance(read, str) and value[:1] in ("'", '"') else value
    if key in OUTPUT and typed.startswith("~"):
        return quoted(os.path.expanduser(typed))  # noqa: PTH111 - Path's raises an error if there is no such user
    is_text = isinstance(read, str) and value == value.strip()
    is_null = key in NULLABLE and value.lower() == "null"
    return value if is_text or is_null else quoted(value)


def _read(value: str) -> Any:
    """What Hydra reads; raises a HydraException if its grammar does not allow the value."""
    return _parser.parse_override(f"key={value}").value()
