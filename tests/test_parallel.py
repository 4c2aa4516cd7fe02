"""The ordered parallel map: order, how far it goes ahead, errors, and a worker that dies."""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from siamese.errors import TrainingError
from siamese.parallel import AHEAD, in_order


def test_results_come_in_order_and_few_are_begun_ahead() -> None:
    begun: list[int] = []
    done = threading.Event()

    def slow_first(item: int) -> int:
        begun.append(item)
        if item == 0:
            done.wait(10)
        return 2 * item

    found = in_order(slow_first, itertools.count(), workers=2)
    threading.Timer(0.2, done.set).start()
    assert [next(found) for _ in range(20)] == list(range(0, 40, 2))
    found.close()
    assert max(begun) <= 20 + 2 * AHEAD


def test_an_error_ends_it_at_its_place() -> None:
    found = in_order(lambda item: 6 // item, [3, 0, 2], workers=2)
    assert next(found) == 2
    with pytest.raises(ZeroDivisionError):
        next(found)


@pytest.mark.integration
def test_a_process_that_is_killed_is_an_error_that_says_so() -> None:
    with pytest.raises(TrainingError, match="killed, perhaps because memory ran out; run the same command again"):
        list(in_order(os._exit, [9], processes=True, workers=1))
