"""Words for numbers and lists in messages and on pages."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from typing import Any


def count(value: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun: 1 pair; 1,000 pairs.

    Args:
        value: the number.
        noun: singular of the noun, and what depends on its number: ``photo``, or ``person has``.
        plural: the same in the plural, such as ``people have``; empty: ``noun`` with an s.
    """
    return f"{value:,} {noun if value == 1 else plural or f'{noun}s'}"


def shell_words(words: Iterable[str]) -> str:
    """Join words to a command that a POSIX shell takes; quotes inside a word stay readable where they can."""
    return " ".join(
        f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word) for word in words
    )


def to_json(value: Any, indent: int | None = None) -> str:
    """Write JSON for the terminal, with letters of any language as they are if it can show them."""
    ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    return text.encode("utf-8", "backslashreplace").decode()  # a file name that is not UTF-8


def either(words: Iterable[str]) -> str:
    """Join words: ``a, b or c``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def duration(seconds: float) -> str:
    """37.8 s, 12 min 5 s, 2 h 3 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
