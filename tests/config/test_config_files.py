"""Every configuration file works: each option of each group trains for an epoch on the tiny faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NEEDS, OPTIONS, run

from siamese.config.load import compose_train
from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.data.layouts import LAYOUTS
from siamese.data.lists import read_pairs
from siamese.errors import ConfigError
from siamese.training import train

pytestmark = pytest.mark.integration

TRAINED: list[dict[str, object]] = []
"""What this process has trained: many options are the defaults, or set a number that the test replaces."""


def is_new(config: TrainConfig) -> bool:
    """Whether no such configuration was trained before; its name and cache do not matter."""
    plain = to_plain(config) | {"name": ""}
    plain["data"] = plain["data"] | {"cache": ""}
    if plain in TRAINED:
        return False
    TRAINED.append(plain)
    return True


def write_list(folder: Path, root: Path) -> Path:
    """Write the pairs of the tiny faces as a CSV file."""
    lines = ["image1,image2,label,split"]
    for split in ("Train", "Test"):
        pairs = read_pairs(root / f"pairsDev{split}.txt")
        lines += [",".join(map(str, [*pair, split.lower()])) for pair in pairs]
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "pairs.csv"


def lay_out(root: Path, option: str, tiny_root: Path) -> None:
    """Link the tiny faces as the images of a version of LFW."""
    root.mkdir()
    for file in tiny_root.glob("*.txt"):
        (root / file.name).symlink_to(file)
    (root / LAYOUTS[option].images).symlink_to(tiny_root / "lfw")


def overrides_of(group: str, option: str, tiny: list[str], tiny_root: Path, folder: Path) -> list[str]:
    """The tiny run with an option of a group, and with what the option needs."""
    others = [word for word in tiny if not word.startswith("data")]
    own = [f"data.cache={folder / 'cache'}", "data.image_size=65", f"data.root={tiny_root / 'lfw'}"]
    if option in ("folder", "holdout"):
        return [*others, "data=folder", *own]
    if option == "pairs":
        return [*others, "data=pairs", f"data.list={write_list(folder, tiny_root)}", *own]
    if group == "data" and option != "synthetic":
        lay_out(folder / "root", option, tiny_root)
        return [*others, f"data={option}", *own[:2], f"data.root={folder / 'root'}"]
    if group == "data":
        return tiny
    if group == "experiment":
        if option.startswith("own/"):
            tiny = overrides_of("data", "folder", tiny, tiny_root, folder)
            tiny.remove("data=folder")
        own_model = option.startswith(("baseline/", "best/", "own/"))
        kept = [word for word in tiny if not (own_model and word.startswith("model."))]
        small = ["model.embedding_dim=8"] if option == "baseline/lbp" else []  # there are few images
        return [*kept, f"experiment={option}", *small]
    if group == "model" and option != "koch":
        return [*(word for word in tiny if not word.startswith("model.")), f"model={option}", "model.embedding_dim=8"]
    one_fold = ["protocol.fold=1"] if option == "view2" else []
    kept = [word for word in tiny if not word.startswith(f"{group}=")]
    return [*kept, f"{group}='{option}'", *NEEDS.get((group, option), []), *one_fold]


ELSEWHERE = {("logger", "mlflow"), ("logger", "wandb"), ("trainer", "ddp")}
"""Options that take long to start, and that tests of their own train with."""


@pytest.mark.parametrize(
    ("group", "option"),
    [
        pytest.param(*one, marks=pytest.mark.slow if one in ELSEWHERE else [])
        for one in OPTIONS
        if one != ("experiment", "own/few")  # calibrates a run of another one, as the commands of README do
    ],
)
def test_every_config_file_runs(
    group: str, option: str, tiny_overrides: list[str], tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch with each option of each group; the versions of LFW are the tiny faces in their layouts."""
    if option in ("mlflow", "wandb"):
        pytest.importorskip(option, reason="an extra")
    monkeypatch.chdir(tmp_path)  # where MLflow keeps its file
    if group != "logger":  # pages have tests of their own
        monkeypatch.setattr(train, "write_run_page", lambda folder: folder)
    epochs = 0 if option == "baseline/lbp" else 1
    overrides = [*overrides_of(group, option, tiny_overrides, tiny_root, tmp_path), f"max_epochs={epochs}"]
    config = compose_train(overrides)
    if config.model.name in ("resnet", "multicrop"):
        config = compose_train([*overrides, "model.widths=[4,8]", "model.blocks=[1,1]", "model.embedding_dim=8"])
    if option == "gpu" and not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            run(config, tmp_path / "run")
    elif group == "logger" or is_new(config):
        result = run(config, tmp_path / "run")
        assert result["status"] == "done"
        assert np.isfinite(result["test/loss"])
        assert result["outside_data"] == (option == "lfw_a")
