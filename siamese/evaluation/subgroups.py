"""Accuracy and error rates of groups of test pairs, such as those of women and of men.

A pair belongs to a group if both of its images do, also a different pair: its two people then look as alike as two
members of the group do. False match rates are usually given for such pairs (Grother, Ngan and Hanaoka 2019, NISTIR
8280, "Face Recognition Vendor Test Part 3: Demographic Effects"). All other pairs are two groups of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from numpy.typing import ArrayLike

from siamese.evaluation.intervals import UNDEFINED, Interval, difference_interval, share_interval
from siamese.evaluation.metrics import as_flags
from siamese.evaluation.people import PairPeople, are_few
from siamese.runs.tables import GroupFigure, GroupKind

LEAST = 30
"""With fewer pairs (intervals over people: with fewer people), a figure says nothing.

By the rule of three (Jovanovic and Levy 1997), n trials without an error only show that the true rate is below
3 / n, with 95 % confidence: for 30 trials below 10 %.
"""

RATES = ("fnmr", "fmr")
"""The figures whose differences between groups are reported. The accuracy depends on the share of same pairs."""


class _Group(NamedTuple):
    kind: GroupKind
    value: str = ""


class _Tested(NamedTuple):
    """All test pairs.

    Attributes:
        same, right: whether both images show one person, and whether the pair is decided correctly, [P].
        people: both people of each pair, [P].
        over_people: whether intervals are over people.
    """

    same: list[bool]
    right: list[bool]
    people: PairPeople
    over_people: bool

    def part(self, rows: Iterable[int], figure: str) -> tuple[list[bool], PairPeople]:
        """The pairs among ``rows`` that a figure is measured on: whether each is a case of it, and its people."""
        kept = [row for row in rows if figure == "acc" or self.same[row] == (figure == "fnmr")]
        return [self.right[row] == (figure == "acc") for row in kept], [self.people[row] for row in kept]

    def interval(self, cases: Sequence[bool], people: PairPeople, error: float = 0.05) -> Interval:
        return share_interval(cases, people, 1 - error, self.over_people) if cases else UNDEFINED


def figures_by_group(
    attributes: Mapping[str, Sequence[tuple[str, str]]], labels: ArrayLike, predicted: ArrayLike, people: PairPeople
) -> list[GroupFigure]:
    """Compute accuracy, false non-match rate and false match rate of each group, with 95 % confidence intervals.

    Args:
        attributes: for each attribute, the values of both images of each pair, [P]; empty if unknown.
        labels: 0 or 1 [P], 1 = same person.
        predicted: 0 or 1 [P].
        people: both people of each pair, [P].

    Returns:
        first the figures of all pairs, then for each attribute those of its groups, in alphabetical order, of pairs
        with two values, and of pairs with an unknown value. Then follows, for each of `RATES`, the difference between
        the groups with the highest and the lowest rate, of those that are not too small; its interval is wider, so that
        all `comparisons` hold together with 95 % confidence (Bonferroni).
    """
    same, accepted = as_flags(labels, "labels"), as_flags(predicted, "predicted")
    tested = _Tested(same.tolist(), (accepted == same).tolist(), people, are_few(people))
    found = _figures("", _Group("all"), tested, range(len(people)))
    rows: dict[tuple[str, _Group], list[int]] = {}
    for attribute, values in attributes.items():
        groups = [_Group("group", value) for value in sorted({value for pair in values for value in pair} - {""})]
        rows |= {(attribute, group): [] for group in (*groups, _Group("mixed"), _Group("unknown"))}
        for row, pair in enumerate(values):
            rows[attribute, _group_of(*pair)].append(row)
    for (attribute, group), members in rows.items():
        found += _figures(attribute, group, tested, members)
    return found + _differences(found, rows, tested)


def _group_of(one: str, other: str) -> _Group:
    if not one or not other:
        return _Group("unknown")
    return _Group("group", one) if one == other else _Group("mixed")


def _figures(attribute: str, group: _Group, tested: _Tested, rows: Sequence[int]) -> list[GroupFigure]:
    found = []
    for figure in ("acc", *RATES):
        cases, people = tested.part(rows, figure)
        pairs, number = len(cases), len({person for pair in people for person in pair})
        share = sum(cases) / pairs if pairs else math.nan
        too_few = min(pairs, number if tested.over_people else pairs) < LEAST
        numbers = share, *tested.interval(cases, people), sum(cases), pairs, number
        found.append(GroupFigure(attribute, group.kind, group.value, "", figure, *numbers, too_few))
    return found


def comparisons(figures: Sequence[GroupFigure]) -> int:
    """The number of pairs of groups that are large enough to be compared, over all attributes and `RATES`."""
    places = {(one.attribute, one.figure) for one in figures if one.figure in RATES}
    return sum(math.comb(len(_comparable(figures, *place)), 2) for place in places)


def _comparable(figures: Sequence[GroupFigure], attribute: str, rate: str) -> list[GroupFigure]:
    place = ("group", attribute, rate)
    return [one for one in figures if (one.kind, one.attribute, one.figure) == place and not one.too_few]


def _differences(
    figures: Sequence[GroupFigure], rows: Mapping[tuple[str, _Group], Sequence[int]], tested: _Tested
) -> list[GroupFigure]:
    found = []
    number = comparisons(figures)
    for attribute, rate in product(dict.fromkeys(attribute for attribute, _ in rows), RATES):
        groups = sorted(_comparable(figures, attribute, rate), key=lambda one: one.share)
        if len(groups) > 1:
            low, high = groups[0], groups[-1]
            ends = [
                tested.interval(*tested.part(rows[attribute, _Group("group", one.group)], rate), 0.05 / number)
                for one in (high, low)
            ]
            numbers = high.share - low.share, *difference_interval(high.share, ends[0], low.share, ends[1]), 0, 0, 0
            found.append(GroupFigure(attribute, "difference", high.group, low.group, rate, *numbers, too_few=False))
    return found
