"""A run that starts from the weights of another one: trained further, or with max_epochs=0 only calibrated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import eval_config, section, train_config
from conftest import run
from PIL import Image

from siamese import Verifier
from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError, DataError
from siamese.protocols.evaluate import evaluate
from siamese.runs.finished import find_run, find_start, with_start
from siamese.runs.folder import RunFolder
from siamese.runs.latest import RUNS, point_latest
from siamese.runs.records import read_config
from siamese.runs.tables import read_history
from siamese.scoring.facts import describe_run
from siamese.scoring.networks import initial_network, load_network
from siamese.scoring.precision import Arithmetic
from siamese.training.processes.helper import train_as_helper

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def photos(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mirrored photos of the tiny faces, under names that the finished run has never seen."""
    folder = tmp_path_factory.mktemp("few") / "photos"
    for person in sorted((tiny_root / "lfw").iterdir())[:20]:
        (folder / f"My {person.name}").mkdir(parents=True)
        for file in person.iterdir():
            photo = Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            photo.save(folder / f"My {person.name}" / file.name)
    return folder


def starting(finished: Path, photos: Path, **changes: Any) -> TrainConfig:
    """The configuration of the finished run, for other photos and starting from its weights."""
    config = read_config(finished / "config.yaml")
    data = config.data.model_copy(update={"root": str(photos), "val_fraction": 0.5, **changes.pop("data", {})})
    return config.model_copy(update={"start_from": str(finished), "data": data, **changes})


