"""Turn what Hydra composed, and YAML files, into typed configurations. The only module that imports OmegaConf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese.config.defaults import configuration_folder
from siamese.config.messages import unknown_key, validate
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import Section
from siamese.errors import ConfigError, one_line

S = TypeVar("S", bound=Section)

Composed = DictConfig
"""A configuration as Hydra composed it: not yet resolved or checked."""


def load_train(cfg: Composed) -> TrainConfig:
    """Check the configuration of a training run.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    return _load(cfg, TrainConfig)


def load_eval(cfg: Composed) -> EvalConfig:
    """Check the configuration of an evaluation; errors as in `load_train`."""
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run is missing; give the folder of a finished run, as in eval.py run=outputs/DATE/TIME")
    return _load(cfg, EvalConfig)


def compose_train(overrides: Sequence[str]) -> TrainConfig:
    """Compose and check the configuration of ``train.py`` with these overrides, outside of a Hydra application.

    Raises:
        ConfigError: as of `load_train`, or Hydra cannot compose the configuration.
    """
    from hydra import compose, initialize_config_dir

    try:
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            return load_train(compose("train", list(overrides)))
    except Exception as error:
        if is_composition_error(error):
            raise composition_error(error) from None
        raise


def load_file(path: Path, schema: type[S]) -> S:
    """Read and check a section in a YAML file of its own. Numbers may be written as for Hydra (``1e-4``).

    Raises:
        ConfigError: the file is missing, is not YAML, or does not fit the schema; one line that names file, key and
            value.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: cannot be read ({one_line(error)})") from None
    try:
        return validate(plain, schema)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def without_hydra(config: Composed) -> Composed:
    """A copy of a composed configuration without Hydra's own section."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def is_composition_error(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised the error, because of an override or a configuration file."""
    from hydra.errors import HydraException

    return isinstance(error, HydraException | OmegaConfBaseException)


def composition_error(error: BaseException) -> ConfigError:
    """Summarise an error of Hydra or OmegaConf, which spans several lines, in one line with the nearest valid key."""
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


def _load(cfg: Composed, schema: type[S]) -> S:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    return validate(plain, schema)
