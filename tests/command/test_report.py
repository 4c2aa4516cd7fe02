"""``siamese report`` of a folder with many runs redraws what is out of date, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from siamese.command import report
from siamese.command.main import main
from siamese.report.drawn import is_up_to_date


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four finished jobs with different results."""
    for number in range(4):
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"batch_size: {number}\nseed: 0\n")
        result = {
            "status": "done",
            "dataset": "lfw",
            "protocol": "view1",
            "val/acc": 0.7,
            "test/acc": 0.6 + number / 10,
        }
        (folder / "result.json").write_text(json.dumps(result))
        history = f"epoch,train/loss,train/acc,val/loss,val/acc\n1,0.5,0.8,0.6,0.{number + 5}\n"
        (folder / "history.csv").write_text(history)
    return tmp_path / "sweep"


def states(sweep: Path) -> dict[str, tuple[int, bytes]]:
    """When each page was written, and its content."""
    pages = sorted(sweep.glob("*/report.html"))
    return {page.parent.name: (page.stat().st_mtime_ns, page.read_bytes()) for page in pages}


def test_only_a_changed_job_is_redrawn(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "siamese")
    assert main(["report", str(sweep)]) == 0
    first = states(sweep)
    assert list(first) == ["0", "1", "2", "3"]
    assert main(["report", str(sweep)]) == 0
    assert states(sweep) == first
    assert "0 run pages redrawn, 4 up to date" in caplog.text
    with (sweep / "2/history.csv").open("a") as file:
        file.write("2,0.4,0.9,0.5,0.8\n")
    (sweep / "3/report.html").write_bytes(first["3"][1][:-100])
    (sweep / "0/report.html").unlink()
    assert main(["report", str(sweep)]) == 0
    again = states(sweep)
    assert again["1"] == first["1"]
    assert again["2"][1] != first["2"][1]
    assert (again["0"][1], again["3"][1]) == (first["0"][1], first["3"][1])
    assert "3 run pages redrawn, 1 up to date" in caplog.text


def test_all_pages_can_be_redrawn(sweep: Path) -> None:
    main(["report", str(sweep)])
    first = states(sweep)
    assert main(["report", str(sweep), "--all"]) == 0
    again = states(sweep)
    assert all(again[job][0] != first[job][0] and again[job][1] == first[job][1] for job in first)


@pytest.mark.parametrize("change", ["status", "new job"])
def test_the_sweep_page_always_shows_the_jobs_as_they_are(sweep: Path, change: str) -> None:
    main(["report", str(sweep)])
    if change == "status":
        (sweep / "1/result.json").write_text(json.dumps({"status": "failed", "error": "no space"}))
    else:
        (sweep / "1").rename(sweep / "7")
    assert main(["report", str(sweep)]) == 0
    page = (sweep / "report.html").read_text()
    assert "3 done, 1 failed" in page if change == "status" else 'href="7/report.html"' in page


@pytest.mark.integration
def test_processes_draw_the_same_pages(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["report", str(sweep)])
    first = states(sweep)
    monkeypatch.setattr(report, "PAGES_PER_PROCESS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    assert main(["report", str(sweep), "--all"]) == 0
    again = states(sweep)
    assert {job: page for job, (_, page) in again.items()} == {job: page for job, (_, page) in first.items()}
    assert all(is_up_to_date(sweep / job) for job in again)


@pytest.mark.integration
def test_a_page_that_a_process_cannot_write_is_named(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "PAGES_PER_PROCESS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    (sweep / "2/report.html").mkdir()
    assert main(["report", str(sweep)]) == 1
    assert "report.html" in capsys.readouterr().err


@pytest.mark.integration
def test_two_reports_at_once_leave_complete_pages(sweep: Path) -> None:
    command = [sys.executable, "-m", "siamese", "report", str(sweep), "--all"]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    assert [one.wait(timeout=120) for one in both] == [0, 0]
    for page in sweep.rglob("report.html"):
        assert page.read_text().rstrip().endswith("</html>")
    assert not list(sweep.rglob("*.tmp"))
    assert main(["report", str(sweep)]) == 0
    settled = states(sweep)
    assert main(["report", str(sweep)]) == 0
    assert states(sweep) == settled
