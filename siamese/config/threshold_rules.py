"""The names of rules for a threshold; apart from what applies them, so that a configuration is checked in no time."""

from __future__ import annotations

import re

RULES = "accuracy, eer, or far:RATE with a false accept rate from 0 to below 1, as far:0.01"

_FAR = re.compile(r"far:(?P<rate>[0-9.eE+-]+)")


def far_of(rule: str) -> float | None:
    """The false accept rate that a rule asks for; None for the other two.

    Raises:
        ValueError: not one of `RULES`.
    """
    if rule in ("accuracy", "eer"):
        return None
    found = _FAR.fullmatch(rule)
    try:
        rate = float(found["rate"]) if found else -1.0
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise ValueError(f"{rule!r} is no rule for a threshold: give {RULES}")
    return rate
