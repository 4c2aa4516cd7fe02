"""Suggest what a user meant by an unknown key or by an unknown option of a group."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from siamese.config.schema import PRESETS, EvalConfig, TrainConfig
from siamese.config.section import options_of, sections_of
from siamese.text import either

OTHER_NAMES = {
    "augmentation": "aug transform transforms",
    "backend": "classifier scorer",
    "batch_size": "bs batch batchsize minibatch",
    "checkpoint.keep": "ckpt save_best",
    "data": "dataset",
    "data.image_size": "img_size imagesize input_size resolution size",
    "data.root": "data_dir data_root data_path datadir dataroot dataset_path",
    "ema_decay": "ema",
    "hydra.run.dir": "out output output_dir outdir out_dir save_dir log_dir logdir run_dir result_dir",
    "learning_rate": "lr base_lr initial_lr",
    "max_epochs": "epoch epochs n_epochs num_epochs",
    "model": "arch architecture encoder model_name net network",
    "model.batchnorm": "batch_norm bn use_bn",
    "model.dropout": "drop p_drop drop_rate dropout_rate",
    "model.embedding_dim": "emb_dim embed_dim embedding_size dim",
    "monitor": "metric",
    "name": "run_name experiment_name exp_name",
    "objective": "loss criterion loss_fn",
    "optimizer": "opt optim optimiser",
    "patience": "early_stopping early_stop",
    "precision": "amp fp16 half mixed_precision",
    "resume": "resume_from resume_from_checkpoint ckpt_path",
    "scheduler": "lr_scheduler lr_schedule sched schedule",
    "seed": "random_seed manual_seed random_state",
    "data.test_fraction": "test_split test_size",
    "data.val_fraction": "val_split val_size",
    "trainer.accelerator": "device cuda gpu",
    "trainer.devices": "gpus n_gpus num_gpus num_devices ngpus nproc num_processes world_size",
    "trainer.gradient_clip_val": "clip grad_clip clip_grad max_norm",
    "weight_decay": "wd l2 decay",
}
"""Key of the configuration -> names of the same thing in other projects."""

_ALIASES = {other: key for key, others in OTHER_NAMES.items() for other in others.split()}


def keys_of(schema: type[BaseModel]) -> dict[str, list[str]]:
    """Every key of a schema, as ``section.key`` -> the options of its group that have it."""
    known: dict[str, list[str]] = {}
    for name, field in schema.model_fields.items():
        known[name] = []
        for section in sections_of(field.annotation):
            for key in section.model_fields:
                known.setdefault(f"{name}.{key}", []).extend(options_of(section))
    return known


def suggest_keys(key: str, plain: Any, schema: type[BaseModel]) -> list[str]:
    """Suggest keys in place of an unknown one: near misses, the same key of another section, names used elsewhere.

    Args:
        key: the unknown key, as ``section.key``.
        plain: the configuration as nested dicts.
        schema: what ``plain`` is checked against.

    Returns:
        keys and ``group=option``; a key that only other options of its group have is followed by these options.
    """
    known = keys_of(schema)
    others = [*PRESETS, "hydra.run.dir"] if schema is TrainConfig else ["hydra.run.dir"] if schema is EvalConfig else []
    section, _, last = key.lower().replace("-", "_").rpartition(".")
    last_part = {name: name.rpartition(".")[2] for name in (*known, *others)}
    siblings = {name: part for name, part in last_part.items() if name.rpartition(".")[0] == section}
    found = [name for name, part in last_part.items() if part == last]
    if not found and _ALIASES.get(last) in last_part:
        found = [_ALIASES[last]]
    if not found:
        found = _options_named(last, schema)
    others_too = {} if "." in section else last_part  # a deeper key is one of a range in the file of a search
    for parts, cutoff in ((siblings, 0.6), (others_too, 0.8)):
        if not found and (near := difflib.get_close_matches(last, parts.values(), 1, cutoff)):
            found = [name for name, part in parts.items() if part == near[0]]
    usable = [name for name in found if not known.get(name) or is_set(name, plain)]
    return usable or [f"{name} ({name.partition('.')[0]}={either(known[name])})" for name in found]


def suggest_option(group: str, option: str, options: Sequence[str]) -> str:
    """Suggest an override in place of an unknown option of a group: a near miss, or the key that has this value."""
    lower = {known.rpartition("/")[2].lower(): known for known in options} | {known.lower(): known for known in options}
    if option.lower() in lower:
        return f"{group}={lower[option.lower()]}"
    field = TrainConfig.model_fields.get(group)
    for section in [] if field is None else sections_of(field.annotation):
        for key, of_section in section.model_fields.items():
            if key != "name" and option in _values(of_section.annotation):
                return " ".join([*(f"{group}={one}" for one in options_of(section)[:1]), f"{group}.{key}={option}"])
    near = difflib.get_close_matches(option.lower(), lower, 1)
    return f"{group}={lower[near[0]]}" if near else ""


def is_set(key: str, plain: Any) -> bool:
    """Whether the nested dicts have the key ``section.key``."""
    for part in key.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return False
        plain = plain[part]
    return True


def _options_named(name: str, schema: type[BaseModel]) -> list[str]:
    """``group=option`` for every option with this name."""
    return [
        f"{group}={name}"
        for group, field in schema.model_fields.items()
        for section in sections_of(field.annotation)
        if name in options_of(section)
    ]


def _values(annotation: Any) -> list[Any]:
    """The values of a ``Literal``, also as a part of a union."""
    return [found for part in get_args(annotation) for found in (_values(part) or [part])]
