"""Identification in a gallery with one image of each person, in the closed set and in the open set.

The figures are those of Phillips, Grother and Micheals 2011 ("Evaluation Methods in Face Recognition"), with the terms
of ISO/IEC 19795-1. In the closed set, all people are in the gallery, and the rank of the right person counts. In the
open set, some people (strangers) are not in the gallery: a search can also fail by naming a person for a stranger.
Intervals are over people.

Shapes: P people, Q searches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese.evaluation.intervals import share_interval
from siamese.evaluation.metrics import Roc, corners, roc_curve
from siamese.evaluation.people import NumberedPeople

RANKS = (1, 5, 10)
"""Ranks that are reported."""

FPIRS = (0.1, 0.01, 0.001)
"""False positive identification rates that are reported, each if there are at least 1 / rate strangers."""

MAX_RANK = 100
"""Largest rank of the cumulative match curve."""


class Draw(NamedTuple):
    """A random gallery, and the images to find in it.

    Attributes:
        gallery: index of the image of each person, int64 [P].
        probe: indices of the images to find, int64 [Q].
        person: the person on each, int64 [Q].
        has_mate: whether the gallery has another image of this person, bool [Q]. False for strangers with one image.
        enrolled: whether a person is in the gallery of the open set, bool [P].
    """

    gallery: NDArray[np.int64]
    probe: NDArray[np.int64]
    person: NDArray[np.int64]
    has_mate: NDArray[np.bool_]
    enrolled: NDArray[np.bool_]


class Searches(NamedTuple):
    """The outcomes of the searches of one or more draws.

    Attributes:
        person: the person on the image to find, int64 [Q].
        has_mate: whether the search counts in the closed set, bool [Q].
        rank: number of people in the gallery of the closed set with at least the score of the right person, int64 [Q].
        is_stranger: whether the person is not in the gallery of the open set, bool [Q].
        is_right: whether the right person has the highest score in the gallery of the open set, bool [Q].
        top: this highest score, float64 [Q].
    """

    person: NDArray[np.int64]
    has_mate: NDArray[np.bool_]
    rank: NDArray[np.int64]
    is_stranger: NDArray[np.bool_]
    is_right: NDArray[np.bool_]
    top: NDArray[np.float64]


class CmcPoint(NamedTuple):
    """The share of searches whose right person is among the first ``rank``, with its 95 % confidence interval."""

    rank: int
    rate: float
    low: float
    high: float


def draw_gallery(people: Sequence[Sequence[int]], strangers: float, seed: int, draw: int) -> Draw:
    """Draw an image of each person for the gallery, and another image of the person to find.

    Strangers are chosen at random, people with a single image before the others. A stranger's single image is searched
    for too, in the open set only.

    Args:
        people: indices of each person's images.
        strangers: share of the people who are not in the gallery of the open set, in [0, 1); 0: no open set.
        seed: random seed.
        draw: number of the draw.

    Raises:
        ValueError: no person has two images, or the gallery has fewer than two people; the message says what to do.
    """
    repeated = np.array([len(images) > 1 for images in people], dtype=bool)
    if not repeated.any():
        raise ValueError("no person has two images, one for the gallery and one to find; add images")
    number = int(strangers * len(people) + 0.5)
    if len(people) < 2:
        raise ValueError("the gallery has 1 person; add people")
    if len(people) - number < 2:
        raise ValueError(
            f"protocol.strangers={strangers:g} of {len(people)} people leaves fewer than two for the gallery; choose a "
            "smaller share (0: closed set only)"
        )
    rng = np.random.default_rng([seed, draw])
    order = rng.permutation(len(people))
    enrolled = np.ones(len(people), bool)
    enrolled[order[np.argsort(repeated[order], kind="stable")][:number]] = False
    drawn = [rng.choice(images, min(2, len(images)), replace=False) for images in people]
    person = np.flatnonzero(repeated | ~enrolled)
    probe = np.array([drawn[k][-1] for k in person])
    return Draw(np.array([one[0] for one in drawn]), probe, person, repeated[person], enrolled)


def search(scores: NDArray[np.floating], draw: Draw, rows: slice = slice(None)) -> Searches:
    """Determine the outcomes of searches. A tie counts against the right person.

    Args:
        scores: of each image to find with each of the gallery, float [Q, P].
        draw: the gallery.
        rows: which of the images of ``draw`` these are.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    person = draw.person[rows]
    every = np.arange(len(person))
    right = scores[every, person]
    open_set = np.where(draw.enrolled, scores, -np.inf)
    others = open_set.copy()
    others[every, person] = -np.inf
    is_stranger = ~draw.enrolled[person]
    is_right = ~is_stranger & (right > others.max(1))
    rank = (scores >= right[:, None]).sum(1)
    return Searches(person, draw.has_mate[rows], rank, is_stranger, is_right, open_set.max(1).astype(float))


def joined(parts: Sequence[Searches]) -> Searches:
    """Join the searches of several draws, or blocks."""
    return Searches(*map(np.concatenate, zip(*parts, strict=True)))


def cumulative_matches(found: Searches, people: int) -> list[CmcPoint]:
    """Compute the cumulative match curve (CMC) up to `MAX_RANK`, over the searches in the closed set.

    Args:
        found: the searches of all draws.
        people: P, number of people in the gallery.
    """
    rank, known = found.rank[found.has_mate], NumberedPeople(twice(found.person[found.has_mate]))
    points = []
    for r in range(1, min(MAX_RANK, people) + 1):
        reached = rank <= r
        points.append(CmcPoint(r, float(reached.mean()), *share_interval(reached, known, over_people=True)))
    return points


def as_verification(found: Searches) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Express the searches in the open set as scored pairs, so that true and false positive rate have these meanings.

    - True positive identification rate (TPIR; detection and identification rate): share of the searches for people in
      the gallery in which the right person has the highest score, and at least the threshold.
    - False positive identification rate (FPIR; false alarm rate): share of the searches for strangers in which any
      person has at least the threshold.

    A search with another person at the top gets a score below all others, since no threshold makes it right.

    Returns:
        scores, float64 [Q]; 1 for people in the gallery and 0 for strangers, int64 [Q].
    """
    scores = np.where(found.is_stranger | found.is_right, found.top, found.top.min() - 1)
    return scores, (~found.is_stranger).astype(np.int64)


def open_set_curve(found: Searches) -> Roc:
    """Compute TPIR (``tpr``) over FPIR (``fpr``), at each corner of the curve."""
    fpir, tpir, thresholds = roc_curve(*as_verification(found))
    reached = thresholds >= found.top.min()  # not the point (1, 1) that the searches with a wrong person would add
    return corners(Roc(fpir[reached], tpir[reached], thresholds[reached]))


def twice(person: NDArray[np.int64]) -> list[tuple[Hashable, Hashable]]:
    """Each person as a pair, for `siamese.evaluation.people`."""
    return [(one, one) for one in person.tolist()]
