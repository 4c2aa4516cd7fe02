"""Names of the rules that choose a threshold; `siamese.evaluation.thresholds` applies them."""

from __future__ import annotations

import re

RULES = "accuracy, eer, or far:RATE with a false accept rate from 0 to below 1, such as far:0.01"

_FAR = re.compile(r"far:(?P<rate>[0-9.eE+-]+)")


def far_of(rule: str) -> float | None:
    """Return the false accept rate of a rule ``far:RATE``; None for the other two rules.

    Raises:
        ValueError: the rule is not one of `RULES`.
    """
    if rule in ("accuracy", "eer"):
        return None
    found = _FAR.fullmatch(rule)
    try:
        rate = float(found["rate"]) if found else -1.0
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise ValueError(f"{rule!r} is not a rule for the threshold; give {RULES}")
    return rate
