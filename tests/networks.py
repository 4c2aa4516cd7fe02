"""Complete model configurations, and a builder of networks, for tests."""

from __future__ import annotations

from typing import Any

from siamese.models.build import build_network
from siamese.models.siamese import SiameseNetwork

KOCH: dict[str, Any] = {
    "name": "koch", "batchnorm": False, "dropout": 0.0, "widths": [64, 128, 128, 256], "embedding_dim": 4096,
    "init": "torch",
}  # fmt: skip
SMALL_KOCH = {**KOCH, "widths": [4, 4, 8, 8], "embedding_dim": 16}
SMALL_RESNET: dict[str, Any] = {
    "name": "resnet", "widths": [4, 8, 16], "blocks": [1, 2, 1], "pooling": "flatten", "stem": "pool", "dropout": 0.0,
    "embedding_dim": 8,
}  # fmt: skip
MULTICROP = {**SMALL_RESNET, "name": "multicrop", "crops": [1.0, 0.5], "crop_size": 16}
TORCHVISION = {"name": "torchvision", "backbone": "resnet18", "weights": None, "dropout": 0.0, "embedding_dim": 8}


def make_network(
    model: dict[str, Any], channels: int, size: int, objective: str = "bce", **changes: Any
) -> SiameseNetwork:
    """A network with one view of each image; ``changes`` are arguments of `build_network`."""
    options = {"flip_average": False, "crop_average": 1.0, **changes}
    return build_network(model, {"name": objective}, channels, size, **options)
