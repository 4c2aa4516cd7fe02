"""Render the page templates. A page is one file that loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from siamese.report.figures import DARK, to_svg
from siamese.report.glossary import explained
from siamese.report.text import fixed, interval, number, percent, photo_title, probability
from siamese.text import count


def render_page(template: str, **context: Any) -> str:
    """Render a template as HTML; values that come from files are escaped.

    Args:
        template: name of a ``.j2`` file in this package.
        context: variables of the template. ``script``, if given, is the only JavaScript that the page may run.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": lambda value: number(value, percent),
        "interval": lambda ends: interval(ends, percent),
        "fixed": lambda value, digits: number(value, fixed(digits)),
        "count": count,
        "thousands": lambda value: number(value, "{:,}".format),
        "general": lambda value: number(value, "{:.3g}".format),
        "probability": probability,
        "photo_title": photo_title,
        "breakable": _breakable,
        "csp_hash": _csp_hash,
        "explained": explained,
        "svg": lambda figure, label: Markup(to_svg(figure, label)),
    }
    environment.globals["figure_colors"] = DARK
    return environment.get_template(template).render(**context)


def _breakable(key: str) -> Markup:
    """A dotted key that may wrap after a dot or an underscore."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(key))))


def _csp_hash(script: str) -> str:
    """The source expression that allows this script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
