"""Shared fixtures: a tiny data set of synthetic faces, the real LFW where it is, and the command line."""

from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import train_config
from filelock import FileLock
from hypothesis import settings
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:
    # Set before torch is imported: one thread for each of the test processes, which would wait for one another's.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from siamese.config.protocol import OF_PEOPLE
from siamese.config.schema import TrainConfig
from siamese.data.synthetic.plan import SyntheticSpec
from siamese.data.synthetic.tree import write_lfw_tree
from siamese.runs.folder import RunFolder

# A busy machine must not fail a property by its time.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

# A shell's background jobs are born deaf to Ctrl-C, and what they start too: runs would not hear it from the tests.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """Remove the log handlers that a test leaves: they would write to its closed output in the next one."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


ROOT = Path(__file__).parent.parent

OPTIONS = sorted(
    tuple(file.relative_to(ROOT / "conf").as_posix().removesuffix(".yaml").split("/", 1))
    for file in (ROOT / "conf").rglob("*.yaml")
    if file.parent != ROOT / "conf"
    and not {"hydra", "search"} & set(file.parts)
    and file.stem not in OF_PEOPLE  # for eval.py only
    and not file.name.startswith("_")  # a base of other files
)
"""(group, option) of every file below ``conf`` that train.py takes."""

NEEDS = {
    ("objective", "arcface"): ["protocol.setting=unrestricted"],
    ("objective", "cosface"): ["protocol.setting=unrestricted"],
    ("experiment", "own/few"): ["data.root=photos", "start_from=run"],
    ("experiment", "own/objects"): ["data.root=photos"],
    ("experiment", "own/letters"): ["data.root=photos"],
    ("protocol", "holdout"): ["data=folder", "data.root=photos"],
    ("data", "folder"): ["data.root=photos"],
    ("data", "pairs"): ["data.list=pairs.csv"],
}
"""What an option does not work without."""

TINY = SyntheticSpec(train_people=16, test_people=12, train_pairs=30, test_pairs=20, view2_pairs=20, seed=0)

TINY_MODEL = {"widths": [4, 4, 8, 8], "embedding_dim": 16, "batchnorm": True}


def run(config: TrainConfig, path: Path) -> dict[str, Any]:
    """Train as the entry point does; returns the content of ``result.json``."""
    from siamese.training.train import train

    folder = RunFolder(path)
    folder.check(config)
    return train(config, folder).as_dict()


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """What is the same in every run of one configuration, whatever is committed meanwhile."""
    return {key: value for key, value in result.items() if not key.endswith("seconds") and not key.startswith("git_")}


def noise_photo(file: Path, seed: int = 0, size: tuple[int, int] = (20, 30), mode: str = "RGB") -> Path:
    """Write a photo of random pixels; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)
    return file


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The root of a data set of 30 + 20 pairs, shared by all test processes; never written to."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "tiny-faces"
    with FileLock(root.with_suffix(".lock")):
        write_lfw_tree(root, TINY, workers=1)
    return root


@pytest.fixture(scope="session")
def tiny_data(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The configuration's data group for the tiny faces, with one image cache for all tests of a process."""
    spec = {key: getattr(TINY, key) for key in TINY.__dataclass_fields__}
    return {
        "name": "synthetic",
        "root": str(tiny_root),
        "cache": str(tmp_path_factory.mktemp("cache")),
        "image_size": 65,
        **spec,
    }


@pytest.fixture(scope="session")
def tiny_config(tiny_data: dict[str, object]) -> Callable[..., TrainConfig]:
    """Makes the configuration of a run that takes about a second; keyword arguments as of `configs.train_config`."""

    def make(**changes: object) -> TrainConfig:
        tiny: dict[str, object] = {
            "name": "tiny", "batch_size": 8, "learning_rate": 1e-3, "max_epochs": 2, "precision": "32",
            "data": tiny_data, "model": {"name": "koch", **TINY_MODEL},
            "trainer": {"accelerator": "cpu", "progress_bar": False}, "logger": {"name": "csv"},
        }  # fmt: skip
        return train_config(**tiny | changes)

    return make


@pytest.fixture
def tiny_overrides(tiny_data: dict[str, object]) -> list[str]:
    """The same run as overrides for the command line."""
    model = [f"model.{key}={str(value).replace(' ', '')}" for key, value in TINY_MODEL.items()]
    data = [f"data.{key}={value}" for key, value in tiny_data.items() if key != "name"]
    return [
        "data=synthetic",
        *data,
        *model,
        "trainer=cpu",
        "batch_size=8",
        "max_epochs=2",
        "learning_rate=1e-3",
        "precision=32",
    ]


