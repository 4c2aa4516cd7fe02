"""Signals: exit codes, the wait for a checkpoint, and SLURM's queue."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from siamese.runs import signals
from siamese.runs.signals import Interrupted


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Default handlers before each test, and the original ones after it."""
    monkeypatch.setattr(signals, "_ours", set())
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {signum: signal.getsignal(signum) for signum in caught}
    for signum in caught:
        signal.signal(signum, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_raised_with_its_exit_code(signum: signal.Signals, code: int) -> None:
    signals.catch_signals()
    with pytest.raises(Interrupted, match=f"^interrupted by {signum.name}$") as raised:
        os.kill(os.getpid(), signum)
    assert raised.value.code == code


def test_slurms_signal_is_caught_only_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    signals.catch_signals()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    signals.catch_signals()
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGUSR1)


def test_a_handler_of_a_launcher_is_left_alone() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals.catch_signals()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_the_first_signal_waits_and_the_second_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    signals.catch_signals()
    passed = []

    def send_two() -> None:
        with signals.deferred():
            assert signals.received() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received() == signals.waiting() == signal.SIGTERM
            passed.append("first")
            os.kill(os.getpid(), signal.SIGINT)
            passed.append("second")

    with pytest.raises(Interrupted) as raised:
        send_two()
    assert passed == ["first"]
    assert raised.value.signal == signal.SIGINT
    assert capfd.readouterr().err == "SIGTERM: stopping after this step; send it again to stop at once\n"
    assert signals.received() is None


def test_a_waiting_signal_is_raised_at_the_end() -> None:
    signals.catch_signals()
    with pytest.raises(Interrupted) as raised, signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.signal == signal.SIGTERM


def test_several_processes_stop_only_once_they_agree() -> None:
    signals.catch_signals()

    def agree_late() -> None:
        with signals.deferred(shared=True):
            os.kill(os.getpid(), signal.SIGTERM)
            assert (signals.waiting(), signals.received()) == (signal.SIGTERM, None)
            signals.agree(signal.SIGTERM)
            assert signals.received() == signal.SIGTERM

    with pytest.raises(Interrupted):
        agree_late()


def test_slurm_puts_a_job_in_the_queue_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not signals.requeue()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert signals.requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert signals.requeue()
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 17", "requeue 16_3"]
    monkeypatch.setenv("SLURM_JOB_ID", "17; rm -rf ~")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    assert not signals.requeue()


@pytest.mark.parametrize(("count", "expected"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_whether_slurm_has_started_the_job_before(
    monkeypatch: pytest.MonkeyPatch, count: str | None, expected: bool
) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert signals.was_requeued() == expected
