"""``siamese download``: get a version of LFW and all its lists ahead of time."""

from __future__ import annotations

import os
from pathlib import Path

from siamese.config.data import DOWNLOADED_ROOT
from siamese.data.download import download_lfw
from siamese.data.layouts import LAYOUTS
from siamese.data.repository import LISTS


def download(name: str, root: Path | None) -> str:
    """Download the images and lists that are missing, and return what is there and how to train on it.

    Args:
        name: version of the images, as in ``data=lfw_funneled``.
        root: the data root; None: LFW_ROOT or ``data/lfw``, as for a run.

    Raises:
        DataError: the images cannot be downloaded, or the download failed.
    """
    default = Path(os.environ.get("LFW_ROOT", DOWNLOADED_ROOT))
    folder = root or default
    names = [LAYOUTS[name].images, *LISTS]
    download_lfw(folder, names)
    root_word = "" if folder == default else f" data.root={folder}"
    return f"{folder}: {', '.join(names)}\ntrain on it: python train.py data={name}{root_word}"
