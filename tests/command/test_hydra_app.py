"""The commands as a user types them: exit codes, messages, signals, sweeps."""

from __future__ import annotations

import csv
import io
import json
import logging
import pickle
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from tqdm.contrib.logging import logging_redirect_tqdm

from siamese import Verifier
from siamese.command import hydra_app, jobs
from siamese.command.exit_codes import reason
from siamese.command.main import main
from siamese.config.data import FolderData
from siamese.config.schema import TrainConfig
from siamese.data import folder as folders
from siamese.data.own import read_own
from siamese.errors import ConfigError, DataError, TrainingError, WorkerKilledError
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted

Run = Callable[..., subprocess.CompletedProcess[str]]


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "result.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.integration
def test_train_refuse_resume_eval_report(
    run_script: Run, call: Run, tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's day: train, the same again by mistake, resume, eval, build the page again."""
    work = tmp_path / "work"
    arguments = [*tiny_overrides, "hydra.run.dir=outputs/day/run"]
    first = run_script("train.py", *arguments)
    assert first.returncode == 0, first.stderr
    assert "training ends after epoch 2, in about" in first.stdout
    page = (work / "outputs/day/run/report.html").resolve()
    assert f"\nrun page: {page.as_uri()}\n" in first.stdout
    next_commands = re.findall(r"^  (\S.*)$", first.stdout.partition("\nnext:\n")[2], re.M)
    assert next_commands == [
        "python -m siamese verify outputs/day/run A.jpg B.jpg",
        "python eval.py run=outputs/day/run protocol=oneshot 'protocol.ways=[2,5,10]'",
        "tensorboard --logdir outputs/day/run",
    ]  # fmt: skip
    assert "24 training, 6 validation, 20 test pairs" in first.stdout
    assert "test accuracy" in first.stdout
    assert "95 %" in first.stdout
    assert "Warning" not in first.stderr, first.stderr
    folder = work / "outputs/latest"
    recorded = result_of(folder)
    assert recorded["status"] == "done"
    assert (folder / "train.log").read_text().count(" I epoch ") == 2
    assert sorted(path.name for path in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]

    again = call("train", *arguments)
    assert (again.returncode, again.stderr) == (
        2,
        "error: outputs/day/run already holds a run (done); give resume=true to resume it, or another output folder\n",
    )
    other = call("train", *arguments, "resume=true", "learning_rate=0.5")
    assert other.returncode == 2
    assert "learning_rate=0.001, not 0.5" in other.stderr
    resumed = run_script("train.py", *arguments, "resume=true")
    assert resumed.returncode == 0, resumed.stderr
    assert result_of(folder) == recorded

    evaluated = run_script("eval.py", "run=latest", "hydra.run.dir=outputs/eval")
    assert evaluated.returncode == 0, evaluated.stderr
    again_result = result_of(work / "outputs/eval")
    assert again_result["run"] == str(folder.resolve()), "an evaluation is not the latest run"
    assert "\nevaluation page: file://" in evaluated.stdout
    keys = [key for key in recorded if key.startswith(("test/", "val/"))]
    assert {key: again_result[key] for key in keys} == {key: recorded[key] for key in keys}

    (work / "outputs/eval/result.json").write_text(json.dumps(again_result | {"status": "interrupted"}))
    evaluated = run_script("eval.py", "run=latest", "hydra.run.dir=outputs/eval")
    assert evaluated.returncode == 0, evaluated.stderr
    assert result_of(work / "outputs/eval")["status"] == "done"
    assert call("eval", "run=latest", "hydra.run.dir=outputs/eval").returncode == 2, "it is finished"
    onto = call("eval", "run=latest", "hydra.run.dir=outputs/latest")
    assert (onto.returncode, onto.stderr) == (
        2,
        "error: outputs/latest already holds a run; give another output folder\n",
    )
    assert result_of(folder) == recorded

    (folder / "report.html").unlink()
    assert main(["report", "latest"]) == 0
    assert capsys.readouterr().out == "outputs/day/run/report.html\n"
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is not set; give the folder of a finished run, or latest, as in run=outputs/latest"),
        (["run="], "run is not set; give the folder of a finished run"),
        (["run=2024"], "run=2024: no such folder"),
        (["run=latest"], "run=latest: no finished run below outputs yet; train one, or give its folder"),
        (["run=outputs/latset"], "run=outputs/latset: no such folder; give the folder of a finished run, or latest"),
        (["run=[2024,a b (1)]"], "run=2024: no such folder"),
        (["run=~/nowhere"], f"run={Path.home()}/nowhere: no such folder"),
        (["run=nowhere"], "run=nowhere: no such folder"),
        (["run=unfinished"], "the run is not finished (interrupted)"),
        (["run=a", "protocol=oneshot", "protocol.ways=2"], "protocol.ways=2: expected a list; give protocol.ways=[2]"),
        (["run=nowhere", "+typo=1"], "unknown key 'typo'"),
    ],
)
def test_eval_refuses_what_it_cannot_score(call: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    work = tmp_path / "work"
    (work / "unfinished").mkdir()
    (work / "unfinished/result.json").write_text('{"status": "interrupted"}')
    done = call("eval", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in work.iterdir()] == ["unfinished"]


def test_a_sweep_of_evaluations_is_not_resumed(call: Run, tmp_path: Path) -> None:
    (tmp_path / "work/sweep/0").mkdir(parents=True)
    (tmp_path / "work/sweep/0/result.json").write_text('{"status": "interrupted"}')
    refused = call("eval", "-m", "run=a,b", "hydra.sweep.dir=sweep")
    assert refused.stderr == "error: sweep already holds a sweep (1 job); give another hydra.sweep.dir\n"


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


def test_a_finished_run_stays_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while the run page is drawn."""
    hydra = SimpleNamespace(runtime=SimpleNamespace(output_dir=str(tmp_path)), job=None, mode=RunMode.RUN)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(jobs, "catch_signals", lambda: None)

    def job(folder: RunFolder) -> float:
        folder.record(status="done", epochs=1)
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        jobs.run_job(job)
    assert ended.value.code == 143
    assert result_of(tmp_path) == {"status": "done", "epochs": 1}


@pytest.mark.parametrize(
    ("error", "hinted"),
    [
        (Interrupted(signal.SIGINT), True),
        (WorkerKilledError("killed"), True), (DataError("a.jpg: cut short"), True), (OSError("no answer"), True),
        (TrainingError("the loss is nan; give a lower learning_rate"), False), (ConfigError("give another"), False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("resumes", [True, False])
def test_an_error_says_how_to_resume(
    error: BaseException, hinted: bool, resumes: bool, tiny_config: Callable[..., TrainConfig], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before that, the same command is refused: the folder holds a run. There are no checkpoints yet."""
    hydra = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(tmp_path)), job=SimpleNamespace(name="train"), mode=RunMode.RUN
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(jobs, "catch_signals", lambda: None)

    def job(folder: RunFolder) -> float:
        folder.start(tiny_config())
        raise error

    with pytest.raises(SystemExit):
        jobs.run_job(job, resumes=resumes)
    hint = f"; to resume, repeat the command with hydra.run.dir={tmp_path} resume=true"
    if not resumes:
        hint = "; run the same command again" if isinstance(error, Interrupted) else ""
    assert capsys.readouterr().err == f"error: {reason(error)}{hint if hinted else ''}\n"


