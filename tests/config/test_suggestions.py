"""Messages about unknown keys and options name what the user probably meant."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from siamese.config.defaults import configuration_folder
from siamese.config.load import compose_train, composition_error, load_eval
from siamese.config.schema import PRESETS, TrainConfig
from siamese.config.suggestions import OTHER_NAMES, keys_of
from siamese.errors import ConfigError

MEANT = {
    "lr": "learning_rate", "optimizer.lr": "learning_rate", "epochs": "max_epochs", "trainer.max_epochs": "max_epochs",
    "bs": "batch_size", "BATCH_SIZE": "batch_size", "batch-size": "batch_size", "wd": "weight_decay",
    "optim": "optimizer", "lr_scheduler": "scheduler", "loss": "objective", "net": "model", "arch": "model",
    "model_name": "model", "batch_norm": "model.batchnorm", "model.batch_norm": "model.batchnorm",
    "dropout": "model.dropout", "dropuot": "model.dropout", "embedding_dim": "model.embedding_dim",
    "gpus": "trainer.devices", "trainer.gpus": "trainer.devices", "device": "trainer.accelerator",
    "accelerator": "trainer.accelerator", "data_dir": "data.root", "root": "data.root", "dataset": "data",
    "image_size": "data.image_size", "img_size": "data.image_size", "output_dir": "hydra.run.dir",
    "hydra.run.dirr": "hydra.run.dir", "random_seed": "seed", "wandb": "logger=wandb", "cosine": "scheduler=cosine",
    "experimnt": "experiment", "regularisation": "regularization", "model.dropuot": "model.dropout",
    "scale": "augmentation.scale",
    "momentum": "optimizer.momentum (optimizer=sgd or muon)",
    "margin": "objective.margin (objective=contrastive, triplet, arcface or cosface)",
    "weights": "model.weights (model=torchvision)",
}  # fmt: skip
"""Unknown key -> what the message suggests with the defaults."""


@pytest.mark.parametrize("sign", ["", "+"])
@pytest.mark.parametrize("key", [key for key in MEANT if not key.startswith("hydra.")])
def test_unknown_keys(key: str, sign: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_train([f"{sign}{key}=1"])
    assert str(caught.value) == f"unknown key '{key}'; did you mean {MEANT[key]}?"


def test_keys_of_hydra() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'hydra\.run\.dirr'; did you mean hydra\.run\.dir\?"):
        compose_train(["hydra.run.dirr=x"])


def test_other_names_are_those_of_keys() -> None:
    assert OTHER_NAMES.keys() <= {*keys_of(TrainConfig), *PRESETS, "hydra.run.dir"}
    others = " ".join(OTHER_NAMES.values()).split()
    assert len(others) == len(set(others))
    assert not set(others) & keys_of(TrainConfig).keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.margin=1"], "unknown key 'objective.margin' with objective=bce; it is a key of "
         "objective=contrastive, triplet, arcface or cosface"),
        (["data=synthetic", "data.downlaod=true"], "unknown key 'data.downlaod'; did you mean data.download"),
        (["model.foo=1"], "unknown key 'model.foo' (keys of model: name, batchnorm, dropout, widths, "),
        (["model.foo.bar=1"], "unknown key 'model.foo.bar' (keys of model: name, batchnorm, "),
        (["qwertz=1"], "unknown key 'qwertz'; --help lists all keys"),
        (["num_workers=4"], "unknown key 'num_workers'; there are no worker processes"),
        (["learning_rate"], "'learning_rate': expected KEY=VALUE or GROUP=OPTION, without spaces"),
    ],
)  # fmt: skip
def test_other_messages(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_train(overrides)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer=Adam", "did you mean optimizer=adam?"),
        ("model=resnet18", "did you mean model=torchvision model.backbone=resnet18?"),
        ("trainer=simple", "did you mean trainer.profiler=simple?"),
        ("model=resnets", "did you mean model=resnet?"),
        ("data=lwf", "did you mean data=lfw?"),
        ("experiment=quick", "did you mean experiment=best/quick?"),
        ("experiment=report/batch_norm", "did you mean experiment=report/batchnorm?"),
        ("trainer=cuda", "give auto, cpu, ddp or gpu"),
        ("data=celeba", "give folder, lfw, lfw_a, lfw_deepfunneled, lfw_funneled, pairs or synthetic"),
        ("hydra/launcher=slurm", "give basic, joblib, submitit_local or submitit_slurm"),
    ],
)
def test_unknown_options(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_train([override])
    assert str(caught.value) == f"{override}: no such option; {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("flip_avrage=true", "unknown key 'flip_avrage'; did you mean flip_average?"),
        ("lr=1", "unknown key 'lr' (keys: run, data, protocol, backend, groups, fusion, flip_average, crop_average)"),
        ("out=x", "unknown key 'out'; did you mean hydra.run.dir?"),
        ("data.image_size=64", "unknown key 'data.image_size'; it is a key of data=lfw, "),
        ("protocol=view3", "protocol=view3: no such option; did you mean protocol=view2?"),
    ],
)
def test_evaluations(override: str, message: str) -> None:
    with (
        initialize_config_dir(str(configuration_folder()), version_base="1.3"),
        pytest.raises(HydraException) as caught,
    ):
        load_eval(compose("eval", ["run=x", override]))
    assert str(composition_error(caught.value)).startswith(message)
