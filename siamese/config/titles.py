"""Titles of data sets and protocols in logs and on pages."""

DATASETS = {
    "lfw": "LFW, original images",
    "lfw_funneled": "LFW, funneled",
    "lfw_deepfunneled": "LFW, deep-funneled",
    "lfw_a": "LFW-a, aligned",
    "synthetic": "Synthetic faces",
}
DRAWN = "synthetic faces: drawn, not photographed"
"""What a network knows that was trained on the synthetic faces."""

PROTOCOLS = {
    "view1": "View 1",
    "view2": "View 2",
    "oneshot": "N-way one-shot",
    "identification": "closed-set and open-set identification",
    "holdout": "people held out",
}


def titled(name: object, titles: dict[str, str]) -> str:
    """Return the title of a data set or protocol; the name itself if it has no title."""
    return titles.get(str(name), str(name))