def test_a_run_reads_its_folder_of_photos_once(call: Run, tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a sweep read it each, because photos may change between them."""
    walks: list[Path] = []
    walk = folders._walk

    def train(config: TrainConfig, *_: object) -> None:
        assert isinstance(config.data, FolderData)
        read_own(config.data)
        raise DataError("that is enough")

    monkeypatch.setattr(folders, "_walk", lambda root, name: walks.append(root) or walk(root, name))
    monkeypatch.setattr("siamese.training.train.train", train)
    monkeypatch.setattr(hydra_app.Guard, "folder", None)
    words = ["data=folder", f"data.root={tiny_root / 'lfw'}"]
    assert call("train", *words, "hydra.run.dir=run").stderr.startswith("error: that is enough")
    assert len(walks) == 1
    swept = call("train", "-m", *words, "seed=0,1", "hydra.sweep.dir=sweep")
    assert "job 0 failed: that is enough" in swept.stderr
    assert len(walks) == 1 + 3  # one before the sweep


def test_an_error_of_a_launcher_is_no_bad_configuration(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed() -> None:
        raise RuntimeError("a worker was killed")

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(hydra_app, "catch_signals", lambda: None)
    for composed, code in ((True, 1), (False, 2)):
        monkeypatch.setattr(hydra_app.Guard, "has_composed", composed)
        with pytest.raises(SystemExit) as ended:
            hydra_app.run_app(killed, "train")
        assert ended.value.code == code
        err = capsys.readouterr().err
        assert err.splitlines()[-1] == "error: RuntimeError: a worker was killed"
        assert ("Traceback" in err) == composed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu(call: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    """It is an error before anything is written. (A run that was trained on a GPU is scored without one.)"""
    done = call("train", *tiny_overrides, "trainer=gpu")
    assert (done.returncode, list((tmp_path / "work").iterdir())) == (2, [])
    assert done.stderr.startswith("error: trainer.accelerator=gpu: torch sees no GPU here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.integration
def test_a_run_of_a_gpu_is_scored_without_one(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("accelerator: cpu", "accelerator: gpu"))
    assert Verifier.load(tmp_path / "run").device.type == "cpu"


@pytest.mark.integration
def test_a_sweep_with_a_failing_job(run_script: Run, call: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    overrides = [o for o in tiny_overrides if not o.startswith(("batch_size", "max_epochs"))]
    done = run_script(
        "train.py", "-m", *overrides, "max_epochs=1", "batch_size=0,4", "seed=0,1", "hydra.sweep.dir=sweep",
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: job 0 failed: batch_size=0: input should be greater than or equal to 1"
    )
    sweep = tmp_path / "work/sweep"
    assert "\n2 runs of one configuration with different seeds. " in done.stdout
    assert (
        f"\nsweep page: {(sweep / 'report.html').resolve().as_uri()}\n\nnext:\n  tensorboard --logdir sweep\n"
        in done.stdout
    )
    with (sweep / "results.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["job"], row["batch_size"], row["seed"], row["status"]) for row in rows] == [
        ("0", "0", "0", "failed"), ("1", "0", "1", "failed"),
        ("2", "4", "0", "done"), ("3", "4", "1", "done"),
    ]  # fmt: skip
    assert "batch_size=0" in rows[0]["error"]
    assert float(rows[2]["test/acc"]) == result_of(sweep / "2")["test/acc"]
    table = (sweep / "results.md").read_text()
    assert "| batch_size | n |" in table
    assert table.count("±") >= 1
    assert "job 1: failed" in table
    page = (sweep / "report.html").read_text()
    assert "2 done, 2 failed" in page
    assert page.count("ConfigError: batch_size=0: input should be greater than or equal to 1") >= 2
    assert 'href="2/report.html"' in page
    assert {path.name for path in (sweep / "2").iterdir() if path.is_dir()} == {
        ".hydra", "checkpoints", "bs=4,seed=0",
    }  # fmt: skip

    refused = call("train", "-m", *overrides, "batch_size=4", "hydra.sweep.dir=sweep")
    assert refused.returncode == 2
    assert "already holds a sweep" in refused.stderr
    shutil.rmtree(sweep / "3")
    kept = (sweep / "2/predictions.csv").stat().st_mtime_ns
    resumed = run_script(
        "train.py", "-m", *overrides, "max_epochs=1", "batch_size=0,4", "seed=0,1", "hydra.sweep.dir=sweep",
        "resume=true",
    )  # fmt: skip
    assert resumed.returncode == 1
    assert (sweep / "2/predictions.csv").stat().st_mtime_ns == kept
    assert result_of(sweep / "3")["status"] == "done"


def test_a_sweep_over_options_that_alone_have_a_key(call: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    words = [*tiny_overrides, "-m", "optimizer=sgd,muon", "optimizer.momentum=0.5", "hydra.sweep.dir=sweep"]
    assert call("train", *words).returncode == 0
    for job, name in enumerate(["sgd", "muon"]):
        folder = tmp_path / "work/sweep" / str(job)
        optimizer = yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]
        assert (optimizer["name"], optimizer["momentum"]) == (name, 0.5)
        assert (folder / name).is_dir(), "the momentum is no part of the job's name"


@pytest.mark.integration
def test_a_failure_of_a_run_prints_one_line_and_logs_the_traceback(
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
def test_report_of_nothing(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", folder]) == 2
    assert capsys.readouterr().err.startswith(f"error: {folder}: no run found")
