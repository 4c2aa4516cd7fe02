"""The run folder: who may use it, and what is recorded when."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.runs.folder import RunFolder
from siamese.runs.signals import Interrupted

Make = Callable[..., TrainConfig]


@pytest.fixture
def folder(tmp_path: Path, tiny_config: Make) -> RunFolder:
    """The folder of a run that was started and is not finished."""
    folder = RunFolder(tmp_path / "run")
    folder.check(tiny_config())
    folder.start(tiny_config(), name="tiny")
    return folder


def test_a_run_is_recorded_from_start_to_end(folder: RunFolder, tiny_config: Make) -> None:
    assert folder.result is not None
    assert folder.result.as_dict() == {"status": "running", "name": "tiny"}
    assert not folder.is_done
    result = folder.record(status="done", **{"test/acc": 0.5, "test/auc": float("nan")}, test_eer=0.25)
    assert result == folder.result
    assert result.as_dict() == {"status": "done", "name": "tiny", "test/acc": 0.5, "test/auc": None, "test/eer": 0.25}
    assert folder.is_done
    folder.start(tiny_config(), name="again")
    assert folder.result is not None
    assert folder.result.as_dict() == {"status": "running", "name": "again"}


def test_facts_that_are_not_documented_are_refused(folder: RunFolder) -> None:
    before = (folder.path / "result.json").read_bytes()
    with pytest.raises(ValidationError, match="unknown key 'accuracy'"):
        folder.record(accuracy=0.5)
    assert (folder.path / "result.json").read_bytes() == before


def test_a_start_removes_only_what_a_killed_process_left(folder: RunFolder, tiny_config: Make) -> None:
    folder.checkpoints.mkdir()
    left = [folder.path / ".result.json.0123456789ab.tmp", folder.checkpoints / ".last.ckpt.0123456789ab.tmp"]
    kept = [folder.path / "notes.tmp", folder.path / ".hidden.tmp", folder.last]
    for file in (*left, *kept):
        file.touch()
    folder.start(tiny_config())
    assert [file for file in left if file.exists()] == []
    assert all(file.exists() for file in kept)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("two\nlines"), "failed", "ValueError: two lines"),
        (Interrupted(15), "interrupted", "Interrupted: interrupted by SIGTERM"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
    ],
)
def test_a_failure_is_recorded_with_its_reason(
    folder: RunFolder, error: BaseException, status: str, reason: str
) -> None:
    folder.record_failure(error, "some.log")
    assert folder.result is not None
    assert (folder.result.status, folder.result.name) == (status, "tiny")
    assert (folder.result.error or "").startswith(reason.rstrip())
    assert type(error).__name__ in (folder.path / "some.log").read_text()


def test_a_folder_with_a_run_needs_resume_and_the_same_configuration(folder: RunFolder, tiny_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run \(running\); give resume=true to resume it"):
        folder.check(tiny_config())
    folder.check(tiny_config(resume=True))
    folder.check(tiny_config(resume=True, print_config=True))  # how it is started may differ
    with pytest.raises(ConfigError, match="holds a run with batch_size=8, not 4; resume=true needs the same"):
        folder.check(tiny_config(resume=True, batch_size=4))


def test_slurm_resumes_a_job_that_it_starts_again(
    folder: RunFolder, tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    with pytest.raises(ConfigError, match="resume=true"):
        folder.check(tiny_config())
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    folder.check(tiny_config())


def test_a_folder_whose_configuration_was_refused_can_be_used_again(tmp_path: Path, tiny_config: Make) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.record_failure(ConfigError("batch_size=0: too small"))
    with pytest.raises(ConfigError, match=r"already holds a run \(failed\)"):
        folder.check(tiny_config())
    folder.check(tiny_config(resume=True))
    folder.start(tiny_config(resume=True))
    assert json.loads((folder.path / "result.json").read_text()) == {"status": "running"}


def test_a_file_and_foreign_checkpoints_are_refused(tmp_path: Path, tiny_config: Make) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file; give another output folder"):
        RunFolder(tmp_path / "file").check(tiny_config())
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    folder.best.touch()
    with pytest.raises(ConfigError, match=r"checkpoints, but there is no result\.json; delete the checkpoints"):
        folder.check(tiny_config(resume=True))


def test_a_damaged_record_is_an_error(folder: RunFolder, tiny_config: Make) -> None:
    (folder.path / "result.json").write_text("{")
    with pytest.raises(ConfigError, match=r"result\.json: cannot be read .*; restore it or choose another folder"):
        folder.check(tiny_config(resume=True))
