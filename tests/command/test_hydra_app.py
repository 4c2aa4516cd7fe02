"""The commands as a user types them: exit codes, messages, signals, sweeps."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from hydra.types import RunMode
from tqdm.contrib.logging import logging_redirect_tqdm

from siamese.command import hydra_app as cli
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted

Run = Callable[..., subprocess.CompletedProcess[str]]


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())  # type: ignore[no-any-return]


def test_train_refuse_resume_eval_report(run_script: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    """A user's day: train, the same again by mistake, resume, eval, build the page again."""
    work = tmp_path / "work"
    arguments = [*tiny_overrides, "hydra.run.dir=run"]
    first = run_script("train.py", *arguments)
    assert first.returncode == 0, first.stderr
    assert "24 training, 6 validation, 20 test pairs" in first.stdout
    assert "test accuracy" in first.stdout
    assert "(95 %:" in first.stdout
    assert "Warning" not in first.stderr, first.stderr
    folder = work / "run"
    recorded = result_of(folder)
    assert recorded["status"] == "done"
    assert (folder / "train.log").read_text().count("epoch ") == 2
    assert sorted(path.name for path in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]

    again = run_script("train.py", *arguments)
    assert again.returncode == 2
    assert again.stderr == (
        "error: run already holds a run (done); give resume=true to go on with it, or another output folder\n"
    )
    resumed = run_script("train.py", *arguments, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(folder) == recorded
    other = run_script("train.py", *arguments, "resume=true", "learning_rate=0.5")
    assert other.returncode == 2
    assert "learning_rate=0.001, not 0.5" in other.stderr

    evaluated = run_script("eval.py", "run=run", "hydra.run.dir=eval")
    assert evaluated.returncode == 0, evaluated.stderr
    again_result = result_of(work / "eval")
    keys = [key for key in recorded if key.startswith(("test/", "val/"))]
    assert {key: again_result[key] for key in keys} == {key: recorded[key] for key in keys}

    onto = run_script("eval.py", "run=run", "hydra.run.dir=run")
    assert (onto.returncode, onto.stderr) == (2, "error: run already holds a run; give another output folder\n")
    assert result_of(folder) == recorded

    (folder / "report.html").unlink()
    page = subprocess.run(
        [sys.executable, "-m", "siamese", "report", "run"], cwd=work, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert page.stdout.strip() == "run/report.html"
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is missing"),
        (["run=nowhere"], "run=nowhere: no run there"),
        (["run=unfinished"], "the run is not finished (interrupted)"),
        (["run=nowhere", "+typo=1"], "unknown key 'typo'"),
    ],
)
def test_eval_refuses_what_it_cannot_score(run_script: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    unfinished = tmp_path / "work/unfinished"
    unfinished.mkdir()
    (unfinished / "result.json").write_text('{"status": "interrupted"}')
    done = run_script("eval.py", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["unfinished"]


def test_a_signal_while_a_line_is_logged_is_not_lost() -> None:
    """tqdm's log handler catches and prints whatever it does not know to be an end of the process."""

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            raise Interrupted(signal.SIGINT)

    log = logging.getLogger("test_a_signal_while_a_line_is_logged_is_not_lost")
    log.propagate = False
    with logging_redirect_tqdm([log]):
        [handler] = log.handlers
        handler.stream = Interrupting()  # type: ignore[attr-defined]
        with pytest.raises(Interrupted) as raised:
            log.warning("a line")
    copy = pickle.loads(pickle.dumps(raised.value))  # as it comes out of another process
    assert (copy.code, str(copy)) == (130, str(raised.value))


def test_what_is_done_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while the report is drawn."""
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)), job=None, mode=RunMode.RUN)
    monkeypatch.setattr(cli.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(cli, "catch_signals", lambda: None)

    def job(folder: RunFolder) -> float:
        folder.record(status="done", figure=1.0)
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        cli._job(job)
    assert ended.value.code == 143
    assert result_of(tmp_path) == {"status": "done", "figure": 1.0}


def test_what_a_launcher_dies_of_is_no_bad_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed() -> None:
        raise RuntimeError("a worker was killed")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(cli, "catch_signals", lambda: None)
    for composed, code in ((True, 1), (False, 2)):
        monkeypatch.setattr(cli.Guard, "has_composed", composed)
        with pytest.raises(SystemExit) as ended:
            cli.run_app(killed)
        assert ended.value.code == code
        told = capsys.readouterr().err
        assert told.splitlines()[-1] == "error: RuntimeError: a worker was killed"
        assert ("Traceback" in told) == composed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(run_script: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    """Told before anything is written; and what was trained on one can be scored without."""
    done = run_script("train.py", *tiny_overrides, "trainer=gpu")
    assert (done.returncode, list((tmp_path / "work").iterdir())) == (2, [])
    assert done.stderr.startswith("error: trainer.accelerator=gpu: torch sees no GPU here")
    run_script("train.py", *tiny_overrides, "max_epochs=1", "hydra.run.dir=run")
    config = tmp_path / "work/run/config.yaml"
    config.write_text(config.read_text().replace("accelerator: cpu", "accelerator: gpu"))
    scored = run_script("eval.py", "run=run", "hydra.run.dir=eval")
    assert scored.returncode == 0, scored.stderr


def test_a_sweep_with_a_failing_job(run_script: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    overrides = [o for o in tiny_overrides if not o.startswith(("batch_size", "max_epochs"))]
    done = run_script(
        "train.py", "-m", *overrides, "max_epochs=1", "batch_size=8,0,4", "seed=0,1", "hydra.sweep.dir=sweep",
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: job 2 failed: batch_size=0: input should be greater than or equal to 1"
    )
    sweep = tmp_path / "work/sweep"
    with (sweep / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["job"], row["batch_size"], row["seed"], row["status"]) for row in rows] == [
        ("0", "8", "0", "done"), ("1", "8", "1", "done"),
        ("2", "0", "0", "failed"), ("3", "0", "1", "failed"),
        ("4", "4", "0", "done"), ("5", "4", "1", "done"),
    ]  # fmt: skip
    assert "batch_size=0" in rows[2]["error"]
    assert float(rows[4]["test/acc"]) == result_of(sweep / "4")["test/acc"]
    table = (sweep / "results.md").read_text()
    assert "| batch_size | n |" in table
    assert table.count("±") >= 2
    assert "job 3: failed" in table
    page = (sweep / "report.html").read_text()
    assert "4 done, 2 failed" in page
    assert page.count("ConfigError: batch_size=0: input should be greater than or equal to 1") >= 2
    assert 'href="4/report.html"' in page
    assert {path.name for path in (sweep / "4").iterdir() if path.is_dir()} == {
        ".hydra", "checkpoints", "batch_size=4,seed=0",
    }  # fmt: skip

    refused = run_script("train.py", "-m", *overrides, "batch_size=8", "hydra.sweep.dir=sweep")
    assert refused.returncode == 2
    assert "already holds a sweep" in refused.stderr
    shutil.rmtree(sweep / "1")
    kept = (sweep / "0/predictions.csv").stat().st_mtime_ns
    resumed = run_script(
        "train.py", "-m", *overrides, "max_epochs=1", "batch_size=8", "seed=0,1", "hydra.sweep.dir=sweep",
        "resume=true",
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert (sweep / "0/predictions.csv").stat().st_mtime_ns == kept
    assert result_of(sweep / "1")["status"] == "done"


def test_a_failure_on_the_way_tells_one_line_and_logs_the_rest(
    run_script: Run, tiny_overrides: list[str], tmp_path: Path
) -> None:
    (tmp_path / "work/file").write_text("in the way")
    done = run_script("train.py", *tiny_overrides, "data.cache=file", "hydra.run.dir=run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: data.cache=file: ")
    assert len(done.stderr.splitlines()) == 1
    folder = tmp_path / "work/run"
    assert result_of(folder)["status"] == "failed"
    assert "data.cache=file" in str(result_of(folder)["error"])
    assert "Traceback" in (folder / "train.log").read_text()


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_report_of_nothing(tmp_path: Path, folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "siamese", "report", folder], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder}: no run there")
