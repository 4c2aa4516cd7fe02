"""The real LFW, where it is: the report's numbers of pairs, and training that learns. And the demo's promise."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from siamese.config import LfwData
from siamese.data.sources import LAYOUTS, VIEW1, image_root, read_listed
from siamese.data.split import stratified_split

Run = Callable[..., subprocess.CompletedProcess[str]]


def data(name: str, root: Path) -> LfwData:
    config = LfwData.model_validate({"name": name, "root": str(root)})
    if not image_root(config).is_dir():
        pytest.skip(f"no {image_root(config)}")
    return config


@pytest.mark.parametrize("name", ["lfw", "lfw_funneled", "lfw_deepfunneled", "lfw_a"])
def test_view_1_has_the_reports_numbers_of_pairs(name: str, lfw_root: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lfw", "lfw_a"])
def test_trains_on_lfw(name: str, lfw_root: Path, run_script: Run, tmp_path: Path) -> None:
    """Two epochs of a narrow network: every pair is used, and it does better than chance."""
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


@pytest.mark.slow
def test_the_demo_learns(run_script: Run, tmp_path: Path) -> None:
    """What README and `make demo` promise."""
    done = run_script("train.py", "experiment=demo", "hydra.run.dir=run", timeout=1500)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "work/run/result.json").read_text())
    assert result["test/acc"] > 0.85
    assert (tmp_path / "work/run/report.html").is_file()
