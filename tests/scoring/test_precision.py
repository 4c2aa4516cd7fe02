"""The choice of arithmetic."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import MULTICROP, SMALL_KOCH, SMALL_RESNET, TORCHVISION

from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.scoring import precision
from siamese.scoring.precision import Arithmetic, choose_arithmetic, prepared_step, recorded_arithmetic
from siamese.training.train import train

Make = Callable[..., TrainConfig]
Machine = dict[tuple[str, str], tuple[float | list[float], float]]
CPU = torch.device("cpu")
SECONDS = {("32", "dft"): 1.0, ("bf16", "dft"): 0.5, ("bf16", "direct"): 0.4, ("32", "direct"): 2.0}


@pytest.fixture
def config(tiny_config: Make, tiny_data: dict[str, object], tmp_path: Path) -> Make:
    """Makes configurations whose choice of arithmetic is saved for this test only."""
    return lambda **changes: tiny_config(data={**tiny_data, "cache": str(tmp_path / "cache")}, **changes)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Seconds and gradient error of a step for each arithmetic, on a simulated machine that tests can change."""
    figures = {key: (seconds, 0.2 * (key[0] == "bf16")) for key, seconds in SECONDS.items()}

    def prepared_step(arithmetic: Arithmetic, *_: Any) -> Callable[[], torch.Tensor]:
        return lambda: torch.tensor([1.0, figures[tuple(arithmetic)][1]])

    def processor_seconds(step: Callable[[], torch.Tensor]) -> float:
        (arithmetic,) = (
            cell.cell_contents for cell in step.__closure__ or () if type(cell.cell_contents) is Arithmetic
        )
        seconds, _ = figures[tuple(arithmetic)]
        return seconds.pop() if isinstance(seconds, list) else seconds

    monkeypatch.setattr("siamese.scoring.precision.prepared_step", prepared_step)
    monkeypatch.setattr("siamese.scoring.precision.processor_seconds", processor_seconds)
    monkeypatch.setattr("siamese.scoring.precision.cpu_has_bf16", lambda: True)
    precision.cached_choice.cache_clear()
    yield figures
    precision.cached_choice.cache_clear()


def test_auto_chooses_bf16_if_it_is_much_faster(config: Make, machine: Machine) -> None:
    assert choose_arithmetic(config(precision="auto"), CPU) == ("bf16", "direct")


@pytest.mark.parametrize(("instructions", "chosen"), [(True, ("bf16", "dft")), (False, ("32", "dft"))])
def test_measurements_that_contradict_each_other_leave_the_choice_to_the_processor(
    config: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    instructions: bool, chosen: tuple[str, str],
) -> None:  # fmt: skip
    caplog.set_level("INFO", "siamese")
    monkeypatch.setattr("siamese.scoring.precision.has_bf16_instructions", lambda: instructions)
    for half in ("dft", "direct"):
        machine["bf16", half] = ([1.0, 0.1] * precision.MOST_ROUNDS, 0.2)
    assert choose_arithmetic(config(precision="auto"), CPU) == chosen
    assert "the measurements contradict each other" in caplog.text
    precision.cached_choice.cache_clear()
    machine["bf16", "direct"] = machine["bf16", "dft"] = (1.0, 0.2)
    assert choose_arithmetic(config(precision="auto"), CPU) == ("32", "dft"), "the contradiction was not remembered"


def test_a_measurement_is_repeated_after_a_month(config: Make, machine: Machine) -> None:
    assert choose_arithmetic(config(precision="auto"), CPU).bf16
    machine["bf16", "direct"] = machine["bf16", "dft"] = (1.0, 0.2)
    precision.cached_choice.cache_clear()
    assert choose_arithmetic(config(precision="auto"), CPU).bf16
    (file,) = Path(config().data.cache).glob("arithmetic-*.json")
    os.utime(file, (time.time() - 31 * 24 * 3600,) * 2)
    precision.cached_choice.cache_clear()
    assert not choose_arithmetic(config(precision="auto"), CPU).bf16


