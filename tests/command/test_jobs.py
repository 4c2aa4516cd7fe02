"""Jobs of Hydra: their names, and what they warn about."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir

from siamese.command.jobs import caution_about_learning_rate, label_of
from siamese.config.defaults import configuration_folder


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
        (["experiment=best/unrestricted", "optimizer=adamw"], "muon"),
        (["experiment=best/unrestricted", "optimizer=adamw", "optimizer.eps=1e-6", "batch_size=64"], "muon"),
        (["experiment=best/quick", "optimizer=muon", "~optimizer.momentum"], "adamw"),
        (["experiment=demo", "optimizer=sgd"], "adam"),
        (["experiment=demo", "optimizer=adamw"], None),  # Adam's learning rates suit AdamW
        (["experiment=best/unrestricted", "optimizer=muon"], None),
        (["experiment=best/unrestricted", "optimizer=adamw", "learning_rate=2e-3"], None),
        (["experiment=best/unrestricted"], None),
        (["optimizer=sgd"], None),
    ],
)
def test_another_optimizer_with_the_learning_rate_of_the_experiment(words: list[str], own: str | None) -> None:
    with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
        cfg = compose("train", words, return_hydra_config=True)
        caution = caution_about_learning_rate(cfg.hydra, cfg.learning_rate)
    if own is None:
        assert caution is None
    else:
        assert caution == (
            f"{words[1]}: {words[0]} chose learning_rate={cfg.learning_rate:g} for optimizer={own}; give a "
            "learning_rate, or compare several"
        )
