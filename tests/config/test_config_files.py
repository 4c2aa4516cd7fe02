"""Every configuration file runs: each option of each group trains an epoch on the tiny faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NEEDS, OPTIONS, ROOT
from hydra import compose, initialize_config_dir

from siamese.config.load import load_train
from siamese.config.schema import TrainConfig
from siamese.data.lists import read_pairs
from siamese.data.sources import LAYOUTS
from siamese.errors import ConfigError
from siamese.runs.folder import RunFolder
from siamese.training.folds import train_folds
from siamese.training.train import train


def run(config: TrainConfig, folder: RunFolder) -> dict[str, object]:
    folder.check(config)
    return train(config, folder)


def a_list(folder: Path, root: Path) -> Path:
    """The tiny faces' pairs as a list of one's own."""
    lines = ["image1,image2,label,split"]
    for split in ("Train", "Test"):
        pairs = read_pairs(root / f"pairsDev{split}.txt")
        lines += [",".join(map(str, [*pair, split.lower()])) for pair in pairs]
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "pairs.csv"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_config_file_runs(
    group: str, option: str, tiny_overrides: list[str], tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch with each option of each group; the LFW sets on the tiny faces laid out as each of them."""
    if option in ("mlflow", "wandb"):
        pytest.importorskip(option, reason="an extra")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps its file
    folder = RunFolder(tmp_path / "run")
    overrides = [*tiny_overrides, "max_epochs=1"]
    if option in ("folder", "holdout"):
        overrides = [o for o in overrides if not o.startswith("data")]
        overrides += ["data=folder", f"data.root={tiny_root / 'lfw'}", f"data.cache={tmp_path / 'cache'}"]
        overrides += ["data.image_size=65"]
    elif option == "pairs":
        overrides = [o for o in overrides if not o.startswith("data")]
        overrides += ["data=pairs", f"data.list={a_list(tmp_path, tiny_root)}", f"data.root={tiny_root / 'lfw'}"]
        overrides += [f"data.cache={tmp_path / 'cache'}", "data.image_size=65"]
    elif group == "data" and option != "synthetic":
        root = tmp_path / "root"
        root.mkdir()
        for file in tiny_root.glob("*.txt"):
            (root / file.name).symlink_to(file)
        (root / LAYOUTS[option].images).symlink_to(tiny_root / "lfw")
        specific = ("data.root", "data=", *(f"data.{key}" for key in ("seed", "t", "view2")))
        overrides = [o for o in overrides if not o.startswith(specific)] + [f"data={option}", f"data.root={root}"]
    elif group == "experiment":
        overrides = [o for o in overrides if o != "data=synthetic"] + [f"experiment={option}", "data=synthetic"]
        overrides = [o for o in overrides if not (option.startswith("best/") and o.startswith("model."))]
    elif (group, option) == ("trainer", "gpu") and not torch.cuda.is_available():
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("train", [*overrides, "trainer=gpu"])
        with pytest.raises(ConfigError, match="no GPU"):
            run(load_train(cfg), folder)
        return
    elif group == "model" and option != "koch":
        overrides = [o for o in overrides if not o.startswith("model.")] + [f"model={option}", "model.embedding_dim=8"]
    elif group != "data":
        overrides += NEEDS.get((group, option), [])
        overrides = [o for o in overrides if not o.startswith(f"{group}=")] + [f"{group}='{option}'"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        if compose("train", overrides).model.name in ("resnet", "multicrop"):
            overrides += ["model.widths=[4,8]", "model.blocks=[1,1]", "model.embedding_dim=8"]
        cfg = compose("train", overrides)
    config = load_train(cfg)
    result = train_folds(config, folder) if option == "view2" else run(config, folder)
    assert result["status"] == "done"
    assert np.isfinite(result["test/loss"])
    assert result["outside_data"] == (option == "lfw_a")
