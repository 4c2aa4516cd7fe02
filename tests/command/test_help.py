"""``--help`` explains what is used most, then every group, option and key, for the width of the terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import OPTIONS, ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from siamese.command.help import MOST_USED, help_tables
from siamese.config.reference import groups_of, options_of_group, values_of
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import sections_of
from siamese.config.suggestions import keys_of


def tables(name: str, *overrides: str) -> str:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(name, list(overrides), return_hydra_config=True)
    plain = OmegaConf.to_container(cfg)
    del plain["hydra"]  # type: ignore[union-attr, arg-type]
    return help_tables(plain, cfg.hydra.runtime.choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = tables("train").splitlines()
    assert len({*map(len, lines)}) > 10
    assert max(map(len, lines)) <= max(60, min(columns, 100))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_and_its_keys_are_explained(group: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = tables("train", f"{group}='{option}'")
    assert re.search(rf"^  \* {re.escape(option)}\s+\w", shown, re.MULTILINE)
    for key, options in keys_of(TrainConfig).items():
        if option in options and key.startswith(f"{group}.") and key != f"{group}.name":
            assert re.search(rf"^  {re.escape(key)}=", shown, re.MULTILINE), key


def test_every_key_has_its_values() -> None:
    shown = " ".join(tables("train").split())
    for name, field in TrainConfig.model_fields.items():
        if not sections_of(field.annotation):
            meaning = (field.description or "").replace("`", "")
            assert re.search(rf" {name}=\S+ {re.escape(meaning)} \[{re.escape(values_of(field))}\]", shown), name


def test_what_is_used_most_comes_first() -> None:
    shown = tables("train")
    first = shown[: shown.index("Groups and their options")]
    assert re.findall(r"^  ([\w.]+)=", first, re.MULTILINE) == [*MOST_USED, "hydra.run.dir"]


def test_parts_of_options_and_searches_are_no_options() -> None:
    shown = tables("train")
    assert not re.search(r"\b_(images|own)\b|^\s*search\b", shown, re.MULTILINE)
    assert not [option for group in groups_of(TrainConfig) for option in options_of_group(group) if option[0] == "_"]


def test_keys_of_the_chosen_options() -> None:
    assert "model.batchnorm=false" in tables("train")
    chosen = tables("train", "model=multicrop", "data=folder", "optimizer=sgd", "batch_size=32")
    assert {"model.crop_size=64", "data.root=", "optimizer.momentum=0.9", "batch_size=32"} <= set(chosen.split())
    assert "model.batchnorm" not in chosen
    assert "[required: text]" in " ".join(chosen.split())


def test_evaluations() -> None:
    shown = tables("eval")
    assert {*groups_of(EvalConfig)} == {"data", "protocol", "backend"}
    assert {"run=", "flip_average=null", "lfw_deepfunneled", "oneshot"} <= set(shown.split())
    assert "learning_rate" not in shown
    assert "protocol.trials=1000" in tables("eval", "protocol=oneshot")
    assert "protocol.draws=10" in tables("eval", "protocol=identification")


@pytest.mark.integration
def test_a_dollar_sign_in_a_value_and_tab_completion() -> None:
    shown = subprocess.run(
        [sys.executable, "train.py", "name='cost: $5'", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "name='cost: $5'" in shown.stdout
    completed = subprocess.run(
        [sys.executable, "train.py", "-sc", "query=bash"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "COMP_LINE": "python train.py model=resnet model.", "COMP_POINT": "35"},
    )  # fmt: skip
    assert {"model.stem=", "model.dropout="} <= set(completed.stdout.split())
