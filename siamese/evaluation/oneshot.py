"""N-way one-shot identification: find a person among N people, given one image of each (Koch et al. 2015, sec. 4.3).

A trial consists of a query image, another image of the same person, and one image each of N - 1 other people. It is won
if the image of the same person has the highest score with the query.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.intervals import Interval, share_interval
from siamese.text import count


class Trials(NamedTuple):
    """T trials.

    Attributes:
        query: indices of the query images, int64 [T].
        support: indices of the other images, int64 [T, N]; the first column shows the person of the query.
    """

    query: NDArray[np.int64]
    support: NDArray[np.int64]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """The pairs to score: each query with each of its N images, trial by trial; int64 [T * N, 2]."""
        queries = np.repeat(self.query, self.support.shape[1])
        return np.stack([queries, self.support.ravel()], axis=1)


def draw_trials(
    people: Sequence[Sequence[int]],
    ways: int,
    trials: int,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Trials:
    """Draw random trials: first people, with equal probability, then their images.

    Args:
        people: indices of each person's images; the person of a query needs at least two.
        ways: N, number of people in a trial.
        trials: T, number of trials.
        seed: random seed; the trials also depend on ``ways``.
        groups: the group of each person, such as the alphabet of a character. All people of a trial are of one group;
            groups with fewer than ``ways`` people are left out.

    Raises:
        ValueError: ``ways`` is below 2 or ``trials`` below 1, there are too few people (in every group), or none has
            two images.
    """
    if ways < 2 or trials < 1:
        raise ValueError(f"ways={ways}, trials={trials}: give at least 2 ways and 1 trial")
    if len(people) < ways:
        raise ValueError(f"ways={ways}: there are only {count(len(people), 'person', 'people')}")
    members: dict[Hashable, list[int]] = {}
    for k in range(len(people)):
        members.setdefault(None if groups is None else groups[k], []).append(k)
    if (largest := max(map(len, members.values()))) < ways:
        raise ValueError(f"ways={ways}: the largest group has {count(largest, 'person', 'people')}")
    place = {k: (group, n) for group in members.values() if len(group) >= ways for n, k in enumerate(group)}
    repeated = [k for k, photos in enumerate(people) if len(photos) >= 2 and k in place]
    if not repeated:
        raise ValueError("no person has two images; a trial needs two images of one person")
    rng = np.random.default_rng([seed, ways])
    query, support = np.empty(trials, np.int64), np.empty((trials, ways), np.int64)
    for t in range(trials):
        target = repeated[rng.integers(len(repeated))]
        query[t], support[t, 0] = rng.choice(people[target], 2, replace=False)
        # Drawn among the others of the group: numbers from the target on are shifted by one.
        group, own = place[target]
        others = rng.choice(len(group) - 1, ways - 1, replace=False)
        for n, k in enumerate(others + (others >= own), start=1):
            support[t, n] = rng.choice(people[group[k]])
    return Trials(query, support)


class Identification(NamedTuple):
    """Share of trials won, with its 95 % confidence interval (`siamese.evaluation.intervals.share_interval`)."""

    accuracy: float
    interval: Interval


def identification_accuracy(
    scores: ArrayLike, targets: Sequence[Hashable], over_people: bool | None = None
) -> Identification:
    """Compute the share of trials won.

    Args:
        scores: float [T, N], higher means more similar; the first column is the right person. If k images share the
            highest score and the right one is among them, the trial counts as 1 / k, the chance of a random guess.
        targets: the person of each query, [T].
        over_people: whether the interval is over people; None: if many trials come from few people.

    Raises:
        ValueError: the scores are empty, have another shape, or contain NaN.
    """
    score = np.asarray(scores, dtype=np.float64)
    if score.ndim != 2 or score.shape[0] < 1 or score.shape[1] < 2:
        raise ValueError(f"scores must have the shape [trials, ways], not {score.shape}")
    if np.isnan(score).any():
        raise ValueError("scores contain NaN")
    highest = score == score.max(1, keepdims=True)
    won = highest[:, 0] / highest.sum(1)
    people = [(target, target) for target in targets]
    return Identification(float(won.sum()) / len(won), share_interval(won, people, over_people=over_people))
