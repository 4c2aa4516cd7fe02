"""The configuration: every file composes, and what cannot work is told in one line before anything is written."""

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

from siamese.config import schema as configuration
from siamese.config.schema import TrainConfig
from siamese.data.synthetic.tree import SyntheticSpec
from siamese.errors import ConfigError

Run = Callable[..., subprocess.CompletedProcess[str]]


def load(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    return configuration.load_train(cfg)


def test_defaults_are_the_reports_first_run() -> None:
    config = load()
    assert (config.optimizer.name, config.learning_rate, config.batch_size) == ("adam", 1e-4, 128)
    assert (config.model.batchnorm, config.model.dropout, config.weight_decay) == (False, 0.0, 0.0)
    assert configuration.to_plain(config.scheduler) == {"name": "step", "step_size": 10, "gamma": 0.1}
    assert (config.max_epochs, config.patience, config.monitor, config.threshold) == (20, 5, "val/loss", 0.5)


def test_a_recipe_takes_photos_of_ones_own() -> None:
    config = load("experiment=best/quick", "data=folder", "data.root=photos")
    assert (config.data.name, config.data.crop, config.protocol.name) == ("folder", 0.48, "holdout")
    assert config.unrestricted
    assert not load("experiment=best/restricted", "data=pairs", "data.list=a.csv").unrestricted
    with pytest.raises(ConfigError, match="data=pairs tells no names"):
        load("experiment=best/quick", "data=pairs", "data.list=a.csv", "protocol.setting=unrestricted")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_config_file_composes(group: str, option: str) -> None:
    assert load(f"{group}='{option}'", *NEEDS.get((group, option), []))


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
    assert {option for _, option in OPTIONS if option.startswith("report/")} == {f"report/{row}" for row in rows}
    first = configuration.to_plain(load())
    for name, expected in rows.items():
        config = load(f"experiment=report/{name}")
        model = config.model
        assert (
            config.optimizer.name, model.batchnorm, model.dropout, config.batch_size, config.weight_decay
        ) == expected  # fmt: skip
        plain = configuration.to_plain(config)
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
    file.write_text(configuration.config_text(config), encoding="utf-8")
    assert configuration.read_config(file) == config


def test_errors_of_a_recorded_configuration_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("batch_size: [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        configuration.read_config(file)
    file.write_text("batch_size: 3", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml: name is missing"):
        configuration.read_config(file)


# What a user may type wrongly -> what the one line must say.
BAD = {
    "unknown key": (["model.batchnrom=true"], "did you mean model.batchnorm?"),
    "unknown key added with plus": (["+model.typo=1"], "unknown key 'model.typo' (keys of model: name, batchnorm"),
    "unknown top-level key": (["batchsize=32"], "did you mean batch_size?"),
    "unknown top-level key added with plus": (["+lr=0.1"], "unknown key 'lr'"),
    "unknown section": (["+regularisation.dropout=0.1"], "unknown key 'regularisation'; did you mean"),
    "unknown option of a group": (["optimizer=adamm"], "Could not find 'optimizer/adamm'"),
    "unknown group": (["optimiser=adam"], "optimiser"),
    "key of another option": (["optimizer.momentum=0.9"], "unknown key 'optimizer.momentum'"),
    "wrong type": (["batch_size=many"], "batch_size='many': input should be a valid integer"),
    "float for an integer": (["max_epochs=1.5"], "max_epochs=1.5: input should be a valid integer"),
    "boolean for a number": (["batch_size=true"], "batch_size=True: input should be a valid integer"),
    "number for a boolean": (["model.batchnorm=1"], "model.batchnorm=1: input should be a valid boolean"),
    "list for a group": (["model=[1,2]"], "TypeError"),
    "section for a value": (["seed={a:1}"], "seed={'a': 1}: input should be a valid integer"),
    "zero batch size": (["batch_size=0"], "batch_size=0: input should be greater than or equal to 1"),
    "batch of one with batch normalization": (["batch_size=1", "model.batchnorm=true"], "batch_size=1 has no batch"),
    "dropout over one": (["model.dropout=1.5"], "model.dropout=1.5: input should be less than 1"),
    "negative learning rate": (["learning_rate=-1e-4"], "learning_rate=-0.0001: input should be greater than 0"),
    "learning rate that is no number": (["learning_rate=nan"], "learning_rate=nan: input should be a finite number"),
    "negative seed": (["seed=-1"], "seed=-1: input should be greater than or equal to 0"),
    "unknown choice": (["monitor=train/loss"], "monitor='train/loss': input should be 'val/loss', 'val/acc' or"),
    "threshold that is no probability": (["threshold=1.5"], "threshold: 1.5 is neither a probability between 0 and 1"),
    "unknown rule for the threshold": (["threshold=best"], "threshold: 'best' is no rule for a threshold: give acc"),
    "impossible rate": (["threshold=far:2"], "threshold: 'far:2' is no rule for a threshold"),
    "similarities taken for logits": (["objective=ntxent", "calibration=none"], "give calibration=platt"),
    "names in the restricted setting": (["objective=arcface"], "give protocol.setting=unrestricted"),
    "listed pairs in the unrestricted setting": (
        ["objective=ntxent", "objective.pair_weight=1", "protocol.setting=unrestricted"], "objective.pair_weight"
    ),
    "one pair to compare people": (["objective=triplet", "batch_size=1"], "batch_size=1: objective=triplet compares"),
    "evaluation's protocol in training": (["protocol=oneshot"], "protocol=oneshot is not possible here; give one of"),
    "fold zero": (["protocol=view2", "protocol.fold=0"], "protocol.fold=0: input should be greater than or equal to 1"),
    "stages that do not agree": (["model=resnet", "model.blocks=[1,1]"], "model: widths=[32, 64, 128, 256] and blocks"),
    "spectra for small kernels": (["model=resnet", "convolution=dft"], "convolution=dft is for model=koch"),
    "scale below one": (["augmentation.scale=0.8"], "augmentation.scale=0.8: input should be greater than or equal"),
    "one image of each person": (["sampling.images_per_person=1"], "sampling.images_per_person=1: input should be"),
    "crop of no pixel": (["model=multicrop", "model.crops=[1.0,0.01]"], "model.crops=[1.0, 0.01]: 0.01 of data.image"),
    "margin beyond a right angle": (
        ["objective=arcface", "objective.margin=2", "protocol.setting=unrestricted"], "margin=2.0 must be less than"
    ),
    "two views of one picture": (["objective=ntxent", "objective.views=2"], "give augmentation=face"),
    "batch of one": (["model=resnet", "batch_size=1"], "batch_size=1 has no batch statistics; model=resnet needs"),
    "key of an experiment for another objective": (
        ["experiment=best/quick", "objective=triplet"], "experiment=best/quick sets it for another choice: leave it out"
        " with ~objective.temperature",
    ),
    "key that nobody sets": (["experiment=best/quick", "model.typo=1"], "unknown key 'model.typo'"),
    "unknown backbone": (["model=torchvision", "model.backbone=vgg"], "model.backbone='vgg': input should be"),
    "unknown precision": (["precision=64"], "precision=64: input should be 'auto', '32' or 'bf16'"),
    "widths of the wrong length": (["model.widths=[64,128]"], "model.widths"),
    "image too small for the network": (["data.image_size=40"], "too small for model=koch; give at least"),
    "momentum missing for nesterov": (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "momentum"),
    "validation takes all": (["data.val_fraction=1"], "data.val_fraction=1: input should be less than 1"),
    "too few people": (["data=synthetic", "data.train_people=4", "data.test_people=4"], "people"),
    "no equals sign": (["batch_size"], "batch_size"),
    "broken list": (["model.widths=[64,128"], "model.widths=[64,128"),
    "unknown interpolation": (["name=${nope}"], "nope"),
    "data root that is not there": (["data.root=/no/such/folder"], "data.root=/no/such/folder: no such folder"),
    "data set that is not there": (["data=lfw_a"], "no such folder"),
    "image folder that is not there": (["data=lfw_a", "data.root=."], "lfw2, pairsDevTrain.txt, pairsDevTest.txt"),
    "all jobs of a sweep": (["-m", "batch_size=0", "seed=0,1"], "batch_size=0"),
    "unknown key in a sweep": (["-m", "model.typo=1,2"], "unknown key 'model.typo'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_configuration_ends_in_one_line_and_writes_nothing(case: str, run_script: Run, tmp_path: Path) -> None:
    overrides, message = BAD[case]
    done = run_script("train.py", *overrides, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 2, done.stderr
    imports, lines = [], []
    for line in done.stderr.splitlines():
        (imports if line.startswith("import time:") else lines).append(line)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert imports, "the interpreter did not report its imports"
    assert not [line for line in imports if line.endswith((" torch", " lightning"))]
    assert done.stdout == ""
    assert list((tmp_path / "work").iterdir()) == []


def test_help_and_print_config_without_torch(run_script: Run, tmp_path: Path) -> None:
    for script, arguments, expected in (
        ("train.py", ["--help"], "optimizer: adam, adamw, sgd"),
        ("train.py", ["--cfg", "job"], "batch_size: 128"),
        ("eval.py", ["--help"], "eval.py run="),
    ):
        done = run_script(script, *arguments, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert " torch\n" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []


def documented_commands() -> list[str]:
    """Every ``python train.py ...`` of README, docs, configuration files and help, one line each."""
    # The parts that docs/extending.md adds are not there; tests/test_docs.py adds them.
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "extending.md"]
    documents = [ROOT / "README.md", *pages]
    files = [*documents, *sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "train.py"]
    lines = re.sub(r"\s*\\\n\s*", " ", "\n".join(file.read_text(encoding="utf-8") for file in files))
    return sorted({match.rstrip(" .,;") for match in re.findall(r"python train\.py ([^\n`#]*)", lines)})


@pytest.mark.parametrize("command", documented_commands())
def test_documented_commands_compose(command: str) -> None:
    words = [word for word in re.split(r"\s{2,}", command)[0].split() if not word.startswith("-")]
    if "hydra/launcher=ray" in words:
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="an extra that is not in dev")
    words = ["debug='nan'" if word == "debug=nan" else word for word in words]  # as `siamese.cli.run_app` does
    for word in words:
        key, _, values = word.partition("=")
        for value in [values] if values.startswith("[") else values.split(","):
            assert load(*[other for other in words if other != word and "," not in other], f"{key}={value}")
