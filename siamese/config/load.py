"""Turn what Hydra composed, and YAML files, into typed configurations. The only module that imports OmegaConf."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from siamese.config.defaults import configuration_folder
from siamese.config.messages import not_set, unknown_key, validate
from siamese.config.schema import EvalConfig, TrainConfig
from siamese.config.section import Section
from siamese.config.suggestions import suggest_option
from siamese.errors import ConfigError, one_line
from siamese.text import either, shell_words

# Hydra 1.4 and OmegaConf 2.4 warn about these calls. Hydra 1.3 and OmegaConf 2.3 do not have what replaces them.
for _message in (
    "The version_base parameter is deprecated",
    r"register_new_resolver\(\) is deprecated",
    r"hydra\.utils\.instantiate\(\) resolved _target_='siamese\.command\.hydra_app\.Guard' with no",
):
    warnings.filterwarnings("ignore", message=_message)

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
    return _load(cfg, EvalConfig)


def compose_train(overrides: Sequence[str]) -> TrainConfig:
    """Compose and check the configuration of ``train.py`` with these overrides, outside of a Hydra application.

    Raises:
        ConfigError: as of `load_train`, or Hydra cannot compose the configuration.
    """
    from hydra import compose, initialize_config_dir

    try:
        with initialize_config_dir(str(configuration_folder()), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
            check_hydra(config)
            return load_train(without_hydra(config))
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


def check_hydra(config: Composed) -> None:
    """Refuse what Hydra allows and a run does not take.

    Raises:
        ConfigError: ``hydra.job.chdir=true``.
    """
    if config.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: relative paths such as data.root would start in the run folder; leave it out, since "
            "a run writes all its files to its folder anyway"
        )


def register_hydra(command: str) -> None:
    """Let the section ``hydra`` of ``conf/COMMAND.yaml`` hold for any primary configuration, also a recorded one."""
    from hydra.conf import HydraConf
    from hydra.core.config_store import ConfigStore

    own = yaml.safe_load((configuration_folder() / f"{command}.yaml").read_text(encoding="utf-8"))["hydra"]
    node = OmegaConf.merge(OmegaConf.structured(HydraConf()), own)
    store = ConfigStore.instance()
    del store.repo["hydra"]["config.yaml"]  # Hydra 1.4 warns if a configuration is replaced
    store.store(group="hydra", name="config", node=node, provider="hydra")


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
    if override is not None and (fault := _fault(override)) is not None:
        return ConfigError(
            f"'{override}': {fault}expected KEY=VALUE or GROUP=OPTION, without spaces around the equals sign"
        )
    if several := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(\n1\.| req)", str(error), re.S):
        return ConfigError(_several_values(several[1]))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return ConfigError(
            f"{one_line(error).partition('. Check')[0]}; for a file of your own give --config-path FOLDER and "
            "--config-name NAME"
        )
    text = one_line(error if cause is None else f"{error} {cause}")
    for ballast in ("Config search path:", "See https://hydra.cc", "full_key:"):
        text = text.partition(ballast)[0].rstrip()
    return ConfigError(text if override is None or override in text else f"override '{override}': {text}")


def _fault(override: str) -> str | None:
    """Say which character of an override cannot stand where it does; None if the key can be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, _ = override.partition("=")
    try:
        OverridesParser.create().parse_rule(f"{key}{equals}", "override")
    except HydraException as error:
        at = getattr(error.__cause__, "startIndex", len(key))
        return f"{key[at]!r} (character {at + 1}) cannot be part of a key; " if at < len(key) else ""
    return None


def _several_values(override: str) -> str:
    """Describe values that only a sweep takes, with another form that a shell takes as it stands."""
    from hydra.core.override_parser.types import Quote, QuotedString

    key, _, value = override.partition("=")
    forms = []
    if key == "run" or re.fullmatch(r"[\d.,eE+-]+", value):
        forms.append(f"{shell_words([f'{key}=[{value}]'])} for a list")
    if key == "run" or not forms:
        forms.append(f"{shell_words([f'{key}={QuotedString(value, Quote.single).with_quotes()}'])} for one text")
    return f"{override}: several values are a sweep; give -m for a sweep, or {' or '.join(forms)}"


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
    for group, value in cast("dict[str, Any]", OmegaConf.to_container(cfg)).items():
        if isinstance(value, str) and group in schema.model_fields and (configuration_folder() / group).is_dir():
            raise ConfigError(
                f"{group}={value}: this configuration file, such as that of a run, has values instead of groups; give "
                f"its keys, as in {group}.name={value}, or leave out --config-path and --config-name"
            )
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(not_set(str(error.full_key), OmegaConf.to_container(cfg), schema)) from None
    except InterpolationKeyError as error:
        raise ConfigError(
            f"{error.full_key}: {str(error).splitlines()[0]}; ${{...}} stands for another key; write \\${{ for text"
        ) from None
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from None
    return validate(plain, schema)