def test_a_measurement_is_announced_and_its_times_are_only_for_debugging(
    config: Make, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "siamese")
    for _ in range(2):
        choose_arithmetic(config(precision="auto"), CPU)
        precision.cached_choice.cache_clear()
    announced = [record.message for record in caplog.records if record.levelname == "INFO"]
    chosen = "arithmetic: bf16 direct; bf16 direct takes 0.40 of the time of 32"
    assert announced[0].startswith("timing the arithmetic")
    assert announced[1:] == [chosen, chosen], "the second time, the choice is read from the file"
    assert "bf16 direct 400 ms" in caplog.text


@pytest.mark.parametrize("seconds", [[0.66, 0.94], [0.8, 0.8]])
@pytest.mark.parametrize(("instructions", "chosen"), [(True, ("bf16", "dft")), (False, ("32", "dft"))])
def test_the_processor_decides_if_bf16_is_only_a_little_faster(
    config: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch, seconds: list[float], instructions: bool,
    chosen: tuple[str, str],
) -> None:  # fmt: skip
    """Whatever the ratio is between the limits, the choice is the same, and it is remembered."""
    monkeypatch.setattr("siamese.scoring.precision.has_bf16_instructions", lambda: instructions)
    for half in ("dft", "direct"):
        machine["bf16", half] = ([*seconds] * precision.MOST_ROUNDS, 0.2)
    assert choose_arithmetic(config(precision="auto"), CPU) == chosen
    assert list(Path(config().data.cache).glob("arithmetic-*.json"))


@pytest.mark.parametrize(("direct", "way"), [(0.46, "dft"), (0.44, "direct")])
def test_another_convolution_is_chosen_if_it_is_clearly_faster(
    config: Make, machine: Machine, direct: float, way: str
) -> None:
    machine["bf16", "direct"] = (direct, 0.2)
    assert choose_arithmetic(config(precision="auto"), CPU) == ("bf16", way)


def test_auto_refuses_a_bf16_that_is_wrong(config: Make, machine: Machine) -> None:
    machine["bf16", "direct"] = (0.1, 1.4)
    assert choose_arithmetic(config(precision="auto"), CPU) == ("bf16", "dft")
    precision.cached_choice.cache_clear()
    machine["bf16", "dft"] = (0.1, float("nan"))
    # The saved choice is used for this configuration, but not for another.
    assert choose_arithmetic(config(precision="auto"), CPU) == ("bf16", "dft")
    narrower = {**SMALL_KOCH, "widths": [4, 4, 4, 4]}
    assert choose_arithmetic(config(precision="auto", model=narrower), CPU) == ("32", "dft")
    for file in Path(config().data.cache).glob("arithmetic-*.json"):
        file.write_text("[cut")
    precision.cached_choice.cache_clear()
    assert choose_arithmetic(config(precision="auto"), CPU) == ("32", "dft")


