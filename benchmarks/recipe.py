"""The training step of a recipe (``experiment=best/...``), ours and as users would write it in plain PyTorch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from siamese.config.model import MulticropModel, ResnetModel
from siamese.config.objective import NtxentObjective
from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.data.sampling import GroupBatchSampler
from siamese.training.build import build_optimizer


class Block(nn.Module):
    """A residual block, layer by layer."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        self.shortcut = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class PlainResNet(nn.Module):
    """The residual network of the recipes, layer by layer."""

    def __init__(self, channels: int, side: int, widths: list[int], embedding_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(2)
        ]  # fmt: skip
        side, width = side // 2, widths[0]
        for stage, out in enumerate(widths):
            layers.append(Block(width, out, 1 if stage == 0 else 2))
            side, width = side if stage == 0 else -(-side // 2), out
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(width * side**2, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x)
        return z


class PlainCrops(nn.Module):
    """Several such networks, each for a central crop."""

    def __init__(self, channels: int, size: int, crops: list[float], crop_size: int, **options: Any) -> None:
        super().__init__()
        self.crops = [v2.Compose([v2.CenterCrop(round(c * size)), v2.Resize(crop_size)]) for c in crops]
        self.networks = nn.ModuleList(PlainResNet(channels, crop_size, **options) for _ in crops)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [network(crop(x)) for network, crop in zip(self.networks, self.crops, strict=True)]


class AugmentedImages(Dataset[tuple[Tensor, int]]):
    """Decoded images, each changed at random by torchvision when it is read."""

    def __init__(self, pixels: Tensor, config: TrainConfig) -> None:
        a = config.augmentation
        self.pixels = pixels
        bilinear = v2.InterpolationMode.BILINEAR
        self.transform = v2.Compose([
            v2.RandomHorizontalFlip(0.5 if a.flip else 0.0),
            v2.RandomAffine(a.rotation, (a.translation,) * 2, (1 / a.scale, a.scale), interpolation=bilinear),
            v2.ColorJitter(a.brightness, a.contrast),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomErasing(a.erase, (a.erase_size**2 / 16, a.erase_size**2), value=0.5),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, int]:
        row, group = item
        return self.transform(self.pixels[row]), group


class Batches(Sampler[list[tuple[int, int]]]):
    """The batches that our sampler draws: images of people, with the number of the person."""

    def __init__(self, data: PairDataset, config: TrainConfig) -> None:
        assert data.people is not None
        self.sampler = GroupBatchSampler(data.people, config.batch_size, config.sampling, config.seed)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for rows, groups in self.sampler:
            yield list(zip(rows.tolist(), groups.tolist(), strict=True))


def plain_steps(config: TrainConfig, data: PairDataset, steps: int, bf16: bool, device: torch.device) -> list[float]:
    """Return the seconds of each step: DataLoader with two workers, autocast, moving average of the weights."""
    model, size = config.model, config.data.image_size
    assert isinstance(model, ResnetModel | MulticropModel)
    assert isinstance(config.objective, NtxentObjective)
    options: dict[str, Any] = {"widths": list(model.widths), "embedding_dim": model.embedding_dim}
    network: nn.Module
    if isinstance(model, MulticropModel):
        network = PlainCrops(config.data.channels, size, list(model.crops), model.crop_size, **options)
    else:
        network = PlainResNet(config.data.channels, size, **options)
    network = network.to(device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
    if config.optimizer.name == "adamw":
        optimizer: Optimizer = AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    else:  # PyTorch has no Muon for convolutions
        optimizer = build_optimizer(config, network.parameters())
    criterion = SupConLoss(config.objective.temperature, distance=CosineSimilarity())
    loader = DataLoader(
        AugmentedImages(data.pixels.to("cpu"), config), batch_sampler=Batches(data, config), num_workers=2,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    taken: list[float] = []
    while len(taken) < steps:
        started = time.perf_counter()
        for images, groups in loader:
            images, groups = images.to(device), groups.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                z = network(images)
            loss = sum(criterion(part.float(), groups) for part in (z if isinstance(z, list) else [z]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(network)
            loss.item()
            now = time.perf_counter()
            taken.append(now - started)
            started = now
            if len(taken) == steps:
                break
    return taken
