"""The configuration: every file composes, and impossible values are one-line errors before anything is written."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from conftest import NEEDS, OPTIONS, ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from siamese.config.data import DOWNLOADED_ROOT, DataSection
from siamese.config.defaults import group_defaults
from siamese.config.load import compose_train
from siamese.config.reference import values_of
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import Section, options_of, sections_of, to_plain
from siamese.data.synthetic.plan import SyntheticSpec
from siamese.errors import ConfigError
from siamese.runs.records import config_text, read_config

Run = Callable[..., subprocess.CompletedProcess[str]]


def load(*overrides: str) -> TrainConfig:
    return compose_train(overrides)


def test_defaults_are_the_reports_first_run() -> None:
    config = load()
    assert (config.optimizer.name, config.learning_rate, config.batch_size) == ("adam", 1e-4, 128)
    assert (config.model.batchnorm, config.model.dropout, config.weight_decay) == (False, 0.0, 0.0)
    assert to_plain(config.scheduler) == {"name": "step", "step_size": 10, "gamma": 0.1}
    assert (config.max_epochs, config.patience, config.monitor, config.threshold) == (20, 5, "val/loss", 0.5)


def test_a_recipe_takes_the_users_own_photos() -> None:
    config = load("experiment=best/quick", "data=folder", "data.root=photos")
    assert (config.data.name, config.data.crop, config.protocol.name) == ("folder", 0.48, "holdout")
    assert config.unrestricted
    assert not load("experiment=best/restricted", "data=pairs", "data.list=a.csv").unrestricted
    with pytest.raises(ConfigError, match="data=pairs has no identities"):
        load("experiment=best/quick", "data=pairs", "data.list=a.csv", "protocol.setting=unrestricted")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_config_file_composes(group: str, option: str) -> None:
    """And `group_defaults`, which reads the files without Hydra, finds the same values."""
    needs = NEEDS.get((group, option), [])
    config = load(f"{group}='{option}'", *needs)
    if group in TrainConfig.model_fields:
        defaults, composed = group_defaults(group, option), to_plain(getattr(config, group))
        assert defaults.keys() == composed.keys()
        given = {need.partition("=")[0].removeprefix(f"{group}.") for need in needs}
        resolved = {key for key, value in defaults.items() if isinstance(value, str) and "${" in value}
        assert all(defaults[key] == composed[key] for key in defaults.keys() - given - resolved)


def test_no_option_but_the_base_of_others() -> None:
    with pytest.raises(ConfigError, match=r"data\.name is missing; choose an option of the group data"):
        load("data=_images")


def sections(kind: type[Section] = Section) -> list[type[Section]]:
    """Every section in ``siamese.config``."""
    found = [kind, *(found for child in kind.__subclasses__() for found in sections(child))]
    return [section for section in found if section.__module__.startswith("siamese.config.") and section is not Section]


UNITS = re.compile(
    r"\b(pairs?|epochs?|steps?|seconds|pixels|images|people|ways|trials?|copies|channels|blocks|folds?|batches|processes"
    r"|machines|scores|degrees|radians|tangent|cosine|fraction|probability|seed|factor|weight|weights|decay|rate|divisor"
    r"|distance|length|value|momentum|gradients?|norm|denominator|shrinkage|size)\b"
)
"""Words that say what a number counts or measures."""


def test_every_key_is_described_and_only_its_file_has_a_default() -> None:
    assert {"TrainConfig", "FolderData", "MulticropModel"} <= {section.__name__ for section in sections()}
    for section in sections():
        for key, field in section.model_fields.items():
            about = f"{section.__name__}.{key}: {field.description}"
            if section is not DataSection and not (key == "name" and options_of(section)):
                assert len((field.description or "").split()) >= 3, about
                is_number = not sections_of(field.annotation) and "number" in values_of(field)
                assert not is_number or UNITS.search(field.description or ""), about
            assert field.is_required() or section is EvalConfig, about


def test_the_folder_of_downloads_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LFW_ROOT", raising=False)
    assert load("data=lfw").data.root == DOWNLOADED_ROOT


def test_every_group_of_the_defaults_list_is_tested() -> None:
    defaults = OmegaConf.load(ROOT / "conf" / "train.yaml").defaults
    groups = {key for entry in defaults if not isinstance(entry, str) for key in entry if "override" not in key}
    assert groups == {group for group, _ in OPTIONS}


def test_experiments_of_the_report_are_its_rows() -> None:
    """Optimizer, batch normalization, dropout, batch size and weight decay; all else is the first run's."""
    rows = {
        "adam": ("adam", False, 0.0, 128, 0.0),
        "sgd": ("sgd", False, 0.0, 128, 0.0),
        "batchnorm": ("adam", True, 0.0, 128, 0.0),
        "dropout_0.1": ("adam", True, 0.1, 128, 0.0),
        "dropout_0.2": ("adam", True, 0.2, 128, 0.0),
        "final": ("adam", True, 0.0, 32, 1e-5),
        "grid": ("adam", True, 0.0, 128, 0.0),
    }
    assert {option for _, option in OPTIONS if option.startswith("report/")} == {
        f"report/{row}" for row in (*rows, "sgd_guess")
    }
    first = to_plain(load())
    for name, expected in rows.items():
        config = load(f"experiment=report/{name}")
        model = config.model
        assert (
            config.optimizer.name, model.batchnorm, model.dropout, config.batch_size, config.weight_decay
        ) == expected  # fmt: skip
        plain = to_plain(config)
        others = set(plain) - {"optimizer", "model", "batch_size", "weight_decay", "name"}
        assert {key: plain[key] for key in others} == {key: first[key] for key in others}


