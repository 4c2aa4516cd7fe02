"""The section "Error rates by group" of a run page, from ``groups.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from siamese.evaluation.subgroups import RATES, comparisons
from siamese.report.text import interval, number, percent
from siamese.runs.tables import GroupFigure
from siamese.text import count

TITLES = {"all": "All test pairs", "mixed": "Two different groups", "unknown": "Unknown"}
"""Titles of the rows that are not those of a group."""

NAMES = {"fnmr": "false non-match rate", "fmr": "false match rate"}


class Cells(NamedTuple):
    """A figure of a group as it is shown: cases of pairs, share, confidence interval."""

    counts: str
    share: str
    interval: str
    too_few: bool


class AttributeTable(NamedTuple):
    """The groups of one attribute.

    Attributes:
        attribute: its name.
        rows: title of the group, and its figures in the order accuracy, false non-match rate, false match rate.
        differences: for each of `RATES` a sentence about the groups with the highest and the lowest rate.
    """

    attribute: str
    rows: list[tuple[str, list[Cells]]]
    differences: list[str]


def attribute_tables(figures: Sequence[GroupFigure]) -> list[AttributeTable]:
    """Arrange the rows of ``groups.csv`` in a table for each attribute, without kinds that have no pairs."""
    return [
        AttributeTable(attribute, _rows(figures, attribute), [_difference(figures, attribute, rate) for rate in RATES])
        for attribute in dict.fromkeys(one.attribute for one in figures if one.attribute)
    ]


def how_certain(figures: Sequence[GroupFigure]) -> str:
    """Say what the intervals of the differences hold for; empty if nothing is compared."""
    if not (number := comparisons(figures)):
        return ""
    return (
        "The highest and the lowest rate are compared, of the groups that are not too small. The intervals of the "
        "differences are so wide that all comparisons of two groups in these tables hold together with 95 % confidence "
        f"(Bonferroni, {count(number, 'comparison')})."
    )


def _rows(figures: Sequence[GroupFigure], attribute: str) -> list[tuple[str, list[Cells]]]:
    rows: dict[tuple[str, str], list[GroupFigure]] = {}
    for one in figures:
        if one.attribute in ("", attribute) and one.kind != "difference":
            rows.setdefault((one.kind, one.group), []).append(one)
    return [
        (TITLES.get(kind, group), [_cells(one) for one in found])
        for (kind, group), found in rows.items()
        if kind == "group" or any(one.pairs for one in found)
    ]


def _cells(one: GroupFigure) -> Cells:
    counts = f"{one.cases:,} of {one.pairs:,}" if one.pairs else "0"
    return Cells(counts, number(one.share, percent), interval([one.low, one.high], percent), one.too_few)


def _difference(figures: Sequence[GroupFigure], attribute: str, rate: str) -> str:
    name = NAMES[rate][0].upper() + NAMES[rate][1:]
    place = (attribute, "difference", rate)
    found = next((one for one in figures if (one.attribute, one.kind, one.figure) == place), None)
    if found is None:
        return f"{name}: fewer than two groups are large enough to be compared."
    ends = interval([100 * found.low, 100 * found.high], "{:.1f}".format)
    difference = (
        f"{name}: highest in the group “{found.group}”, lowest in “{found.minus}”; the difference is "
        f"{number(100 * found.share, '{:.1f}'.format)} percentage points (95 % confidence interval {ends})"
    )
    if found.low > 0:
        return f"{difference}, more than chance explains."
    return f"{difference}. It may be due to chance: these pairs do not show that the groups differ."
