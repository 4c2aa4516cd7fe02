"""TensorBoard's HParams tab: which settings and results of a run it lists, and in which order.

TensorBoard shows the first five settings and the first five results; the others can be ticked. It sorts settings that
differ between the runs before all others, but it believes the first run about what differs. (It can find out itself if
no run lists anything. Then it lists all curves as results, with their last point, which is not the best epoch.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_BOOL,
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.files import flatten

LISTED = (
    "batch_size", "data", "learning_rate", "max_epochs", "model", "model.batchnorm", "model.dropout", "objective",
    "optimizer", "protocol.setting", "scheduler", "seed", "weight_decay",
)  # fmt: skip
"""Settings that every run lists, in addition to those that the sweep varies."""

COMPARED = ("batch_size", "learning_rate", "model", "optimizer", "weight_decay")
"""Settings that come first if the run is not part of a sweep."""


TEXT = ("threshold", "checkpoint.every")
"""Settings that are a number in one run and a word in another; TensorBoard fails to sort a column that has both."""


def settings_of(config: TrainConfig, swept: Mapping[str, str]) -> dict[str, Any]:
    """Return all settings as bool, number or text; ``null`` is left out.

    A group of the configuration is named as on the command line: ``optimizer``, not ``optimizer.name``.

    Args:
        config: the run's configuration.
        swept: key -> value of the overrides in which the run differs from the others of its sweep. A key that the
            configuration does not hold, such as ``experiment``, is added with the given text.
    """
    settings = flatten(to_plain(config))
    groups = {key.removesuffix(".name"): value for key, value in settings.items() if key.endswith(".name")}
    settings = {**groups, **settings, **{key: settings.get(key, text) for key, text in swept.items()}}
    return {
        key: value if isinstance(value, bool | int | float) and key not in TEXT else str(value)
        for key, value in settings.items()
        if value is not None
    }


def hparams_summaries(settings: Mapping[str, Any], swept: Iterable[str], results: Iterable[str]) -> list[Summary]:
    """Build the three summaries that the HParams tab reads.

    Args:
        settings: all settings of the run, as of `settings_of`.
        swept: keys that differ between the runs of the sweep; empty if the run is not part of one.
        results: tags of the results, in the order of their columns.
    """
    first = list(swept) or COMPARED
    infos = [
        HParamInfo(name=key, type=_type_of(settings.get(key)), differs=key in first)
        for key in dict.fromkeys([*first, *LISTED])
    ]
    metrics = [MetricInfo(name=MetricName(tag=tag)) for tag in results]
    start = SessionStartInfo()
    for key, value in settings.items():
        if isinstance(value, bool):
            start.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[key].number_value = value
        else:
            start.hparams[key].string_value = value
    return [
        _summary(metadata.EXPERIMENT_TAG, experiment=Experiment(hparam_infos=infos, metric_infos=metrics)),
        _summary(metadata.SESSION_START_INFO_TAG, session_start_info=start),
        _summary(metadata.SESSION_END_INFO_TAG, session_end_info=SessionEndInfo(status=STATUS_SUCCESS)),
    ]


def _type_of(value: object) -> Any:
    if isinstance(value, bool):
        return DATA_TYPE_BOOL
    return DATA_TYPE_FLOAT64 if isinstance(value, int | float) else DATA_TYPE_STRING


def _summary(tag: str, **content: Any) -> Summary:
    described = metadata.create_summary_metadata(HParamsPluginData(**content))
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])
