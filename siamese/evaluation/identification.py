"""N-way one-shot identification: who of N people is this, given one photo of each (Koch et al. 2015, section 4.3).

A trial is a query photo, another photo of the same person, and one photo of each of N - 1 others; it is won when the
photo of the same person has the highest score against the query. Whatever scores pairs can be tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from siamese.evaluation.intervals import Interval, wilson


class Trials(NamedTuple):
    """T trials: queries int64 [T], and supports int64 [T, N] whose first column is the query's person."""

    query: NDArray[np.int64]
    support: NDArray[np.int64]

    @property
    def pairs(self) -> NDArray[np.int64]:
        """int64 [T * N, 2]: the query beside each support, trial by trial."""
        queries = np.repeat(self.query, self.support.shape[1])
        return np.stack([queries, self.support.ravel()], axis=1)


def draw_trials(people: Sequence[Sequence[int]], ways: int, trials: int, seed: int = 0) -> Trials:
    """Draw trials at random: people first, each as likely as another, then their photos.

    Args:
        people: the photos of each person, as indices; the query's person is drawn among those with two or more.
        ways: N, people in a trial.
        trials: T.
        seed: the same seed gives the same trials; another number of ways draws its own.

    Raises:
        ValueError: fewer than two ways or one trial, too few people, or none with two photos.
    """
    if ways < 2 or trials < 1:
        raise ValueError(f"ways={ways} and trials={trials}: there must be at least 2 and 1")
    if len(people) < ways:
        raise ValueError(f"ways={ways}: there are photos of {len(people)} people only")
    repeated = [k for k, photos in enumerate(people) if len(photos) >= 2]
    if not repeated:
        raise ValueError("nobody has two photos, one to ask for and one to be found")
    rng = np.random.default_rng([seed, ways])
    query, support = np.empty(trials, np.int64), np.empty((trials, ways), np.int64)
    for t in range(trials):
        target = repeated[rng.integers(len(repeated))]
        query[t], support[t, 0] = rng.choice(people[target], 2, replace=False)
        # Numbers below the number of others, made to skip the target.
        others = rng.choice(len(people) - 1, ways - 1, replace=False)
        for n, k in enumerate(others + (others >= target), start=1):
            support[t, n] = rng.choice(people[k])
    return Trials(query, support)


class Identification(NamedTuple):
    """Share of trials won, and its 95 % interval (Wilson; the trials treated as independent)."""

    accuracy: float
    interval: Interval


def identification_accuracy(scores: ArrayLike) -> Identification:
    """Judge trials by their scores.

    Args:
        scores: float [T, N], higher is more alike, the right answer in the first column. A tie for the first place
            among k counts as 1 / k of a win: what a guess among them would give.

    Raises:
        ValueError: not of that shape, empty, or NaN among the scores.
    """
    score = np.asarray(scores, dtype=np.float64)
    if score.ndim != 2 or score.shape[0] < 1 or score.shape[1] < 2:
        raise ValueError(f"scores must have the shape [trials, ways], not {score.shape}")
    if np.isnan(score).any():
        raise ValueError("NaN among the scores")
    highest = score == score.max(1, keepdims=True)
    won = float((highest[:, 0] / highest.sum(1)).sum())
    return Identification(won / len(score), wilson(won, len(score)))
