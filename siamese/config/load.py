"""From Hydra and YAML files to the typed configuration. The only module that knows OmegaConf."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese.config.messages import unknown_key, validate
from siamese.config.schema import DataConfig, DataSection, EvalConfig, Section, TrainConfig
from siamese.errors import ConfigError, one_line

S = TypeVar("S", bound=Section)


def load_train(cfg: DictConfig) -> TrainConfig:
    """The typed configuration of a training run.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    return _load(cfg, TrainConfig)


def load_eval(cfg: DictConfig) -> EvalConfig:
    """The typed configuration of an evaluation; errors as in `load_train`."""
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run is missing: name the folder of a finished run, as in eval.py run=outputs/DATE/TIME")
    return _load(cfg, EvalConfig)


def data_of(values: dict[str, Any]) -> DataConfig:
    """The typed configuration of a data set alone, from the keys of its group; errors as in `load_train`."""
    return validate({"data": values}, DataSection).data


def load_file(path: Path, schema: type[S]) -> S:
    """A section in a YAML file of its own, numbers read as Hydra reads them (``1e-4`` is one).

    Raises:
        ConfigError: the file is missing, no YAML, or does not fit the schema; one line that names file, key and value.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
    try:
        return validate(plain, schema)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def composition_error(error: Exception) -> ConfigError:
    """Hydra's multi-line complaint about an override, as one line with the nearest valid key."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and "not in struct" in str(cause):
        parent = cause.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return ConfigError(unknown_key(str(cause.full_key), known))
    text = one_line(error if cause is None else f"{error} {cause}")
    for ballast in ("Config search path:", "See https://hydra.cc", "full_key:"):
        text = text.partition(ballast)[0].rstrip()
    override = getattr(error, "override", None)
    return ConfigError(text if override is None or override in text else f"override '{override}': {text}")


def _load(cfg: DictConfig, schema: type[S]) -> S:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    return validate(plain, schema)


def configuration_folder() -> Path:
    """Where the YAML files are: inside the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"
