"""The figures of closed-set and open-set identification, for run pages and sweep pages."""

from __future__ import annotations

from typing import NamedTuple

from siamese.evaluation.identification import FPIRS, RANKS
from siamese.runs.records import Result
from siamese.text import count


class Figure(NamedTuple):
    """A recorded figure.

    Attributes:
        title: its name.
        gallery: who is in the gallery, and who is not.
        value: the figure, a share of searches.
        ends: its 95 % confidence interval; None if undefined.
        chance: what guessing gives; None if that depends on the network.
    """

    title: str
    gallery: str
    value: float
    ends: list[float] | None
    chance: float | None = None


def identification_figures(result: Result) -> list[Figure]:
    """Return those figures of an evaluation with protocol=identification that are recorded."""
    people, enrolled = result.n_test_people, result.identification_enrolled
    if people is None or enrolled is None:
        return []
    closed = count(people, "person", "people")
    opened = f"{count(enrolled, 'person', 'people')}, {count(people - enrolled, 'stranger')}"
    titles = [
        *((f"Rank {rank}", closed, f"rank{rank}", min(1.0, rank / people)) for rank in RANKS),
        *((f"TPIR at FPIR {100 * far:g} %", opened, f"tpir@fpir={far:g}", None) for far in FPIRS),
        ("TPIR at the run’s threshold", opened, "tpir", None),
        ("FPIR at the run’s threshold", opened, "fpir", None),
    ]
    return [
        Figure(title, gallery, value, result.interval(f"identification/{key}"), chance)
        for title, gallery, key, chance in titles
        if (value := result.figure(f"identification/{key}")) is not None
    ]
