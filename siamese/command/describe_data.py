"""``siamese data``: summarise a data set and list its problems."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import yaml
from PIL import Image

from siamese.command.photos import check_output
from siamese.data.sources import recognise
from siamese.errors import ConfigError
from siamese.files import replacing
from siamese.report.dataset import as_text, contact_sheet, describe
from siamese.text import to_json


def describe_data(path: Path, options: list[str], as_json: bool, sheet: Path | None) -> None:
    """Print a summary of the data set at ``path``, and write its contact sheet.

    Args:
        path: a folder of one folder per person, the root folder of LFW, or a CSV file of pairs.
        options: ``key=value`` for keys of the configuration's group ``data``.
        as_json: print one JSON object instead of text.
        sheet: image file for the contact sheet; None: do not write one.

    Raises:
        UserError: the data set cannot be used, or an option is invalid.
    """
    values = _parse(options)
    if sheet is not None:
        check_output("--contact-sheet", sheet, ("png", "jpg", "webp"))
    data = recognise(path, values)
    description = describe(data, progress=sys.stderr.isatty())
    print(to_json(dataclasses.asdict(description), indent=2) if as_json else as_text(description))
    if sheet is not None:
        with replacing(sheet) as temporary:
            contact_sheet(data).save(temporary, Image.registered_extensions()[sheet.suffix.lower()])
        print(f"contact sheet: {sheet}", file=sys.stderr)


def _parse(options: list[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for option in options:
        key, equals, value = option.removeprefix("data.").partition("=")
        if not equals:
            raise ConfigError(
                f"{option}: expected key=value, for example split_seed=1; put a path with spaces in quotes"
            )
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{option}: the value is not valid YAML; give a number, a word or a list") from None
    return values