def test_a_configured_bf16_that_is_slower_is_used_with_a_warning(
    config: Make, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_arithmetic(config(precision="bf16"), CPU).bf16
    assert "times as long" not in caplog.text
    precision.cached_choice.cache_clear()
    machine["bf16", "dft"], machine["bf16", "direct"] = (4.0, 0.2), (3.0, 0.2)
    other = {**SMALL_KOCH, "widths": [4, 4, 4, 4]}
    assert choose_arithmetic(config(precision="bf16", model=other), CPU) == ("bf16", "direct")
    assert "precision=bf16 takes 3.0 times as long as precision=32 on this machine" in caplog.text


@pytest.mark.parametrize("instructions", [True, False])
def test_a_configured_bf16_is_measured_only_if_there_is_something_to_warn_of(
    instructions: bool,
    config: Make,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("siamese.scoring.precision.has_bf16_instructions", lambda: instructions)
    machine["bf16", "direct"] = (30.0, 0.2)
    assert choose_arithmetic(config(precision="bf16", model=SMALL_RESNET), CPU) == ("bf16", "direct")
    assert ("times as long" in caplog.text) == (not instructions)


@pytest.mark.parametrize(
    ("precision", "convolution", "taken"),
    [("auto", "auto", ("32", "dft")), ("auto", "direct", ("32", "direct")), ("bf16", "auto", ("bf16", "dft"))],
)
def test_a_processor_without_bf16_is_not_measured(
    precision: str, convolution: str, taken: tuple[str, str],
    config: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    machine.clear()  # measuring would fail
    monkeypatch.setattr("siamese.scoring.precision.cpu_has_bf16", lambda: False)
    assert choose_arithmetic(config(precision=precision, convolution=convolution), CPU) == taken
    assert ("this processor does not support bf16" in caplog.text) == (precision == "bf16")


def test_one_of_several_simultaneous_jobs_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*question: Any) -> dict[str, Any]:
        time.sleep(0.1)
        measured.append(question)
        return {"best": ["bf16", f"way {len(measured)}"], "times": "", "why": "", "slowdown": 1.0, "measured": True}

    monkeypatch.setattr("siamese.scoring.precision.measure_choice", measure)
    with ThreadPoolExecutor(3) as jobs:
        asked = [jobs.submit(precision.cached_choice.__wrapped__, '["machine", ["auto"]]', tmp_path) for _ in range(3)]
    assert {job.result() for job in asked} == {("bf16", "way 1")}
    assert measured == [("auto",)]


@pytest.mark.parametrize(
    ("precision", "convolution", "chosen"),
    [
        ("32", "auto", ("32", "dft")), ("32", "direct", ("32", "direct")), ("bf16", "auto", ("bf16", "direct")),
        ("bf16", "dft", ("bf16", "dft")), ("auto", "dft", ("bf16", "dft")), ("auto", "direct", ("bf16", "direct")),
    ],
)  # fmt: skip
def test_configured_values_are_kept(
    config: Make, machine: Machine, precision: str, convolution: str, chosen: tuple[str, str]
) -> None:
    assert choose_arithmetic(config(precision=precision, convolution=convolution), CPU) == chosen


def test_ways_differ_by_rounding_only() -> None:
    model = {**SMALL_KOCH, "batchnorm": True, "dropout": 0.5, "widths": [16, 64, 64, 8]}
    state = torch.random.get_rng_state()
    exact, dft, bf16 = (
        prepared_step(Arithmetic(*way), model, 1, 89)() for way in (("32", "direct"), ("32", "dft"), ("bf16", "direct"))
    )
    assert 0 < (dft - exact).norm() / exact.norm() < 1e-3
    assert 1e-3 < (bf16 - exact).norm() / exact.norm() < precision.AGREES
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({**SMALL_RESNET, "widths": [8, 16], "blocks": [1, 1]}, 32),
        ({**MULTICROP, "widths": [8, 16], "blocks": [1, 1], "crop_size": 32}, 48),
        (TORCHVISION, 64),
    ],
    ids=["resnet", "multicrop", "torchvision"],
)
def test_bf16_gradients_agree_if_embeddings_are_normalized(model: dict[str, Any], size: int) -> None:
    """The length of these embeddings is constant: its gradient would consist of rounding errors."""
    exact, bf16 = (prepared_step(Arithmetic(p, "direct"), model, 3, size)() for p in ("32", "bf16"))
    assert (bf16 - exact).norm() / exact.norm() < precision.AGREES


def test_networks_without_convolutions_are_compared_by_their_other_weights(tiny_config: Make) -> None:
    lbp = {"name": "lbp", "scales": [1.0], "radii": [1], "cell": 10, "embedding_dim": 4}
    exact, bf16 = (prepared_step(Arithmetic(p, "direct"), lbp, 1, 32)() for p in ("32", "bf16"))
    assert exact.norm() > 0
    assert torch.equal(exact, bf16)  # it computes in float32
    assert choose_arithmetic(tiny_config(model=lbp), torch.device("cpu")) == Arithmetic("32", "direct")


@pytest.mark.integration
def test_the_choice_is_recorded_and_a_resumed_run_keeps_it(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("siamese.training.fit.choose_arithmetic", lambda *_: Arithmetic("bf16", "direct"))
        result = train(tiny_config(precision="auto", max_epochs=1), folder)
    assert recorded_arithmetic(result) == ("bf16", "direct")
    folder.record(status="interrupted")
    monkeypatch.setattr("siamese.training.fit.choose_arithmetic", lambda *_: Arithmetic("32", "dft"))
    again = train(tiny_config(precision="auto", max_epochs=1, resume=True), folder)
    assert recorded_arithmetic(again) == ("bf16", "direct")
