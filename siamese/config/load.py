"""Turn what Hydra composed, and YAML files, into typed configurations. The only module that imports OmegaConf."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from siamese.config.defaults import configuration_folder
from siamese.config.messages import unknown_key, validate
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import Section
from siamese.config.suggestions import suggest_option
from siamese.errors import ConfigError, one_line
from siamese.text import either

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


def register_help(tables: Callable[[dict[str, Any], dict[str, str | None]], str]) -> None:
    """Define the interpolation ``${siamese.help:}`` of the files in ``conf/hydra/help``.

    Args:
        tables: makes the text from the composed configuration and the chosen option of each group.
    """

    def resolve(*, _root_: DictConfig) -> str:
        plain = cast("dict[str, Any]", OmegaConf.to_container(without_hydra(_root_), resolve=True))
        text = tables(plain, dict(_root_.hydra.runtime.choices))
        return text.replace("$", "$$")  # Hydra replaces $NAME in the text

    OmegaConf.register_new_resolver("siamese.help", resolve, replace=True)


def is_composition_error(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised the error, because of an override or a configuration file."""
    from hydra.errors import HydraException

    return isinstance(error, HydraException | OmegaConfBaseException)


def composition_error(error: BaseException) -> ConfigError:
    """Summarise an error of Hydra or OmegaConf, which spans several lines, in one line with the nearest valid key."""
    from hydra.errors import MissingConfigException

    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.parent_node, DictConfig):
        return ConfigError(_unknown_key(str(error), str(cause.full_key), cause.parent_node))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        return ConfigError(_unknown_option(error.missing_cfg_file, error.options))
    override = getattr(error, "override", None)
    if override is not None and "missing EQUAL" in str(error):
        return ConfigError(f"'{override}': expected KEY=VALUE or GROUP=OPTION, without spaces around the equals sign")
    text = one_line(error if cause is None else f"{error} {cause}")
    for ballast in ("Config search path:", "See https://hydra.cc", "full_key:"):
        text = text.partition(ballast)[0].rstrip()
    return ConfigError(text if override is None or override in text else f"override '{override}': {text}")


def _unknown_key(message: str, full_key: str, parent: DictConfig) -> str:
    """Describe a key that Hydra or OmegaConf refused, in a section that exists."""
    if full_key.startswith("hydra."):
        near = difflib.get_close_matches(full_key.rpartition(".")[2], list(map(str, parent)), 1)
        section = full_key.rpartition(".")[0]
        return f"unknown key '{full_key}'" + (f"; did you mean {section}.{near[0]}?" if near else "")
    overridden = re.match(r"Could not override '([^']+)'", message)  # full_key may be a section that is null
    root = parent._get_root()
    plain = OmegaConf.to_container(root)
    schema = EvalConfig if "run" in root else TrainConfig
    return unknown_key(overridden[1] if overridden else full_key, plain, schema)


def _unknown_option(name: str, options: Sequence[str]) -> str:
    """Describe an option that its group does not have, with the option that was probably meant or all of them."""
    group, _, option = name.rpartition("/") if name.startswith("hydra/") else name.partition("/")
    folder = configuration_folder() / group
    files = [file.relative_to(folder).with_suffix("").as_posix() for file in sorted(folder.rglob("*.yaml"))]
    known = [one for one in files or options if not one.startswith("_")]
    meant = suggest_option(group, option, known)
    return f"{group}={option}: no such option; {f'did you mean {meant}?' if meant else f'give {either(known)}'}"


def _load(cfg: Composed, schema: type[S]) -> S:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    return validate(plain, schema)
