"""Jobs of Hydra: their names, and what they warn about."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from siamese.command.jobs import caution_about_learning_rate, label_of
from siamese.config.defaults import configuration_folder
from siamese.config.load import load_train, without_hydra

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("swept", "label"),
    [
        ({}, ""),
        ({"weight_decay": "0.0001", "optimizer": "adam"}, "wd=1e-4,adam"),
        ({"learning_rate": "1e-05", "batch_size": "128"}, "lr=1e-5,bs=128"),
        ({"learning_rate": "0.000123456789"}, "lr=1.235e-4"),  # from a search
        ({"seed": "12345", "model.dropout": "0.25"}, "seed=12345,dropout=0.25"),
        ({"model.batchnorm": "True", "augmentation": "none"}, "batchnorm=True,augmentation=none"),
        ({"trainer.gradient_clip_val": "null", "threshold": "far:0.01"}, "gradient_clip_val=null,threshold=far:0.01"),
        ({"model.crops": "[0.7,1.0]", "data": "lfw_funneled"}, "crops=[0.7,1.0],lfw_funneled"),
        ({"experiment": "report/adam"}, "report/adam"),
    ],
)
def test_the_name_of_a_job_is_short_and_says_what_differs(swept: dict[str, str], label: str) -> None:
    assert label_of(swept) == label


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["optimizer=adamw", "experiment=best/unrestricted"], "muon"),
        (["optimizer=adamw", "experiment=best/unrestricted", "optimizer.eps=1e-6", "batch_size=64"], "muon"),
        (["optimizer=muon", "experiment=best/quick", "optimizer.momentum=0.9"], "adamw"),
        (["optimizer=sgd", "experiment=[report/batchnorm,demo]"], "adam"),
        (["optimizer=adamw", "experiment=demo"], None),  # Adam's learning rates suit AdamW
        (["optimizer=muon", "experiment=best/unrestricted"], None),
        (["optimizer=adamw", "experiment=best/unrestricted", "learning_rate=2e-3"], None),
        (["optimizer=adamw", "experiment=best/unrestricted", "++learning_rate=2e-3"], None),
        (["optimizer=sgd", "experiment=own/few", "data.root=x", "start_from=x"], None),  # trains nothing
        (["optimizer=sgd", "experiment=report/batchnorm"], None),  # has the learning rate of conf/train.yaml
        (["optimizer=adam", "experiment=report/sgd"], None),
        (["experiment=best/unrestricted"], None),
        (["optimizer=sgd"], None),
    ],
)
def test_another_optimizer_with_the_learning_rate_of_the_experiment(words: list[str], own: str | None) -> None:
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        cfg = compose("train", words, return_hydra_config=True)
        config = load_train(without_hydra(cfg))
        caution = caution_about_learning_rate(cfg.hydra, config)
    if own is None:
        assert caution is None
    else:
        assert caution == (
            f"learning_rate={config.learning_rate:g} is from {words[1]}, which has optimizer={own}, but this run has "
            f"{words[0]}; give a learning_rate for {config.optimizer.name}"
        )


def test_a_run_with_an_experiment_from_elsewhere_warns(call: Run, tiny_overrides: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own/experiment/mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults:\n  - override /optimizer: muon\nlearning_rate: 0.02\n")
    tiny = [word for word in tiny_overrides if not word.startswith(("learning_rate", "max_epochs"))]
    words = [*tiny, f"hydra.searchpath=[file://{tmp_path}/own]", "experiment=mine", "optimizer=sgd", "max_epochs=1"]
    for folder, more in (("run", ["hydra.run.dir=run"]), ("sweep/0", ["-m", "hydra.sweep.dir=sweep"])):
        done = call("train", *words, *more)
        assert done.returncode == 0, done.stderr
        log = (tmp_path / "work" / folder / "train.log").read_text()
        assert (
            "learning_rate=0.02 is from experiment=mine, which has optimizer=muon, but this run has optimizer=sgd"
            in log
        )
