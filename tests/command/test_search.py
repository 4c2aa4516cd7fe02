"""A hyperparameter search: what it refuses, and that a stopped and resumed search ends like an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, without_times
from hypothesis import given
from hypothesis import strategies as st

from siamese.command.jobs import label_of
from siamese.command.main import main
from siamese.command.search import folder_number, latest_trials, next_trial, open_study
from siamese.command.search_space import SearchConfig, as_override, compose_trial
from siamese.config.load import load_file
from siamese.errors import ConfigError

SPACE = """
trials: 4
random: 2
pruning: {startup: 1, warmup: 1}
space:
  learning_rate: {low: 1e-5, high: 1e-2, log: true}
  model.dropout: {low: 0.0, high: 0.4, step: 0.1}
  model.embedding_dim: {low: 8, high: 16}
  optimizer: {choices: [adam, adamw]}
"""

Search = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


@pytest.fixture
def search(space: Path, tiny_overrides: list[str]) -> Search:
    """Starts a search of short runs in a folder."""
    pytest.importorskip("optuna", reason="an extra")

    def start(folder: Path, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "siamese", "search", str(space), str(folder), *tiny_overrides, *more]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    return start


def record(folder: Path) -> list[dict[str, Any]]:
    """Optuna's record of each trial, and the result of its run without times."""
    import optuna

    study = optuna.load_study(storage=f"sqlite:///{folder / 'search.db'}", study_name="search")
    trials = []
    for number, trial in sorted(latest_trials(study).items()):
        result = without_times(json.loads((folder / str(number) / "result.json").read_text()))
        result = {key: value for key, value in result.items() if not key.startswith("git_")}  # may change meanwhile
        if trial.state.name == "PRUNED":  # how far it got before the signal came is chance
            result = {key: result[key] for key in ("name", "seed")}
        trials.append(
            {"state": trial.state.name, "params": trial.params, "values": trial.intermediate_values, "result": result}
        )
    return trials


