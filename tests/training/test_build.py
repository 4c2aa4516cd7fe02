"""Optimizers and schedules from the configuration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from siamese.config.schema import TrainConfig
from siamese.objectives.build import build_objective
from siamese.training.build import build_optimizer, build_scheduler, graph_obstacle

Make = Callable[..., TrainConfig]


def test_the_optimizer_gets_its_options(tiny_config: Make) -> None:
    config = tiny_config(
        optimizer={"name": "sgd", "momentum": 0.5, "nesterov": True}, weight_decay=1e-3, learning_rate=0.2
    )
    optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    expected = {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 1e-3}
    assert {key: optimizer.defaults[key] for key in expected} == expected


def test_muon_warns_of_large_layers(tiny_config: Make, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config(optimizer={"name": "muon"})
    build_optimizer(config, (torch.nn.Parameter(torch.zeros(shape)) for shape in ((9000,), (9000, 2000), (2000, 9000))))
    assert not caplog.text
    build_optimizer(config, (torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 2), (2100, 300, 3, 3))))
    assert "optimizer=muon takes long for a layer of 2100 x 300 x 3 x 3 weights" in caplog.text


def test_schedules(tiny_config: Make) -> None:
    def rates(**scheduler: object) -> list[float]:
        config = tiny_config(scheduler=scheduler, max_epochs=20, learning_rate=1.0, optimizer={"name": "sgd"})
        optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
        schedule = build_scheduler(config, optimizer)
        values = []
        for _ in range(21):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return values

    assert rates(name="constant") == [1.0] * 21
    assert rates(name="step") == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01])
    cosine = rates(name="cosine", final_fraction=0.1)
    assert cosine[0] == 1.0
    assert cosine[10] == pytest.approx(0.55)
    assert cosine[20] == pytest.approx(0.1)
    warm = rates(name="cosine", final_fraction=0.1, warmup_epochs=3)
    assert warm[:4] == pytest.approx([cosine[epoch] * (epoch + 1) / 4 for epoch in range(4)])
    assert warm[4:] == cosine[4:]


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, None),
        ({"optimizer": {"name": "sgd"}}, None),
        ({"optimizer": {"name": "muon"}}, None),
        ({"objective": {"name": "contrastive"}}, None),
        ({"objective": {"name": "ntxent"}}, None),
        ({"objective": {"name": "triplet"}}, "objective=triplet"),
        ({"trainer": {"gradient_clip_val": 1.0}}, "trainer.gradient_clip_val"),
        ({"trainer": {"detect_anomaly": True}}, "trainer.detect_anomaly"),
        ({"trainer": {"profiler": "simple"}}, "trainer.profiler"),
        ({"trainer": {"devices": 2}}, "trainer.devices=2 trainer.nodes=1"),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_what_prevents_a_cuda_graph(
    tiny_config: Make, changes: dict[str, dict[str, object]], obstacle: str | None, parts: int
) -> None:
    """If it were not noticed, gradients would not be clipped, for example."""
    config = tiny_config(**changes)
    assert graph_obstacle(config, build_objective(config.objective, 4, parts, 3)) == obstacle