@pytest.fixture(scope="module")
def calibrated(finished: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("calibrated") / "run"
    return path, run(starting(finished, photos, max_epochs=0), path)


def test_without_epochs_only_calibration_and_threshold_differ(
    finished: Path, photos: Path, calibrated: tuple[Path, dict[str, Any]]
) -> None:
    path, result = calibrated
    pair = [next((photos / who).iterdir()) for who in sorted(child.name for child in photos.iterdir())[:2]]
    before, after = (Verifier.load(folder).verify(*pair) for folder in (finished, path))
    assert after.score == pytest.approx(before.score, abs=1e-6)  # network and back end are the same
    old = find_run(finished).result
    assert result["calibration/slope"] != old.calibration_slope
    assert (result["epochs"], result.get("best_epoch"), read_history(path / "history.csv")) == (0, None, [])


def test_what_the_network_was_trained_on_is_recorded(calibrated: tuple[Path, dict[str, Any]], finished: Path) -> None:
    path, result = calibrated
    assert result["outside_data"] is True
    assert result["trained_on"] == find_run(finished).result.dataset
    assert Verifier.load(path).trained_on == Verifier.load(finished).trained_on
    assert (path / "checkpoints/domain.npz").read_bytes() == (finished / "checkpoints/domain.npz").read_bytes()
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "trained on photos in the folder lfw" in page
    assert "Best epoch" not in page


def test_the_calibrated_run_is_a_start_again(
    calibrated: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    result = run(starting(calibrated[0], photos, max_epochs=0), tmp_path / "again")
    assert result["trained_on"] == calibrated[1]["trained_on"]
    assert result["test/acc"] == calibrated[1]["test/acc"]


def test_training_starts_from_the_weights(finished: Path, photos: Path, tmp_path: Path) -> None:
    config = starting(finished, photos, max_epochs=1, learning_rate=1e-12, weight_decay=0.0)
    start = find_run(finished)
    first = load_network(start.folder.best, start.config).encoder.state_dict()
    for name, tensor in initial_network(config, find_start(config)).encoder.state_dict().items():
        assert torch.equal(tensor, first[name]), name
    result = run(config, tmp_path / "run")
    trained = load_network(tmp_path / "run/checkpoints/best.ckpt", config).encoder.named_parameters()
    for name, tensor in trained:
        torch.testing.assert_close(tensor, first[name], atol=1e-6, rtol=0)
    assert (result["epochs"], result["outside_data"], result.get("trained_on")) == (1, True, None)


def test_the_head_that_a_run_trains_is_taken_over(tiny_config: Any, trained: Any) -> None:
    config = tiny_config(start_from=str(trained[1]))
    network = initial_network(config, find_start(config))
    start = load_network(trained[1] / "checkpoints/best.ckpt", trained[0])
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, start.state_dict()[name]), name


def test_another_network_or_preprocessing_is_refused_with_the_keys_to_give(finished: Path, photos: Path) -> None:
    config = starting(finished, photos, data={"image_size": 48})
    with pytest.raises(
        ConfigError,
        match=r"^start_from=.*: the run asked, trained on folder lfw, has other values: "
        r"data\.image_size=32; give these values or another run$",
    ):
        find_start(config)
    model = config.model.model_copy(update={"embedding_dim": 16})
    with pytest.raises(ConfigError, match=r"values: data\.image_size=32 model\.embedding_dim=8; give"):
        find_start(config.model_copy(update={"model": model}))


@pytest.mark.parametrize("changes", [{"backend": "network"}, {"flip_average": False}, {"crop_average": 1.0}])
def test_what_scores_a_pair_stays_if_nothing_is_trained(finished: Path, photos: Path, changes: dict[str, Any]) -> None:
    if "backend" in changes:
        changes = {"backend": section("backend", name="network")}
    config = starting(finished, photos, max_epochs=0, **changes)
    with pytest.raises(ConfigError, match=r"has other values: (backend=lda|flip_|crop_)"):
        find_start(config)
    find_start(config.model_copy(update={"max_epochs": 1}))


def test_more_photos_are_added_to_a_calibrated_run(
    calibrated: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    """Its people only calibrated it: another division of them may test a run that starts from it."""
    config = starting(calibrated[0], photos, max_epochs=0, data={"split_seed": 5})
    assert run(config, tmp_path / "again")["status"] == "done"


def test_only_new_photos_may_be_aligned(finished: Path, photos: Path, tmp_path: Path) -> None:
    find_start(starting(finished, photos, data={"align": "eyes"}))
    aligned = tmp_path / "aligned"
    shutil.copytree(finished, aligned)
    config = (aligned / "config.yaml").read_text(encoding="utf-8")
    (aligned / "config.yaml").write_text(config.replace("align: null", "align: eyes"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"values: data\.align=eyes; give"):
        find_start(starting(aligned, photos, data={"align": None}))


def test_a_missing_start_is_named(finished: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^start_from=.*no such folder"):
        find_start(starting(finished, photos).model_copy(update={"start_from": str(tmp_path / "none")}))


def test_people_of_the_first_run_are_not_tested(finished: Path, photos: Path, tmp_path: Path) -> None:
    config = read_config(finished / "config.yaml")
    data = config.data.model_copy(update={"split_seed": 1})
    again = config.model_copy(update={"start_from": str(finished), "data": data, "max_epochs": 0})
    with pytest.raises(DataError, match=r"give another start_from, the same data\.split_seed"):
        run(again, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0 trains nothing; give start_from=FOLDER"),
        ({"start_from": "x", "model": {"name": "torchvision", "weights": "imagenet"}}, "both give the initial weights"),
    ],
)
def test_contradictions(tiny_config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


def test_latest_is_the_run_that_was_the_newest_then(
    finished: Path, photos: Path, calibrated: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "outputs/first")
    point_latest(Path("outputs/first"), RUNS)
    folder = RunFolder(Path("outputs/mine"))
    config = starting(finished, photos, max_epochs=0, start_from="latest")
    pinned = with_start(config, folder)
    assert pinned.start_from == str(tmp_path / "outputs/first")
    run(pinned, folder.path)
    point_latest(folder.path, RUNS)
    resumed = with_start(config.model_copy(update={"resume": True}), folder)
    assert resumed.start_from == pinned.start_from
    assert with_start(config, folder).start_from == str(tmp_path / "outputs/mine")
    shutil.copytree(photos, "others")
    for person in list(Path("others").iterdir()):
        for file in person.iterdir():
            Image.open(file).rotate(2).save(file)
        person.rename(person.with_name(f"Other {person.name}"))
    data = config.data.model_copy(update={"root": "others"})
    tested = evaluate(eval_config(run="outputs/mine", data=data.model_dump()), RunFolder(tmp_path / "eval"))
    assert tested.trained_on == calibrated[1]["trained_on"]


def test_an_answer_names_what_the_network_was_trained_on(calibrated: tuple[Path, dict[str, Any]]) -> None:
    assert Verifier.load(calibrated[0]).trained_on == calibrated[1]["trained_on"] != calibrated[1]["dataset"]


def test_without_epochs_the_objective_is_that_of_the_start(finished: Path, photos: Path) -> None:
    """Another objective may have another head, which would be random."""
    bce = train_config(objective={"name": "bce"}).objective
    find_start(starting(finished, photos, max_epochs=1, objective=bce))
    with pytest.raises(ConfigError, match=r"values: objective=ntxent; give"):
        find_start(starting(finished, photos, max_epochs=0, objective=bce))


def test_a_start_that_used_identities_makes_the_setting_unrestricted(tiny_config: Any, finished: Path) -> None:
    config = tiny_config(start_from=str(finished))
    assert config.protocol.setting == "restricted"
    facts = describe_run(config, torch.device("cpu"), Arithmetic("32", "direct"), find_run(finished))
    assert facts["setting"] == "unrestricted"


def test_validation_images_that_the_start_was_trained_on_cause_a_warning(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = read_config(finished / "config.yaml")
    changes = {"start_from": str(finished), "max_epochs": 0}
    run(config.model_copy(update=changes), tmp_path / "same")
    assert "had been used for training" not in caplog.text
    data = config.data.model_copy(update={"val_fraction": 0.9})
    run(config.model_copy(update={**changes, "data": data}), tmp_path / "more")
    assert f"had been used for training in {finished}" in caplog.text


def test_a_finished_run_does_not_need_its_start(photos: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "start")
    config = starting(tmp_path / "start", photos, max_epochs=0)
    first = run(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "start")
    assert run(config.model_copy(update={"resume": True}), tmp_path / "run") == first


def test_a_helper_process_writes_nothing_if_nothing_is_trained(finished: Path, photos: Path, tmp_path: Path) -> None:
    train_as_helper(starting(finished, photos, max_epochs=0), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
