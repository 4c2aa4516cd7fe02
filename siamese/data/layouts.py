"""How the versions of Labeled Faces in the Wild, and the synthetic faces, are stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a data set is stored below its root.

    Attributes:
        images: the image folder, named as in the official archive.
        outside_data: whether other images were used to make it (Huang and Learned-Miller, UM-CS-2014-003).
    """

    images: str
    outside_data: bool = False


LAYOUTS = {
    "lfw": Layout("lfw"),
    "lfw_funneled": Layout("lfw_funneled"),
    "lfw_deepfunneled": Layout("lfw-deepfunneled"),
    "lfw_a": Layout("lfw2", outside_data=True),
    "synthetic": Layout("lfw"),
}
