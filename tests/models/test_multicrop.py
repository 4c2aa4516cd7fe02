"""Several residual networks on different crops: their embeddings, and separate training."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from configs import section
from networks import MULTICROP, make_network

from siamese.models.multicrop import central_crop
from siamese.objectives.build import build_objective


def test_multicrop_gives_each_crops_embedding_at_unit_length() -> None:
    network = make_network(MULTICROP, 1, 32, objective="ntxent").eval()
    x = torch.rand(3, 1, 32, 32)
    whole, middle = network.encoder.encoders

    def embeddings(images: torch.Tensor) -> list[torch.Tensor]:
        smaller = F.interpolate(images, size=(16, 16), mode="bilinear", antialias=True)
        return [whole(smaller), middle(images[:, :, 8:24, 8:24])]

    torch.testing.assert_close(network.embed(x), torch.cat([F.normalize(z) for z in embeddings(x)], 1))
    y = torch.rand(3, 1, 32, 32)
    cosines = [F.cosine_similarity(*both) for both in zip(embeddings(x), embeddings(y), strict=True)]
    torch.testing.assert_close(network(x, y), torch.stack(cosines).mean(0))


def test_multicrop_trains_each_network_as_it_would_be_alone() -> None:
    network = make_network(MULTICROP, 1, 32, objective="ntxent")
    alone = copy.deepcopy(network.encoder.encoders[1])
    config = section("objective", name="ntxent")
    x, groups, none = torch.rand(8, 1, 32, 32), torch.arange(4).repeat(2), torch.empty(0)
    build_objective(config, 16, parts=2, people=0)(network.embed(x), groups, none).backward()
    build_objective(config, 8, parts=1, people=0)(alone(central_crop(x, 16, 16)), groups, none).backward()
    for one, other in zip(network.encoder.encoders[1].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)  # sums in another order
