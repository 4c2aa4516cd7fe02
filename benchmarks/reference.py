"""The same training as users would write it: the plain loop of the course report, and a Lightning template."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy
from torchvision import transforms


class PlainNetwork(nn.Module):
    """Koch's network with batch normalization, as in the course report, layer by layer; the output is a probability."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 64, 10), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 7), nn.BatchNorm2d(128), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(128, 128, 4), nn.BatchNorm2d(128), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(128, 256, 4), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(9216, 4096), nn.BatchNorm1d(4096), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Linear(4096, 1)

    def forward(self, image1: Tensor, image2: Tensor) -> Tensor:
        return torch.sigmoid(self.head((self.encoder(image1) - self.encoder(image2)).abs())).squeeze(1)


class PairFiles(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Pairs of image files, which are opened when an item is read."""

    def __init__(self, root: Path, pairs: list[tuple[str, str, int]]) -> None:
        self.root = root
        self.pairs = pairs
        self.transform = transforms.Compose([transforms.Grayscale(), transforms.Resize(105), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        name1, name2, label = self.pairs[index]
        image1, image2 = (self.transform(Image.open(self.root / name)) for name in (name1, name2))
        return image1, image2, torch.tensor(float(label))


class TemplateModule(L.LightningModule):
    """A LightningModule like that of the best-known Lightning and Hydra template."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PlainNetwork()
        self.train_loss, self.train_acc = MeanMetric(), BinaryAccuracy()

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        image1, image2, label = batch
        probability = self.network(image1, image2)
        loss = nn.functional.binary_cross_entropy(probability, label)
        self.train_loss(loss)
        self.train_acc(probability, label.int())
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class StepTimes(L.Callback):
    """Measures the time from the end of a training step to the end of the next, including loading and logging."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self.losses.append(outputs["loss"].detach())
        self._last = now


def plain_loop(images: Tensor, indices: Tensor, labels: Tensor, batch: int, steps: int, device: Any) -> list[float]:
    """Return the seconds of each step of a textbook loop: tensors in memory, float32, Adam."""
    x = images.float() / 255
    loader = DataLoader(TensorDataset(indices, labels.float()), batch_size=batch, shuffle=True, drop_last=True)
    network = PlainNetwork().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    criterion = nn.BCELoss()
    taken: list[float] = []
    while len(taken) < steps:
        started = time.perf_counter()
        for rows, label in loader:
            probability = network(x[rows[:, 0]].to(device), x[rows[:, 1]].to(device))
            loss = criterion(probability, label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # the loop of the course report prints the loss
            now = time.perf_counter()
            taken.append(now - started)
            started = now
            if len(taken) == steps:
                break
    return taken


def template_loop(root: Path, pairs: list[tuple[str, str, int]], batch: int, steps: int, folder: Path) -> list[float]:
    """Return the seconds of each step of Lightning's Trainer with a DataLoader whose two workers open the files."""
    times = StepTimes()
    trainer = L.Trainer(
        max_steps=steps, callbacks=[times], logger=False, enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, default_root_dir=folder,
    )  # fmt: skip
    loader = DataLoader(PairFiles(root, pairs), batch_size=batch, shuffle=True, drop_last=True, num_workers=2)
    trainer.fit(TemplateModule(), loader)
    return times.seconds