def test_the_reports_grid_sweeps_by_itself() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["experiment=report/grid"], return_hydra_config=True)
    assert dict(cfg.hydra.sweeper.params) == {"batch_size": "32,64,128,256", "weight_decay": "1e-4,1e-5,1e-6"}


def test_regularization_sets_what_it_names_and_the_command_line_wins() -> None:
    assert load("regularization=weight_decay").weight_decay == 1e-4
    assert load("regularization=weight_decay", "weight_decay=1e-6").weight_decay == 1e-6
    assert load("regularization=dropout").model.dropout == 0.1
    assert load("regularization=dropout", "model.dropout=0.2").model.dropout == 0.2


def test_synthetic_defaults_are_the_generators() -> None:
    data, spec = load("data=synthetic").data, SyntheticSpec()
    assert {key: getattr(data, key) for key in asdict(spec)} == asdict(spec)


def test_lfw_root_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFW_ROOT", "/photos/lfw")
    assert load("data=lfw_a").data.root == "/photos/lfw"
    assert load("data=synthetic").data.root != "/photos/lfw"


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = load("weight_decay=1e-6", "learning_rate=1e-4", "name=2024", "data.crop=150")
    file = tmp_path / "config.yaml"
    file.write_text(config_text(config), encoding="utf-8")
    assert read_config(file) == config


def test_errors_of_a_recorded_configuration_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("batch_size: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        read_config(file)
    file.write_text("batch_size: 3", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: name is missing"):
        read_config(file)


def documented_commands() -> list[str]:
    """Every ``python train.py ...`` of README, docs, configuration files and help, one line each."""
    # The parts that docs/extending.md adds are not there; tests/test_docs.py adds them.
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "extending.md"]
    documents = [ROOT / "README.md", *pages]
    files = [*documents, *sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "train.py"]
    lines = re.sub(r"\s*\\\n\s*", " ", "\n".join(file.read_text(encoding="utf-8") for file in files))
    return sorted({match.rstrip(" .,;") for match in re.findall(r"python train\.py (?!-sc)([^\n`#|]*)", lines)})


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_compose(command: str) -> None:
    words = [word for word in re.split(r"\s{2,}", command)[0].split() if not word.startswith("-")]
    if "hydra/launcher=ray" in words:
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="an extra that is not in dev")
    words = ["debug='nan'" if word == "debug=nan" else word for word in words]  # as `run_app` does
    singles = [word for word in words if "," not in word or "=[" in word]
    swept = [word for word in words if word not in singles]
    assert load(*singles)
    for word in swept:
        key, _, values = word.partition("=")
        for value in values.split(","):
            assert load(*singles, f"{key}={value}")
