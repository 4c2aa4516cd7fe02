"""The real LFW, if it is there: numbers of pairs, and training that learns; and what the README says of the demo."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from configs import section
from conftest import ROOT

from siamese.config.data import LfwData
from siamese.data.layouts import LAYOUTS
from siamese.data.protocol import VIEW1, read_listed
from siamese.data.sources import image_root
from siamese.data.split import stratified_split

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


def data(name: str, root: Path) -> LfwData:
    config = section("data", name=name, root=str(root))
    if not image_root(config).is_dir():
        pytest.skip(f"no {image_root(config)}")
    return config


@pytest.mark.parametrize("name", ["lfw", "lfw_funneled", "lfw_deepfunneled", "lfw_a"])
def test_view_1_has_the_course_reports_numbers_of_pairs(name: str, lfw_root: Path) -> None:
    config = data(name, lfw_root)
    listed = read_listed(config, VIEW1)
    train, test = listed.train, listed.test
    assert (len(train), len(test)) == (2200, 1000)
    assert sum(pair.label for pair in train) == 1100
    assert sum(pair.label for pair in test) == 500
    labels = np.array([pair.label for pair in train])
    kept, held_out = stratified_split(labels, 0.2, 0)
    assert (len(kept), len(held_out)) == (1760, 440)
    images = {name for pair in train + test for name in (pair.image1, pair.image2)}
    assert [name for name in images if not (image_root(config) / name).is_file()] == []
    assert {image.split("/")[0] for pair in train for image in pair[:2]}.isdisjoint(
        image.split("/")[0] for pair in test for image in pair[:2]
    )


@pytest.mark.parametrize("name", ["lfw", "lfw_a"])
def test_trains_on_lfw(name: str, lfw_root: Path, run_script: Run, tmp_path: Path) -> None:
    """Two epochs of a narrow network use every pair and give a result better than chance."""
    data(name, lfw_root)
    done = run_script(
        "train.py", f"data={name}", f"data.root={lfw_root}", "model.batchnorm=true", "model.widths=[16,32,32,64]",
        "model.embedding_dim=512", "batch_size=32", "learning_rate=3e-4", "max_epochs=2", "hydra.run.dir=run",
        timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "work/run/result.json").read_text())
    assert (result["n_train"], result["n_val"], result["n_test"], result["n_excluded"]) == (1760, 440, 1000, 0)
    assert result["outside_data"] is LAYOUTS[name].outside_data
    assert result["test/auc"] > 0.55


def write_ten_folds(source: Path, root: Path, pairs: int) -> None:
    """Write View 2's lists from the training people of View 1, with ``pairs`` of each label in a fold."""
    lines = [line.split("\t") for line in (source / "peopleDevTrain.txt").read_text().splitlines()[1:]]
    people = {name: int(count) for name, count in lines}
    rng = np.random.default_rng(0)
    names = [sorted(people)[k] for k in rng.permutation(len(people))]
    subsets = [names[k::10] for k in range(10)]
    listed, named = [f"10\t{pairs}"], ["10"]
    for subset in subsets:
        several = [name for name in subset if people[name] > 1][:pairs]
        listed += [f"{name}\t1\t2" for name in several]
        listed += [f"{a}\t1\t{b}\t1" for a, b in zip(subset[:pairs], subset[pairs : 2 * pairs], strict=True)]
        named += [str(len(subset)), *(f"{name}\t{people[name]}" for name in subset)]
    root.mkdir()
    (root / "pairs.txt").write_text("\n".join(listed) + "\n")
    (root / "people.txt").write_text("\n".join(named) + "\n")
    (root / "lfw-deepfunneled").symlink_to(source.resolve() / "lfw-deepfunneled")


@pytest.mark.parametrize("setting", ["restricted", "unrestricted"])
def test_view_2_of_ten_real_folds_is_resumed_where_it_was_stopped(
    setting: str, lfw_root: Path, run_script: Run, tmp_path: Path
) -> None:
    data("lfw_deepfunneled", lfw_root)
    write_ten_folds(lfw_root, tmp_path / "lfw", pairs=60)
    command = [
        "train.py", "data=lfw_deepfunneled", f"data.root={tmp_path / 'lfw'}", "data.image_size=32", "data.crop=120",
        "protocol=view2", f"protocol.setting={setting}", "model=resnet", "model.widths=[16,32]", "model.blocks=[1,1]",
        "objective=ntxent", "backend=plda", "data.split=people", "sampling.min_images=2", "learning_rate=2e-3",
        "max_epochs=2", "hydra.run.dir=run",
    ]  # fmt: skip
    folder = tmp_path / "work/run"

    def folds_done() -> list[str]:
        results = sorted(folder.glob("fold_*/result.json"))
        return [file.parent.name for file in results if json.loads(file.read_text())["status"] == "done"]

    script, *overrides = command
    with subprocess.Popen([sys.executable, str(ROOT / script), *overrides], cwd=tmp_path / "work") as process:
        while process.poll() is None and len(folds_done()) < 2:
            time.sleep(0.5)
        process.kill()
    before = {name: (folder / name / "predictions.csv").stat().st_mtime_ns for name in folds_done()}
    assert 0 < len(before) < 10
    done = run_script(*command, "resume=true", timeout=1500)
    assert done.returncode == 0, done.stderr
    assert len(folds_done()) == 10
    assert {name: (folder / name / "predictions.csv").stat().st_mtime_ns for name in before} == before
    result = json.loads((folder / "result.json").read_text())
    assert (result["folds"], result["n_test"], result["setting"]) == (10, 1200, setting)
    assert result["test/auc"] > 0.6
    assert (folder / "report.html").is_file()


def test_the_demo_learns(run_script: Run, tmp_path: Path) -> None:
    """As the README and `make demo` promise."""
    done = run_script("train.py", "experiment=demo", "hydra.run.dir=run", timeout=1500)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "work/run/result.json").read_text())
    assert result["test/acc"] > 0.85
    assert (tmp_path / "work/run/report.html").is_file()
