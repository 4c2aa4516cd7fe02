"""Scored pairs for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

fast = settings(max_examples=40, deadline=None)

# Few distinct values, so that ties are common; both classes present.
grid_scores = st.integers(-6, 6).map(lambda i: i / 4)
two_classes = st.lists(st.tuples(grid_scores, st.integers(0, 1)), min_size=2, max_size=40).filter(
    lambda pairs: {label for _, label in pairs} == {0, 1}
)


def strangers(n):
    """The people of n pairs that share nobody."""
    return [(2 * k, 2 * k + 1) for k in range(n)]


def unzip(pairs):
    scores, labels = zip(*pairs, strict=True)
    return np.array(scores), np.array(labels)


@st.composite
def scored_pairs(draw):
    """Scores and labels, both float and int [N]; both labels occur."""
    n = draw(st.integers(2, 30))
    scores = draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n))
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    return np.array(scores) / 8, np.array(labels)
