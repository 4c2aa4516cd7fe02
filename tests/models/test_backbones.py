"""Torchvision networks as encoders."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from networks import TORCHVISION, make_network

from siamese.errors import DataError


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v3_small"])
def test_torchvision_embeds_grey_as_three_equal_channels(backbone: str) -> None:
    torch.manual_seed(0)
    network = make_network({**TORCHVISION, "backbone": backbone}, 1, 64, objective="triplet").eval()
    grey = torch.rand(2, 1, 64, 64)
    z = network.embed(grey)
    assert z.shape == (2, 8)
    torch.testing.assert_close(z, network.embed(grey.expand(-1, 3, -1, -1)))


def test_weights_that_cannot_be_downloaded_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(DataError, match=r"model\.weights=imagenet.*no network.*give model\.weights=null"):
        make_network({**TORCHVISION, "weights": "imagenet"}, 3, 64, objective="ntxent")
