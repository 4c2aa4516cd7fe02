"""The ordered parallel map: order, how far it goes ahead, errors, and a worker that dies."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from siamese import parallel
from siamese.errors import WorkerKilledError
from siamese.parallel import AHEAD, in_order, showing_progress


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
    with pytest.raises(WorkerKilledError, match=r"killed, perhaps because memory ran out$"):
        list(in_order(os._exit, [9], processes=True, workers=1))


@pytest.mark.integration
@pytest.mark.parametrize("pause", [None, 0.005, 0.01])
def test_ctrl_c_ends_it_while_results_are_sent(pause: float | None) -> None:
    """A terminal sends it to all processes. With a pause, a second one follows, as after ``timeout -s INT``."""
    code = """
import itertools, os
from siamese.parallel import in_order
from siamese.runs.signals import catch_signals
catch_signals()
for number, _ in enumerate(in_order(os.urandom, itertools.repeat(1 << 22), processes=True, workers=2)):
    if number == 3:
        print("busy", flush=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == b"busy\n"
            if pause is not None:
                os.kill(run.pid, signal.SIGINT)
                time.sleep(pause)
            os.killpg(run.pid, signal.SIGINT)
            assert run.wait(30) in (130, -signal.SIGINT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


@pytest.mark.parametrize("bar", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bar: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(parallel, "REPORT_SECONDS", 0)
    caplog.set_level("INFO")
    for stream in (io.StringIO(), Terminal()):
        caplog.clear()
        monkeypatch.setattr(sys, "stderr", stream)
        with showing_progress("embedding", 4000, bar) as advance:
            advance(1500)
            advance(2500)
        is_drawn = bar and stream.isatty()
        assert ("embedding:   0%" in stream.getvalue()) == is_drawn
        lines = [re.sub(r" [\d.,]+ (a second|s left)", r" N \1", line) for line in caplog.messages]
        done = [] if is_drawn else ["1,500", "4,000"]
        assert lines == [f"embedding: {number} of 4,000 images, N a second; N s left" for number in done]


def test_without_a_terminal_a_line_is_logged_every_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(0, 25)
    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    caplog.set_level("INFO")
    with showing_progress("embedding", 1000) as advance:
        for _ in range(5):
            advance(100)
    assert caplog.messages == ["embedding: 300 of 1,000 images, 4.0 a second; 2 min 55 s left"]
