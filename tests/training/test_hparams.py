"""What TensorBoard's own code makes of the HParams summaries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment
from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups
from torch.utils.tensorboard import SummaryWriter

from siamese.config.schema import TrainConfig
from siamese.training.hparams import hparams_summaries, settings_of

Make = Callable[..., TrainConfig]


def table(
    folder: Path, runs: list[tuple[TrainConfig, dict[str, str]]], sort_by: str = "seed"
) -> tuple[list[str], list[str], list[dict[str, object]]]:
    """Write runs with these settings and swept values; returns the columns of settings and results, and the rows."""
    for number, (config, swept) in enumerate(runs):
        with SummaryWriter(str(folder / str(number))) as writer:
            for tag in ("best/val_loss", "test/acc", "1 loss/val/loss"):
                writer.add_scalar(tag, number)
            for summary in hparams_summaries(settings_of(config, swept), swept, ["best/val_loss", "test/acc"]):
                writer.file_writer.add_summary(summary)
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder))))
    experiment = GetExperiment(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=100,
        col_params=[api_pb2.ColParams(hparam=sort_by, order=api_pb2.ORDER_ASC)],
    )  # fmt: skip
    groups = ListSessionGroups(RequestContext(), context, "", request).run().session_groups
    rows = [{key: getattr(v, v.WhichOneof("kind")) for key, v in group.hparams.items()} for group in groups]
    return [info.name for info in experiment.hparam_infos], [m.name.tag for m in experiment.metric_infos], rows


def test_swept_keys_come_first_whatever_they_are(tiny_config: Make, tmp_path: Path) -> None:
    """Also an option of a group, an experiment, and a key that no other run lists."""
    runs = [
        (
            tiny_config(weight_decay=decay, optimizer={"name": name}),
            {"weight_decay": str(decay), "optimizer": name, "experiment": f"report/{name}", "patience": "5"},
        )
        for decay, name in ((1e-4, "adam"), (1e-5, "sgd"))
    ]
    settings, results, rows = table(tmp_path, runs)
    assert settings[:5] == ["experiment", "optimizer", "patience", "weight_decay", "batch_size"]
    assert results == ["best/val_loss", "test/acc"]
    assert [(row["weight_decay"], row["optimizer"], row["experiment"]) for row in rows] == [
        (1e-4, "adam", "report/adam"),
        (1e-5, "sgd", "report/sgd"),
    ]


def test_a_run_outside_a_sweep_shows_what_people_compare(tiny_config: Make, tmp_path: Path) -> None:
    settings, _, (row,) = table(tmp_path, [(tiny_config(), {})])
    assert settings[:5] == ["batch_size", "learning_rate", "model", "optimizer", "weight_decay"]
    assert {key: row[key] for key in settings[:4]} == {
        "batch_size": 8, "learning_rate": 1e-3, "model": "koch", "optimizer": "adam",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("threshold", (0.5, "eer"), ["0.5", "eer"]),
        ("trainer.gradient_clip_val", (None, 1.0), [1.0, None]),  # an empty cell
        ("model.batchnorm", (True, False), [False, True]),
        ("model.widths", ([4, 4, 8, 8], [4, 4, 8, 16]), ["[4, 4, 8, 16]", "[4, 4, 8, 8]"]),
    ],
)
def test_values_of_all_kinds_can_be_shown_and_sorted(
    tiny_config: Make, tmp_path: Path, key: str, values: tuple[object, object], shown: list[object]
) -> None:
    runs = []
    for value in values:
        config = tiny_config()
        group, _, name = key.rpartition(".")
        section = getattr(config, group) if group else config
        changed = section.model_copy(update={name: value})
        runs.append((config.model_copy(update={group: changed}) if group else changed, {key: str(value)}))
    settings, _, rows = table(tmp_path, runs, sort_by=key)
    assert settings[0] == key
    assert [row.get(key) for row in rows] == shown
