"""Read the defaults of the configuration groups from ``conf/`` without Hydra and OmegaConf, which load slowly."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from siamese.config.data import DataConfig, DataSection
from siamese.config.messages import validate


def configuration_folder() -> Path:
    """The folder of the YAML files: inside the installed package, or beside the package in a clone."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def group_defaults(group: str, option: str) -> dict[str, Any]:
    """The values that ``conf/GROUP/OPTION.yaml`` and the files it builds on set, interpolations unresolved.

    Raises:
        FileNotFoundError: the group has no such option.
    """
    return dict(_read(configuration_folder(), group, option))


def data_config(values: dict[str, Any]) -> DataConfig:
    """The typed configuration of a data set without a run.

    Args:
        values: keys of the group ``data``, ``name`` and ``root`` or ``list`` among them. The others get their defaults.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    try:
        defaults = group_defaults("data", str(values["name"]))
    except FileNotFoundError:
        defaults = {}  # the error below lists the data sets
    return validate({"data": defaults | values}, DataSection).data


@cache
def _read(folder: Path, group: str, option: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / group / f"{option}.yaml").read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):  # the name of a file in the same group; {override /GROUP: OPTION} is another group's
            values |= _read(folder, group, entry.removesuffix(f"@{group}"))
    own: dict[str, Any] = content.get(group, content)
    return values | own