@pytest.fixture(scope="session")
def lfw_root() -> Path:
    """The root of the real LFW; the test is skipped where there is none."""
    root = Path(os.environ.get("LFW_ROOT", ROOT.parent / "shared" / "lfw"))
    if not (root / "pairsDevTrain.txt").is_file():
        pytest.skip("no real LFW: set LFW_ROOT")
    return root.resolve()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """A run with a back end, calibration, a chosen threshold and views at test time, on the tiny faces as a folder."""
    from siamese.training.train import train

    base = tmp_path_factory.mktemp("asked")
    config = train_config(
        name="asked", batch_size=8, learning_rate=1e-3, max_epochs=1, precision="32", threshold="accuracy",
        flip_average=True, crop_average=0.9,
        data={
            "name": "folder", "root": str(tiny_root / "lfw"), "image_size": 32, "crop": 0.8, "color": True,
            "cache": str(base / "cache"), "test_pairs": 20, "val_pairs": 10,
        },
        model={"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "stem": "conv", "embedding_dim": 8},
        objective={"name": "ntxent"}, augmentation={"flip": True}, backend={"name": "lda"},
        scheduler={"name": "constant"}, trainer={"accelerator": "cpu"}, logger={"name": "csv"},
        protocol={"name": "holdout"},
    )  # fmt: skip
    train(config, RunFolder(base / "run"))
    return base / "run"


@pytest.fixture(scope="session")
def trained(
    tiny_config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, Path, dict[str, Any]]:
    """A finished run of three epochs with TensorBoard: configuration, folder, result. Copy it before you change it."""
    from siamese.report.run_page import write_run_page
    from siamese.training import train

    config = tiny_config(max_epochs=3, logger={"name": "tensorboard", "projector": True})
    path = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_run_page", write_run_page)  # even if first needed by a module `without_pages`
        return config, path, train.train(config, RunFolder(path), label="seed=0,experiment=report/adam").as_dict()


@pytest.fixture(scope="session")
def embedding_config(tiny_config: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """Makes the configuration of a residual network trained with NT-Xent, augmentation and a chosen threshold."""

    def make(setting: str = "restricted", **changes: Any) -> TrainConfig:
        listed = {"views": 2, "pair_weight": 1.0} if setting == "restricted" else {}
        plain = {
            "model": {"name": "resnet", "widths": [4, 8], "blocks": [1, 1], "embedding_dim": 8},
            "objective": {"name": "ntxent", **listed}, "protocol": {"name": "view1", "setting": setting},
            "augmentation": {"flip": True, "rotation": 5.0, "erase": 0.3}, "monitor": "val/auc", "max_epochs": 1,
            "threshold": "accuracy",
        }  # fmt: skip
        return tiny_config(**{**plain, **changes})

    return make


@pytest.fixture(scope="session")
def embedding_run(
    embedding_config: Callable[..., TrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Returns folder and result of a finished run of `embedding_config`, trained once per seed and setting."""
    base = tmp_path_factory.mktemp("embedding")
    results: dict[Path, dict[str, Any]] = {}

    def run_of(seed: int = 0, setting: str = "restricted") -> tuple[Path, dict[str, Any]]:
        path = base / f"{setting}-{seed}"
        if path not in results:
            results[path] = run(embedding_config(setting, seed=seed), path)
        return path, results[path]

    return run_of


@pytest.fixture(scope="module")
def without_pages() -> Iterator[None]:
    """Runs in this module write no page: drawing it takes longer than training on the tiny faces."""
    from siamese.training import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_run_page", lambda path: path / "report.html")
        yield


@pytest.fixture
def with_callback(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Makes new trainers call a Lightning callback before all others."""
    from siamese.training import fit

    build = fit.build_trainer

    def arrange(callback: Any) -> None:
        def build_with(*args: Any, **options: Any) -> Any:
            trainer = build(*args, **options)
            trainer.callbacks.insert(0, callback)
            return trainer

        monkeypatch.setattr(fit, "build_trainer", build_with)

    return arrange


@pytest.fixture
def at_step(with_callback: Callable[[Any], None]) -> Callable[[int, Callable[[], None]], None]:
    """Makes new trainers call a function after a step, before its checkpoint; step 0 for never."""
    import lightning as L

    class At(L.Callback):
        def __init__(self, step: int, do: Callable[[], None]) -> None:
            self.step, self.do = step, do

        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            if trainer.global_step == self.step:
                self.do()

    return lambda step, do: with_callback(At(step, do))


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script of the project in an empty working directory, so that whatever it writes is seen."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)

    def run(script: str, *arguments: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "LFW_ROOT"} | env
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=work, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``train`` or ``eval`` inside the test process, for what ends before a job starts; same folder as above."""
    from siamese.command import hydra_app
    from siamese.command.main import run_with_hydra

    (tmp_path / "work").mkdir(exist_ok=True)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # restored after the test: `run_app` sets it for the process
    monkeypatch.delenv("LFW_ROOT", raising=False)
    monkeypatch.setattr(hydra_app, "catch_signals", lambda: None)
    monkeypatch.setattr(hydra_app.Guard, "has_composed", False)
    monkeypatch.chdir(tmp_path / "work")

    def run(command: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["siamese", command, *overrides])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_with_hydra(command)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess([command, *overrides], ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """Writing fails after 100 kB of a file, as it does on a full disk."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
