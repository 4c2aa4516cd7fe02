"""Checks before a run: an error is one line, and comes before torch is imported or a file is written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

BAD = {
    "unknown key": (["model.batchnrom=true"], "did you mean model.batchnorm?"),
    "unknown key added with plus": (["+model.typo=1"], "unknown key 'model.typo' (keys of model: name, batchnorm"),
    "unknown top-level key": (["batchsize=32"], "did you mean batch_size?"),
    "unknown top-level key added with plus": (["+lr=0.1"], "unknown key 'lr'; did you mean learning_rate?"),
    "unknown section": (["+regularisation.dropout=0.1"], "unknown key 'regularisation'; did you mean regularization?"),
    "unknown option of a group": (["optimizer=adamm"], "optimizer=adamm: no such option; did you mean optimizer=adam?"),
    "unknown group": (["optimiser=adam"], "optimiser"),
    "key of another option": (["optimizer.momentum=0.9"], "with optimizer=adam; it is a key of optimizer=sgd"),
    "wrong type": (["batch_size=many"], "batch_size='many': input should be a valid integer"),
    "float for an integer": (["max_epochs=1.5"], "max_epochs=1.5: input should be a valid integer"),
    "boolean for a number": (["batch_size=true"], "batch_size=True: input should be a valid integer"),
    "number for a boolean": (["model.batchnorm=1"], "model.batchnorm=1: input should be a valid boolean"),
    "several options of a group": (["model=[koch,resnet]"], "give one option; a sweep over them is -m model=koch"),
    "two loggers": (["logger=[csv,tensorboard]"], "give one option; every run also writes its curves to history.csv"),
    "two loggers in a sweep": (["-m", "logger=[csv,tensorboard],csv"], "logger=[csv,tensorboard]: give one option"),
    "null for a group": (["logger=null"], "logger=null: no such option; give csv, mlflow, tensorboard or wandb"),
    "number for a group": (["model=3"], "model=3: no such option; give koch, lbp"),
    "dictionary for a group": (["model={name: koch}"], "model={name: koch}: no such option; give koch, lbp"),
    "null for a group of Hydra": (["hydra/launcher=null"], "hydra/launcher=null: no such option; give basic, joblib"),
    "null for an experiment": (["experiment=null"], "experiment=null: no such option; give baseline/lbp"),
    "run folder as working directory": (["data=synthetic", "hydra.job.chdir=true"], "hydra.job.chdir=true: relative"),
    "run folder as working directory of jobs": (
        ["-m", "data=synthetic", "hydra.job.chdir=true", "seed=0,1"], "hydra.job.chdir=true: relative"
    ),
    "no output folder": (["data=synthetic", "hydra.run.dir="], "hydra.run.dir is not set; give the output folder"),
    "no folder of photos": (["data=folder"], "data.root is not set; give the folder that holds one folder per person"),
    "null for a folder of photos": (["data=folder", "data.root=null"], "is not set; give the folder that holds one"),
    "empty folder": (["data=folder", "data.root="], "data.root is not set; give the folder that holds one folder per"),
    "no list of pairs": (["data=pairs"], "data.list is not set; give the path of the CSV file, as in data.list=PAIRS"),
    "no photos in a sweep": (["-m", "data=folder", "seed=0,1"], "data.root is not set; give the folder"),
    "key with a space": (["learning rate=1"], "'learning rate=1': ' ' (character 9) cannot be part of a key; expected"),
    "no key": (["=3"], "'=3': expected KEY=VALUE"),
    "values without a sweep": (["seed=0,1"], "several values are a sweep; give -m for a sweep, or 'seed=[0,1]' for a"),
    "function without a sweep": (["seed=range(3)"], "seed=range(3): several values are a sweep; give -m"),
    "interpolation in a folder": (["data.root=${x}"], "data.root: Interpolation key 'x' not found; ${...} stands for"),
    "file that is not there": (["--config-name", "mine"], "'mine'; for a file of your own give --config-path FOLDER"),
    "section for a value": (["seed={a:1}"], "seed={'a': 1}: input should be a valid integer"),
    "zero batch size": (["batch_size=0"], "batch_size=0: input should be greater than or equal to 1"),
    "batch of one with batch normalization": (["batch_size=1", "model.batchnorm=true"], "batch_size=1 has no batch"),
    "dropout over one": (["model.dropout=1.5"], "model.dropout=1.5: input should be less than 1"),
    "negative learning rate": (["learning_rate=-1e-4"], "learning_rate=-0.0001: input should be greater than 0"),
    "learning rate that is no number": (["learning_rate=nan"], "learning_rate=nan: input should be a finite number"),
    "negative seed": (["seed=-1"], "seed=-1: input should be greater than or equal to 0"),
    "unknown choice": (["monitor=train/loss"], "monitor='train/loss': input should be 'val/loss', 'val/acc' or"),
    "threshold that is no probability": (["threshold=1.5"], "threshold: 1.5 is neither a probability between 0 and 1"),
    "unknown rule for the threshold": (["threshold=best"], "threshold: 'best' is not a rule for the threshold; give "),
    "impossible rate": (["threshold=far:2"], "threshold: 'far:2' is not a rule for the threshold"),
    "similarities taken for logits": (["objective=ntxent", "calibration=none"], "give calibration=platt"),
    "names in the restricted setting": (["objective=arcface"], "give protocol.setting=unrestricted"),
    "pairs that the unrestricted setting does not use": (
        ["objective=ntxent", "objective.chain_pairs=false", "protocol.setting=unrestricted"], "does not use; give true"
    ),
    "listed negatives that the unrestricted setting does not use": (
        ["objective=ntxent", "objective.negatives=listed", "protocol.setting=unrestricted"], "does not use; give batch"
    ),
    "listed negatives alone": (["objective=ntxent", "objective.negatives=listed"], "give objective.views=2"),
    "listed pairs in the unrestricted setting": (
        ["objective=ntxent", "objective.pair_weight=1", "protocol.setting=unrestricted"], "objective.pair_weight"
    ),
    "one pair to compare people": (["objective=triplet", "batch_size=1"], "batch_size=1: objective=triplet compares"),
    "evaluation's protocol in training": (["protocol=oneshot"], "protocol=oneshot is not possible here; give one of"),
    "identification in training": (["protocol=identification"], "protocol=identification is not possible here"),
    "fold zero": (["protocol=view2", "protocol.fold=0"], "protocol.fold=0: input should be greater than or equal to 1"),
    "stages that do not agree": (["model=resnet", "model.blocks=[1,1]"], "model: widths=[32, 64, 128, 256] and blocks"),
    "spectra for small kernels": (["model=resnet", "convolution=dft"], "convolution=dft is for model=koch"),
    "scale below one": (["augmentation.scale=0.8"], "augmentation.scale=0.8: input should be greater than or equal"),
    "one image of each person": (["sampling.images_per_person=1"], "sampling.images_per_person=1: input should be"),
    "crop of no pixel": (["model=multicrop", "model.crops=[1.0,0.01]"], "model.crops=[1.0, 0.01]: 0.01 of data.image"),
    "cells larger than the image": (["model=lbp", "model.cell=60"], "model.cell=60: 0.467 of data.image_size=105"),
    "more dimensions than features": (
        ["model=lbp", "model.cell=40", "model.radii=[1]", "model.scales=[1.0]"], "the histograms of this model have"
    ),
    "head that nobody trains": (["model=lbp", "max_epochs=0"], "max_epochs=0 does not train the head of objective=bce"),
    "margin beyond a right angle": (
        ["objective=arcface", "objective.margin=2", "protocol.setting=unrestricted"], "margin=2.0 must be less than"
    ),
    "two views of one picture": (["objective=ntxent", "objective.views=2"], "give augmentation=face"),
    "batch of one": (["model=resnet", "batch_size=1"], "batch_size=1 has no batch statistics; model=resnet needs"),
    "key of an experiment for another objective": (
        ["experiment=best/quick", "objective=triplet"], "experiment=best/quick sets this key for another option of its "
        "group; remove it with ~objective.temperature",
    ),
    "key that nobody sets": (["experiment=best/quick", "model.typo=1"], "unknown key 'model.typo'"),
    "unknown backbone": (["model=torchvision", "model.backbone=vgg"], "model.backbone='vgg': input should be"),
    "unknown precision": (["precision=64"], "precision=64: input should be 'auto', '32' or 'bf16'"),
    "widths of the wrong length": (["model.widths=[64,128]"], "model.widths"),
    "image too small for the network": (["data.image_size=40"], "too small for model=koch; give at least"),
    "momentum missing for nesterov": (["optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], "momentum"),
    "validation takes all": (["data.val_fraction=1"], "data.val_fraction=1: input should be less than 1"),
    "too few people": (["data=synthetic", "data.train_people=4", "data.test_people=4"], "people"),
    "synthetic faces where other files are": (
        ["data=synthetic", f"data.root={Path(__file__).parent}"], "contains something other than these synthetic faces"
    ),
    "groups that are not there": (["data=synthetic", "groups=no.csv"], "no.csv: no such file (expected a CSV file of"),
    "groups that are no table": (
        ["data=synthetic", f"groups={__file__}"], "test_checks.py:1: no column image or person (expected a header with"
    ),
    "groups in a sweep": (["-m", "data=synthetic", "groups=no.csv", "seed=0,1"], "no.csv: no such file"),
    "no equals sign": (["batch_size"], "batch_size"),
    "list that is not closed": (
        ["model.widths=[64,128"],
        "model.widths=[64,128: expected a list; give model.widths=[64,128]",
    ),
    "unknown interpolation": (["name=${nope}"], "nope"),
    "data root that is not there": (["data.root=/no/such/folder"], "data.root=/no/such/folder: no such folder"),
    "data set that is not there": (["data=lfw_a"], "no such folder"),
    "image folder that is not there": (["data=lfw_a", "data.root=."], "missing lfw2; place it there by hand"),
    "all jobs of a sweep": (["-m", "batch_size=0", "seed=0,1"], "batch_size=0"),
    "a key of no swept option": (
        ["data=synthetic", "-m", "optimizer=adamw,adam", "optimizer.momentum=0.9"],
        "unknown key 'optimizer.momentum' with optimizer=adamw; it is a key of optimizer=sgd or muon",
    ),
    "unknown option in the last job of a sweep": (
        ["-m", "data=synthetic", "seed=0,1", "optimizer=adam,adamm"],
        "optimizer=adamm: no such option; did you mean optimizer=adam?",
    ),
    "null as an option in a sweep": (
        ["-m", "data=synthetic", "optimizer=adam,null"], "optimizer=null: no such option; give adam, adamw",
    ),
    "a range of options": (["-m", "optimizer=range(1,3)"], "optimizer=range(1,3): expected names of options"),
    "a number among options": (["-m", "optimizer=choice(adam,3)"], "choice(adam,3): expected names of options"),
    "keys instead of an option": (
        ["model={name: koch, dropout: 0.5}"], "model={name: koch, dropout: 0.5}: no such option; give koch, lbp",
    ),
    "keys among options": (
        ["-m", "model=lbp,{name: koch, dropout: 0.5}"],
        "model=lbp,{name: koch, dropout: 0.5}: expected names of options; set their keys as model.KEY=VALUE",
    ),
    "unknown key in a sweep": (["-m", "model.typo=1,2"], "unknown key 'model.typo'"),
}  # fmt: skip
"""What a user may type wrongly -> the overrides, and what the one line must say."""


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_ends_in_one_line_and_writes_nothing(case: str, call: Run, tmp_path: Path) -> None:
    overrides, message = BAD[case]
    done = call("train", *overrides)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stdout == ""
    assert list((tmp_path / "work").iterdir()) == []


def test_keys_with_dashes(call: Run, tmp_path: Path) -> None:
    done = call("train", "--learning_rate", "1e-3")
    assert done.returncode == 2
    assert "unrecognized arguments: --learning_rate" in done.stderr
    assert done.stderr.splitlines()[-1] == "write keys without dashes, as in batch_size=32; --help lists them"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("case", ["unknown key", "data root that is not there", "all jobs of a sweep"])
def test_a_process_with_a_bad_configuration_imports_no_torch(case: str, run_script: Run, tmp_path: Path) -> None:
    overrides, message = BAD[case]
    done = run_script("train.py", *overrides, PYTHONPROFILEIMPORTTIME="1")
    imports, lines = [], []
    for line in done.stderr.splitlines():
        (imports if line.startswith("import time:") else lines).append(line)
    assert done.returncode == 2
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert done.stdout == ""
    assert imports, "the interpreter did not report its imports"
    assert not [line for line in imports if line.endswith((" torch", " lightning"))]
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.integration
def test_help_and_print_config_without_torch(run_script: Run, tmp_path: Path) -> None:
    for script, arguments, expected in (
        ("train.py", ["--help"], "  learning_rate=0.0001 "),
        ("train.py", ["--cfg", "job"], "batch_size: 128"),
        ("eval.py", ["--help"], "eval.py run="),
    ):
        done = run_script(script, *arguments, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert " torch\n" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []


def test_a_sweep_over_a_range_of_reals_is_refused(call: Run, tmp_path: Path) -> None:
    done = call("train", "-m", "data=synthetic", "learning_rate=interval(1e-4,1e-3)")
    assert (done.returncode, done.stderr) == (
        2,
        "error: learning_rate=interval(1e-4,1e-3): a sweep needs a list of values; give choice(...) or range(...)\n",
    )
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_sweep_of_several_processes_names_the_launcher_to_use(
    call: Run, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "2")
    done = call("train", "-m", "data=synthetic", "seed=0,1")
    assert done.returncode == 2
    assert "error: torchrun and srun start the processes of one run, not of a sweep; " in done.stderr
    assert "hydra/launcher=submitit_slurm hydra.launcher.nodes=N hydra.launcher.tasks_per_node=M" in done.stderr


def test_groups_of_other_people_are_refused_before_a_run(call: Run, tiny_root: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("person,gender\nNobody,female\n", encoding="utf-8")
    done = call("train", "data=folder", f"data.root={tiny_root / 'lfw'}", f"groups={tmp_path / 'groups.csv'}")
    assert done.returncode == 2
    assert "groups.csv: has none of the" in done.stderr
    assert "its first person is 'Nobody'" in done.stderr
    assert list((tmp_path / "work").iterdir()) == []
