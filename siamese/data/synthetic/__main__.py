"""``python -m siamese.data.synthetic``: draw a contact sheet; also starts the processes that draw the data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from siamese.data.synthetic.plan import SyntheticSpec
from siamese.data.synthetic.tree import contact_sheet, render_share


def main(arguments: list[str] | None = None) -> None:
    """Draw a contact sheet or, if `write_lfw_tree` starts it, a share of the photos."""
    parser = argparse.ArgumentParser(prog="python -m siamese.data.synthetic", description="Draw synthetic faces.")
    parser.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="FILE",
        help="image file to write: a row for each person",
    )
    parser.add_argument("--seed", type=int, default=3, help="seed of the people (default 3)")
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
