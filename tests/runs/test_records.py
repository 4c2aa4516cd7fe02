"""``result.json`` and ``config.yaml``: what is written is what is read; damage is an error or a line for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.runs import records
from siamese.runs.records import KEY_PATTERNS, Result

Make = Callable[..., TrainConfig]

RESULT: dict[str, Any] = {
    "status": "done", "name": "tiny", "seed": 0, "n_test": 20, "test/acc": 0.1 + 0.2, "test/acc_ci": [0.25, 1 / 3],
    "test/auc": None, "tp": 1, "fp": 2, "tn": 3, "fn": 4, "outside_data": False, "run": ["a", "b"],
    "calibration/slope": 1.5, "version/torch": "2.9.0", "oneshot/20/acc": 0.5, "oneshot/5/acc": 0.75,
    "oneshot/5/acc_ci": [0.7, 0.8], "oneshot/5/pixels": 0.2, "test/tar@far=0.01": 0.125,
}  # fmt: skip


# --- result.json ------------------------------------------------------------------------------------------


def test_a_result_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "result.json"
    result = Result.model_validate(RESULT)
    records.write_result(file, result)
    assert json.loads(file.read_text()) == RESULT
    assert list(json.loads(file.read_text())) == list(result.as_dict())
    again = records.read_result(file)
    assert again == result
    assert again is not None
    assert again.as_dict() == RESULT
    assert records.read_result(file, problems := []) == result
    assert problems == []
    assert records.read_result(tmp_path / "result.json") is None


def test_keys_can_be_given_as_attributes() -> None:
    assert Result(test_acc=0.5) == Result.model_validate({"test/acc": 0.5})
    assert Result(test_acc=0.5).as_dict() == {"test/acc": 0.5}


def test_what_a_result_answers() -> None:
    result = Result.model_validate(RESULT)
    assert (result.test_acc, result.figure("test/acc")) == (0.1 + 0.2, 0.1 + 0.2)
    assert [result.figure(key) for key in ("test/auc", "test/eer", "name", "outside_data", "test/acc_ci")] == [None] * 5
    assert result.counts == (1, 2, 3, 4)
    assert result.versions == {"torch": "2.9.0"}
    assert result.ways == [5, 20]
    assert (result.oneshot(5, "acc_ci"), result.oneshot(20, "pixels")) == ([0.7, 0.8], None)
    assert result.is_evaluation
    assert not Result(status="done").is_evaluation


def test_every_key_is_documented() -> None:
    phases = {
        records.START,
        records.DATA,
        records.DONE,
        records.FOLDS,
        records.EVALUATION,
        records.ONESHOT,
        records.IDENTIFICATION,
        records.PEOPLE,
        records.ENDED,
    }
    for name, field in Result.model_fields.items():
        extra = field.json_schema_extra
        assert field.description, name
        assert isinstance(extra, dict)
        assert extra["present"] in phases, name
        assert isinstance(extra["unit"], str), name
        assert field.alias is not None
        assert field.alias.replace("/", "_") == name
    for _, name, meaning, unit, present in KEY_PATTERNS:
        assert name
        assert meaning
        assert isinstance(unit, str)
        assert present in phases


@pytest.mark.parametrize("key", ["test/accuracy", "test/acc ", "oneshot/five/acc", "version/", "test_figure"])
def test_a_key_that_is_not_documented_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown key '{key}'"):
        Result.model_validate({"status": "done", key: 1})
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"status": "done", "test/acc": 0.5, key: 1}))
    with pytest.raises(ConfigError, match=r"result\.json: cannot be read"):
        records.read_result(file)
    problems: list[str] = []
    assert records.read_result(file, problems) == Result(status="done", test_acc=0.5)
    assert problems == [f"result.json: unusable values were ignored: {key}."]


@pytest.mark.parametrize(
    ("key", "value"),
    [("status", "finished"), ("seed", "0"), ("seed", True), ("test/acc", "0.5"), ("test/acc_ci", [0.5]), ("tp", 1.5)],
)
def test_a_value_of_the_wrong_type_is_refused_or_ignored(tmp_path: Path, key: str, value: object) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"name": "tiny", key: value}))
    with pytest.raises(ConfigError, match=r"result\.json: cannot be read .*; restore it or choose another folder"):
        records.read_result(file)
    problems: list[str] = []
    assert records.read_result(file, problems) == Result(name="tiny")
    assert problems == [f"result.json: unusable values were ignored: {key}."]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        Result.model_validate({"test/acc": value})


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"null", b"[" * 100_000])
def test_a_file_that_is_no_result(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "result.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        records.read_result(file)
    assert str(caught.value).startswith(f"{file}: cannot be read (")
    assert "\n" not in str(caught.value)
    problems: list[str] = []
    assert records.read_result(file, problems) == Result()
    assert len(problems) <= 1


# --- config.yaml ------------------------------------------------------------------------------------------


def test_a_configuration_of_an_older_version_lacks_the_keys_that_were_added_later(
    tmp_path: Path, tiny_config: Make
) -> None:
    file = tmp_path / "config.yaml"
    written = yaml.safe_load(records.config_text(tiny_config(objective={"name": "ntxent"})))
    for key in records.ADDED:
        del written[key]
    for place, added in records.ADDED_TO.items():
        for key in added:
            del written[place.partition("=")[0]][key]
    file.write_text(yaml.safe_dump(written))
    read = records.read_config(file)
    assert (read.start_from, read.groups, read.data.align, read.trainer.cuda_graphs) == (None, None, None, False)
    assert (read.objective.chain_pairs, read.objective.negatives) == (True, "batch")
    written["objective"] = {"name": "bce"}  # which has none of the keys of ntxent
    file.write_text(yaml.safe_dump(written))
    assert records.read_config(file).objective.name == "bce"


def test_a_configuration_is_read_as_written(tmp_path: Path, tiny_config: Make) -> None:
    config = tiny_config(threshold="far:0.01", trainer={"accelerator": "cpu", "max_time": "00:01:00:00"})
    file = tmp_path / "config.yaml"
    file.write_text(records.config_text(config))
    assert records.read_config(file) == config
    file.write_text(records.config_text(config).replace("batch_size: 8", "batch_size: 0"))
    with pytest.raises(ConfigError, match=r"config\.yaml: batch_size=0"):
        records.read_config(file)
    for content in (b"a: [", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read as a run's configuration"):
            records.read_config(file)
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        records.read_config(file)


@pytest.mark.parametrize(
    ("content", "expected", "problem"),
    [
        ("a: 1\n", {"a": 1}, None),
        ("", {}, None),
        ("- 1\n", {}, "config.yaml holds no keys and values."),
        ("a: [", {}, "config.yaml cannot be read: "),
    ],
)
def test_a_mapping_for_the_page(tmp_path: Path, content: str, expected: dict[str, int], problem: str | None) -> None:
    import yaml

    file = tmp_path / "config.yaml"
    file.write_text(content)
    problems: list[str] = []
    assert records.read_mapping(file, yaml.safe_load, problems) == expected
    assert len(problems) == (problem is not None)
    assert not problems or problems[0].startswith(problem or "")


def test_a_damaged_result_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text('{"status": "done", "n_test": "many"}')
    with pytest.raises(ConfigError) as error:
        records.read_result(file)
    what = "n_test='many': input should be a valid integer"
    assert str(error.value) == f"{file}: cannot be read ({what}); restore it or choose another folder"