BROKEN = {
    "no such file": (None, "nowhere.yaml: no such file; give a YAML file with a search space, or one of quick"),
    "no YAML": ("space: [", "cannot be read"),
    "no space": ("trials: 3", "space is missing"),
    "an empty one": ("space: {}", "space={}"),
    "an unknown key": (
        "space: {learning_rat: {low: 1, high: 2}}",
        "unknown key 'learning_rat'; did you mean learning_rate?",
    ),
    "an unknown option": (
        "metrik: val/acc\nspace: {seed: {low: 1, high: 2}}",
        "unknown key 'metrik'; did you mean metric?",
    ),
    "an unknown key of a range": (
        "space: {learning_rate: {lo: 1, high: 2}}",
        "unknown key 'space.learning_rate.lo' (keys of space: low, high, log, step, choices)",
    ),
    "an unknown metric": ("metric: test/acc\nspace: {seed: {low: 1, high: 2}}", "metric='test/acc'"),
    "the wrong way round": ("space: {learning_rate: {low: 1e-2, high: 1e-4}}", "low=0.01 is not below high=0.0001"),
    "the logarithm of 0": ("space: {weight_decay: {low: 0, high: 1, log: true}}", "log=true needs low above 0"),
    "one choice": ("space: {optimizer: {choices: [adam]}}", "choices"),
    "half a range": ("space: {weight_decay: {low: 0}}", "space.weight_decay: give low and high, or choices"),
    "a value that is impossible": ("space: {model.dropout: {low: 0.0, high: 1.5}}", "space: model.dropout=1.5"),
    "an option that is not there": ("space: {optimizer: {choices: [adam, adamm]}}", "adamm"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_unusable_space_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    pytest.importorskip("optuna", reason="an extra")
    text, message = BROKEN[kind]
    file = tmp_path / "nowhere.yaml"
    if text is not None:
        file = tmp_path / "space.yaml"
        file.write_text(text)
    assert main(["search", str(file), str(tmp_path / "search"), *tiny_overrides]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert told.startswith("error: ")
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.typo=1"], "model.typo"),
        (["data.root=/nowhere", "data=lfw_a"], "/nowhere"),
        (["trainer=ddp"], "trainer=ddp"),
        (["--trials", "0"], "--trials 0: give 1 or more"),
    ],
)
def test_overrides_that_no_trial_can_have(
    space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    pytest.importorskip("optuna", reason="an extra")
    assert main(["search", str(space), str(tmp_path / "search"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


def test_without_optuna_the_error_names_the_package(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", str(space), str(tmp_path / "search")]) == 2
    assert capsys.readouterr().err.startswith("error: a search needs optuna, which is not installed")


@pytest.mark.parametrize("file", sorted((ROOT / "conf/search").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_spaces_that_come_along_are_possible(file: Path) -> None:
    plan = load_file(file, SearchConfig)
    (command,) = (line for line in file.read_text().splitlines() if "siamese search" in line)
    words = [word for word in command.split() if "=" in word]
    for key, values in plan.space.items():
        for value in values.extremes:
            compose_trial([*words, as_override(key, value)])


@given(st.floats(1e-8, 1e8) | st.integers() | st.booleans())
def test_a_value_on_the_command_line_is_that_value(value: float) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([as_override("a.b", value)])
    assert parsed.value() == pytest.approx(value, rel=1e-11)
    assert type(parsed.value()) in (type(value), int)


def planned(space: Path, **changes: object) -> SearchConfig:
    return load_file(space, SearchConfig).model_copy(update=changes)


def played(space: Path, folder: Path, killed: Callable[[Any], bool] = lambda trial: False) -> list[dict[str, Any]]:
    """A search without runs: each trial's loss is made from its values. ``killed``: its process dies before that."""
    pytest.importorskip("optuna", reason="an extra")
    plan = planned(space, trials=8, random=3, pruning=None)
    while (turn := next_trial(plan, study := open_study(plan, folder, []), folder, plan.trials)) is not None:
        trial, lock = turn
        if not killed(trial):
            study.tell(trial, trial.params["model.dropout"] + trial.params["model.embedding_dim"] / 100)
        lock.release()
    return [
        {"folder": number, "state": trial.state.name, "params": trial.params, "values": trial.values}
        for number, trial in sorted(latest_trials(study).items())
    ]


def test_a_killed_search_proposes_what_an_undisturbed_one_does(space: Path, tmp_path: Path) -> None:
    whole = played(space, tmp_path / "whole")
    assert [trial["folder"] for trial in whole] == list(range(8))
    assert {trial["state"] for trial in whole} == {"COMPLETE"}
    killed: list[int] = []

    def once_or_twice(trial: Any) -> bool:
        killed.append(folder_number(trial))
        return folder_number(trial) % 2 == 1 and killed.count(folder_number(trial)) <= folder_number(trial) % 3

    assert played(space, tmp_path / "cut", once_or_twice) == whole
    assert len(killed) > len(whole)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before it is asked for", marks=pytest.mark.slow),
        pytest.param("while values are drawn", marks=pytest.mark.slow),
        "between two records",
    ],
)
def test_a_search_that_is_killed_while_it_takes_a_trial(
    space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    optuna = pytest.importorskip("optuna", reason="an extra")
    whole = played(space, tmp_path / "whole")
    plan = planned(space, trials=8, random=3, pruning=None)
    study = open_study(plan, tmp_path / "cut", [])

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before it is asked for":
            patch.setattr(study, "ask", kill)
        elif moment == "while values are drawn":
            patch.setattr(optuna.samplers.TPESampler, "sample_independent", kill)
        else:
            turn = next_trial(plan, study, tmp_path / "cut", 8)
            assert turn is not None
            turn[1].release()
            patch.setattr(study, "tell", kill)
        with pytest.raises(Killed):
            next_trial(plan, study, tmp_path / "cut", 8)
    assert played(space, tmp_path / "cut") == whole


def test_a_trial_of_a_living_process_is_not_taken(space: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="an extra")
    plan = planned(space)
    first = next_trial(plan, open_study(plan, tmp_path / "search", []), tmp_path / "search", 4)
    second = next_trial(plan, open_study(plan, tmp_path / "search", []), tmp_path / "search", 4)
    assert first is not None
    assert second is not None
    assert [folder_number(trial) for trial, _ in (first, second)] == [0, 1]
    first[1].release()
    third = next_trial(plan, open_study(plan, tmp_path / "search", []), tmp_path / "search", 4)
    assert third is not None
    assert (folder_number(third[0]), third[0].params) == (0, first[0].params)


@pytest.mark.slow
@pytest.mark.integration
def test_a_search_logs_its_best_trial_and_runs_nothing_twice(search: Search, tmp_path: Path) -> None:
    folder = tmp_path / "search"
    told = search(folder, "--trials", "2").communicate(timeout=200)[1]
    assert "2 trials: 2 finished" in told
    best = min(record(folder), key=lambda trial: trial["result"]["val/loss"])
    assert all(as_override(key, value) in told.splitlines()[-1] for key, value in best["params"].items())
    chosen = label_of(dict(as_override(key, value).split("=") for key, value in best["params"].items()))
    assert sorted(best["result"]["label"].split(",")) == sorted(chosen.split(","))  # its name in TensorBoard
    assert "| learning_rate |" in (folder / "results.md").read_text()
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}
    again = search(folder, "--trials", "2")
    assert "2 trials: 2 finished" in again.communicate(timeout=100)[1]
    assert again.returncode == 0
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("result.json")}


def test_a_folder_that_holds_something_else(space: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="an extra")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds files that are not of a search; give another folder"):
        open_study(planned(space), tmp_path / "other", [])


def test_a_folder_of_another_search(space: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="an extra")
    open_study(planned(space), tmp_path / "search", ["seed=1"])
    for plan, overrides, what in ((planned(space), [], "seed=1"), (planned(space, random=3), ["seed=1"], "another")):
        with pytest.raises(ConfigError, match=f"holds a search with {what}"):
            open_study(plan, tmp_path / "search", overrides)
    open_study(planned(space, trials=9), tmp_path / "search", ["seed=1"])


@pytest.mark.slow
def test_a_search_that_is_killed_and_interrupted_ends_as_an_undisturbed_one(search: Search, tmp_path: Path) -> None:
    assert search(tmp_path / "whole").wait(timeout=600) == 0
    rng = random.Random(0)
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        running = search(tmp_path / "cut")
        time.sleep(rng.uniform(2, 14))
        running.send_signal(how)
        told = running.communicate(timeout=100)[1]
        assert "Traceback" not in told
        assert running.returncode in (0, -signal.SIGKILL, 128 + how)
    last = search(tmp_path / "cut")
    told = last.communicate(timeout=600)[1]
    assert last.returncode == 0, told
    assert record(tmp_path / "cut") == record(tmp_path / "whole")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


@pytest.mark.slow
def test_several_at_a_time_share_a_search(search: Search, tmp_path: Path) -> None:
    both = [search(tmp_path / "search", "--trials", "5") for _ in range(2)]
    told = [one.communicate(timeout=600)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert len(record(tmp_path / "search")) == 5
    lines = [line for text in told for line in text.splitlines() if line.startswith("trial ")]
    assert sorted(line.split(":")[0] for line in lines) == [f"trial {k}" for k in range(5)]
    assert all(any(line.startswith("trial ") for line in text.splitlines()) for text in told)  # both had some
