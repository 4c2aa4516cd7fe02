"""Format numbers, names and tables for the pages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from siamese.errors import one_line

_LFW_NAME = re.compile(r"(?:.*/)?(.+)/\1_0*([0-9]+)\.[A-Za-z]+")

ABSENT = "–"
"""Shown in place of a number that is not recorded or not defined."""


def percent(value: float) -> str:
    """0.6667 -> 66.7 %."""
    return f"{100 * value:.1f} %"


def fixed(digits: int) -> Callable[[float], str]:
    """A function that formats a number with ``digits`` decimals."""
    return lambda value: f"{value:.{digits}f}"


def number(value: Any, write: Callable[[float], str]) -> str:
    """Format ``value`` with ``write``; a dash if it is not a finite number."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return write(value) if is_number else ABSENT


def interval(ends: Any, write: Callable[[float], str]) -> str:
    """[0.637, 0.696] -> 63.7 – 69.6 %; empty if it is not a pair of finite numbers."""
    if not isinstance(ends, Sequence) or len(ends) != 2 or ABSENT in (texts := [number(e, write) for e in ends]):
        return ""
    return f"{texts[0].removesuffix(' %')} – {texts[1]}"


def probability(value: float) -> str:
    """0.9 -> p = 0.900; never rounds to exactly 0 or 1: 0.9999 -> p > 0.999."""
    if value < 1 and f"{value:.3f}" == "1.000":
        return "p > 0.999"
    if value > 0 and f"{value:.3f}" == "0.000":
        return "p < 0.001"
    return f"p = {value:.3f}"


def photo_title(name: str) -> str:
    """Abdullah_Gul/Abdullah_Gul_0013.jpg -> Abdullah Gul 13; unchanged if it is not named as in LFW."""
    match = _LFW_NAME.fullmatch(name)
    return f"{match[1].replace('_', ' ')} {match[2]}" if match else name


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    return [f"| {' | '.join(map(table_cell, row))} |" for row in (head, ["---"] * len(head), *rows)]


def table_cell(text: Any) -> str:
    """A text as one cell of a Markdown table."""
    return one_line(text).replace("|", "\\|")
