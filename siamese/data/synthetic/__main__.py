"""``python -m siamese.data.synthetic``: a contact sheet, and the worker processes that draw the images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from siamese.data.synthetic.tree import SyntheticSpec, contact_sheet, render_share


def main(arguments: list[str] | None = None) -> None:
    """The command line: the contact sheet for people, and a share of the photos for `write_lfw_tree` itself."""
    parser = argparse.ArgumentParser(prog="python -m siamese.data.synthetic", description="Rendered faces.")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help="draw people and photos into FILE")
    parser.add_argument("--seed", type=int, default=3, help="which people (default 3)")
    parser.add_argument("--render", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--spec", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--share", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.render:
        share, shares = map(int, options.share.split("/"))
        for _ in render_share(options.render, SyntheticSpec(**options.spec), share, shares):
            sys.stdout.buffer.write(b".")
            sys.stdout.buffer.flush()
    elif options.contact_sheet:
        options.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(options.seed).quantize(256, kmeans=3).save(options.contact_sheet, optimize=True)
    else:
        parser.error("nothing to do: give --contact-sheet FILE")


if __name__ == "__main__":
    main()
