"""The choice of arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from siamese.config.schema import TrainConfig
from siamese.runs.folder import RunFolder
from siamese.scoring import precision as hardware
from siamese.scoring.precision import Arithmetic, choose_arithmetic, recorded_arithmetic, time_step
from siamese.training.train import train

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
SECONDS = {("32", "dft"): 1.0, ("bf16", "dft"): 0.5, ("bf16", "direct"): 0.4, ("32", "direct"): 2.0}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[tuple[str, str], tuple[float, float]]]:
    """Seconds of a step and error of its gradient, of each arithmetic on a machine to be set up by the test."""
    figures = {key: (seconds, 0.2 * (key[0] == "bf16")) for key, seconds in SECONDS.items()}

    def time_step(arithmetic: Arithmetic, *_: Any) -> tuple[float, torch.Tensor]:
        seconds, error = figures[tuple(arithmetic)]
        return seconds, torch.tensor([1.0, error])

    monkeypatch.setattr(hardware, "time_step", time_step)
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    hardware._measured.cache_clear()
    yield figures
    hardware._measured.cache_clear()


def test_auto_takes_bf16_where_it_is_much_faster(tiny_config: Make, machine: dict[Any, Any]) -> None:
    assert choose_arithmetic(tiny_config(precision="auto"), CPU) == ("bf16", "direct")


def test_auto_keeps_float32_where_bf16_is_little_faster(tiny_config: Make, machine: dict[Any, Any]) -> None:
    machine["bf16", "direct"] = machine["bf16", "dft"] = (0.8, 0.2)
    assert choose_arithmetic(tiny_config(precision="auto"), CPU) == ("32", "dft")


def test_auto_refuses_a_bf16_that_is_wrong(tiny_config: Make, machine: dict[Any, Any]) -> None:
    machine["bf16", "direct"] = (0.1, 1.4)
    assert choose_arithmetic(tiny_config(precision="auto"), CPU) == ("bf16", "dft")
    hardware._measured.cache_clear()
    machine["bf16", "dft"] = (0.1, float("nan"))
    # Remembered: for this question, not for another.
    assert choose_arithmetic(tiny_config(precision="auto"), CPU) == ("bf16", "dft")
    narrower = {"name": "koch", "widths": [4, 4, 4, 4]}
    assert choose_arithmetic(tiny_config(precision="auto", model=narrower), CPU) == ("32", "dft")
    for file in Path(tiny_config().data.cache).glob("arithmetic-*.json"):
        file.write_text("[cut")
    hardware._measured.cache_clear()
    assert choose_arithmetic(tiny_config(precision="auto"), CPU) == ("32", "dft")


def test_a_bf16_that_is_slower_is_done_as_asked_and_told(
    tiny_config: Make, machine: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_arithmetic(tiny_config(precision="bf16"), CPU).bf16
    assert "times as long" not in caplog.text
    hardware._measured.cache_clear()
    machine["bf16", "dft"], machine["bf16", "direct"] = (4.0, 0.2), (3.0, 0.2)
    other = tiny_config(precision="bf16")
    other = other.model_copy(update={"data": other.data.model_copy(update={"cache": other.data.cache + "-2"})})
    assert choose_arithmetic(other, CPU) == ("bf16", "direct")
    assert "precision=bf16 takes 3.0 times as long as precision=32 on this machine" in caplog.text


@pytest.mark.parametrize(
    ("precision", "convolution", "taken"),
    [("auto", "auto", ("32", "dft")), ("auto", "direct", ("32", "direct")), ("bf16", "auto", ("bf16", "dft"))],
)
def test_a_processor_without_bf16_is_not_measured(
    precision: str, convolution: str, taken: tuple[str, str],
    tiny_config: Make, machine: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    machine.clear()  # measuring would fail
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: False)
    assert choose_arithmetic(tiny_config(precision=precision, convolution=convolution), CPU) == taken
    assert ("this processor has no arithmetic for it" in caplog.text) == (precision == "bf16")


def test_of_jobs_that_ask_at_once_one_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(*question: Any) -> dict[str, Any]:
        time.sleep(0.2)
        measured.append(question)
        return {"best": ["bf16", f"way {len(measured)}"], "told": "", "slowdown": 1.0}

    monkeypatch.setattr(hardware, "_measure", measure)
    with ThreadPoolExecutor(3) as jobs:
        asked = [jobs.submit(hardware._measured.__wrapped__, '["machine", ["auto"]]', tmp_path) for _ in range(3)]
    assert {job.result() for job in asked} == {("bf16", "way 1")}
    assert measured == [("auto",)]


@pytest.mark.parametrize(
    ("precision", "convolution", "chosen"),
    [
        ("32", "auto", ("32", "dft")), ("32", "direct", ("32", "direct")), ("bf16", "auto", ("bf16", "direct")),
        ("bf16", "dft", ("bf16", "dft")), ("auto", "dft", ("bf16", "dft")), ("auto", "direct", ("bf16", "direct")),
    ],
)  # fmt: skip
def test_what_is_given_is_kept(
    tiny_config: Make, machine: dict[Any, Any], precision: str, convolution: str, chosen: tuple[str, str]
) -> None:
    assert choose_arithmetic(tiny_config(precision=precision, convolution=convolution), CPU) == chosen


def test_ways_differ_by_rounding_only() -> None:
    model = {"name": "koch", "batchnorm": True, "dropout": 0.5, "init": "torch", "widths": [8, 64, 64, 8]}
    state = torch.random.get_rng_state()
    (_, exact), (_, dft), (_, bf16) = (
        time_step(Arithmetic(*way), model, 1, 105, repeats=0)
        for way in (("32", "direct"), ("32", "dft"), ("bf16", "direct"))
    )
    assert (dft - exact).norm() / exact.norm() < 1e-3
    assert 1e-3 < (bf16 - exact).norm() / exact.norm() < hardware.AGREES
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ({"name": "resnet", "widths": [8, 16], "blocks": [1, 1]}, 32),
        ({"name": "multicrop", "widths": [8, 16], "blocks": [1, 1], "crops": [1.0, 0.5], "crop_size": 32}, 48),
        ({"name": "torchvision", "backbone": "resnet18"}, 64),
    ],
    ids=["resnet", "multicrop", "torchvision"],
)
def test_bf16_is_not_taken_for_wrong_where_embeddings_are_normalized(model: dict[str, Any], size: int) -> None:
    """Their length is a constant: its gradient would be rounding alone."""
    (_, exact), (_, bf16) = (time_step(Arithmetic(p, "direct"), model, 3, size, repeats=0) for p in ("32", "bf16"))
    assert (bf16 - exact).norm() / exact.norm() < hardware.AGREES


def test_the_choice_is_recorded_and_a_resumed_run_keeps_it(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("siamese.experiment.choose_arithmetic", lambda *_: Arithmetic("bf16", "direct"))
        result = train(tiny_config(precision="auto", max_epochs=1), folder)
    assert recorded_arithmetic(result) == ("bf16", "direct")
    folder.record(status="interrupted")
    monkeypatch.setattr("siamese.experiment.choose_arithmetic", lambda *_: Arithmetic("32", "dft"))
    again = train(tiny_config(precision="auto", max_epochs=1, resume=True), folder)
    assert recorded_arithmetic(again) == ("bf16", "direct")
