"""Apply a function to many items on all cores: in order, and only a few items ahead of what is used. Show progress."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from siamese.errors import WorkerKilledError
from siamese.text import duration

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")

MOST_WORKERS = 16
"""Most threads or processes: more do not help one process that takes their results, and each takes 80 MB."""

READERS = 16
"""Threads that read a few bytes of many files: a network drive answers slowly."""

IDLE_SECONDS = 10
"""Seconds after which a process without work begins to end: it does not notice if the one that started it is killed."""

AHEAD = 3
"""Items that are begun before their results are used, for each worker."""

REPORT_SECONDS = 60
"""Seconds between two lines of `showing_progress` in the log."""


def in_order(
    function: Callable[[Item], Found], items: Iterable[Item], processes: bool = False, workers: int | None = None
) -> Iterator[Found]:
    """Yield ``function(item)`` for each item, in order; items may be endless.

    Args:
        function: called in the workers; for processes it and its arguments must be picklable.
        items: taken one by one, a few ahead.
        processes: use processes instead of threads. They help if ``function`` holds the interpreter lock, and take a
            second to start.
        workers: how many; None: `cores`.

    Raises:
        WorkerKilledError: a process was killed.
        Exception: what ``function`` raised; later items are then not begun.
    """
    number = workers or cores()
    with _processes(number) if processes else ThreadPoolExecutor(number) as pool:
        waiting: deque[Future[Found]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > AHEAD * number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenExecutor:
            raise WorkerKilledError(
                "one of the processes that share the work was killed, perhaps because memory ran out"
            ) from None
        except BaseException:
            if processes:  # what they do is thrown away
                with _signals_wait():
                    pool.shutdown(kill_workers=True)  # type: ignore[call-arg]
            raise
        finally:
            for one in waiting:
                one.cancel()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Context in which a second Ctrl-C waits: processes that were not killed would block the end of this one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def showing_progress(doing: str, total: int, bar: bool = True) -> Iterator[Callable[[int], None]]:
    """Context that shows how many images are done: in a terminal a bar, otherwise a line in the log every minute.

    It gives a function to call with the number of images that are newly done.

    Args:
        doing: what is done with them, such as ``decoding``.
        total: number of images.
        bar: show the bar in a terminal; if not, the lines are logged there too.
    """
    started = reported = time.monotonic()
    done = 0

    def advance(number: int) -> None:
        nonlocal done, reported
        done += number
        shown.update(number)
        if shown.disable and (now := time.monotonic()) - reported >= REPORT_SECONDS:
            reported, rate = now, done / (now - started)
            log.info(
                "%s: %s of %s images, %s a second; %s left", doing, f"{done:,}", f"{total:,}", f"{rate:,.1f}",
                duration((total - done) / rate),
            )  # fmt: skip

    with tqdm(desc=doing, total=total, unit="image", leave=False, disable=None if bar else True) as shown:
        yield advance


def cores() -> int:
    """The number of workers: the cores that this process may use, at most `MOST_WORKERS`."""
    from loky import cpu_count

    return min(int(cpu_count()), MOST_WORKERS)


def _processes(number: int) -> Executor:
    # The standard library's would run the main script of the user again, unless it guards against that.
    from loky import ProcessPoolExecutor

    pool: Executor = ProcessPoolExecutor(number, timeout=IDLE_SECONDS, initializer=_leave_signals_to_the_first_process)
    return pool


def _leave_signals_to_the_first_process() -> None:
    # The first process kills this one. If a signal ended it amid a result, the first would wait for the rest.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
