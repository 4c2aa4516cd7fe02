"""The section "Error rates by group": its tables and its sentences about differences."""

from __future__ import annotations

import numpy as np
import pytest

from siamese.evaluation.subgroups import figures_by_group
from siamese.report.error_rates import attribute_tables, how_certain
from siamese.runs.tables import GroupFigure


def figures(rates: dict[str, float], pairs: int = 100) -> list[GroupFigure]:
    """Same pairs in groups with these shares of errors, and one pair whose group is unknown."""
    both = [(name, name) for name in rates for _ in range(pairs)] + [("", "")]
    wrong = [k < rate * pairs for rate in rates.values() for k in range(pairs)] + [True]
    return figures_by_group(
        {"gender": both}, [1] * len(both), np.logical_not(wrong), [(k, k) for k in range(len(both))]
    )


def test_a_row_for_each_group_and_for_pairs_without_one() -> None:
    [table] = attribute_tables(figures({"f": 0.5, "m": 0.25}))
    assert [title for title, _ in table.rows] == ["All test pairs", "f", "m", "Unknown"]
    accuracy, fnmr, fmr = table.rows[1][1]
    assert (accuracy.counts, fnmr.counts, fmr.counts) == ("50 of 100", "50 of 100", "0")
    assert (fnmr.share, fnmr.interval, fnmr.too_few) == ("50.0 %", "40.4 – 59.6 %", False)
    assert (fmr.share, fmr.interval, fmr.too_few) == ("–", "", True)
    assert all(cells.too_few for cells in table.rows[3][1])


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [({"f": 0.5, "m": 0.2}, "more than chance explains"), ({"f": 0.25, "m": 0.2}, "It may be due to chance")],
)
def test_a_difference_is_larger_than_its_uncertainty_or_not(rates: dict[str, float], verdict: str) -> None:
    found = figures(rates)
    [table] = attribute_tables(found)
    fnmr, fmr = table.differences
    assert "highest in the group “f”, lowest in “m”" in fnmr
    assert f"the difference is {100 * (rates['f'] - rates['m']):.1f} percentage points" in fnmr
    assert verdict in fnmr
    assert fmr == "False match rate: fewer than two groups are large enough to be compared."
    assert "hold together with 95 % confidence (Bonferroni, 1 comparison)" in how_certain(found)


def test_small_groups_are_not_compared() -> None:
    found = figures({"f": 0.5, "m": 0.0}, pairs=20)
    [table] = attribute_tables(found)
    assert all("fewer than two groups are large enough" in sentence for sentence in table.differences)
    assert how_certain(found) == ""
