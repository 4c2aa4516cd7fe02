"""Build Lightning's objects from the configuration: module, data module, trainer, optimizer, schedule, profiler."""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from siamese.config.objective import PAIR_OBJECTIVES
from siamese.config.scheduler import CosineScheduler, StepScheduler
from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.data.dataset import PairDataset
from siamese.models.siamese import SiameseNetwork
from siamese.objectives.build import build_objective
from siamese.runs.folder import RunFolder
from siamese.scoring.precision import Arithmetic
from siamese.training.callbacks import (
    HearSignals,
    History,
    KeepBest,
    KeepLast,
    ResumableEarlyStopping,
    StepSeed,
    StopDiverged,
    StopOnSignal,
)
from siamese.training.checkpoints import BackgroundCheckpointIO, MemoryCheckpointIO
from siamese.training.data_module import PairDataModule
from siamese.training.epochs import mode_of
from siamese.training.module import SiameseModule
from siamese.training.muon import Muon
from siamese.training.progress import ProgressBar

log = logging.getLogger(__name__)

PROFILED = 12
"""Number of lines of a profile in the log."""

OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "muon": Muon}

LARGE = 2048
"""Shorter side of a layer's weights from which `Muon` takes seconds on a CPU."""


def build_module(config: TrainConfig, network: SiameseNetwork, data: PairDataset) -> SiameseModule:
    """Build the LightningModule: network, objective, optimizer and schedule as configured."""
    objective = build_objective(
        config.objective, network.encoder.embedding_dim, network.encoder.parts, len(data.people or ())
    )
    return SiameseModule(
        network,
        objective=objective,
        optimizer=partial(build_optimizer, config),
        scheduler=partial(build_scheduler, config),
        threshold=config.threshold,
        calibration=config.fitted_calibration,
        augmentation=config.augmentation,
        views=getattr(config.objective, "views", 1),
        ema_decay=config.ema_decay,
        graphs=config.trainer.cuda_graphs and graph_obstacle(config, objective) is None,
        config=to_plain(config),
    )


def graph_obstacle(config: TrainConfig, objective: nn.Module) -> str | None:
    """Return the key because of which a training step cannot be a CUDA graph; None if it can."""
    trainer, kind = config.trainer, OPTIMIZERS[config.optimizer.name]
    obstacles = {
        f"trainer.devices={trainer.devices} trainer.nodes={trainer.nodes}": trainer.processes > 1,
        "trainer.gradient_clip_val": trainer.gradient_clip_val is not None,
        "trainer.detect_anomaly": trainer.detect_anomaly,
        "trainer.profiler": trainer.profiler is not None,
        f"objective={config.objective.name}": not getattr(objective, "capturable", False),
        f"optimizer={config.optimizer.name}": not (_has_fused(kind) or kind is Muon),
    }
    return next((key for key, applies in obstacles.items() if applies), None)


def _has_fused(kind: Callable[..., Optimizer]) -> bool:
    return "fused" in inspect.signature(kind).parameters


def build_data_module(config: TrainConfig, data: PairDataset) -> PairDataModule:
    """Build the LightningDataModule, which makes batches of the data set as configured."""
    return PairDataModule(
        data,
        config.batch_size,
        config.seed,
        groups=config.objective.name not in PAIR_OBJECTIVES,
        chain_pairs=getattr(config.objective, "chain_pairs", True),
        sampling=config.sampling,
        limit_batches=config.trainer.limit_train_batches,
        overfit_batches=config.trainer.overfit_batches,
    )


def build_optimizer(config: TrainConfig, parameters: Any) -> Optimizer:
    """Build the configured optimizer for ``parameters``."""
    parameters = list(parameters)
    options = to_plain(config.optimizer)
    options |= {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    kind: Callable[..., Optimizer] = OPTIMIZERS[options.pop("name")]
    if _has_fused(kind):
        # Faster: one pass over the parameters. Lightning cannot combine it with clipping under mixed precision.
        options["fused"] = config.trainer.gradient_clip_val is None
    elif kind is Muon and (large := [p for p in parameters if p.ndim > 1 and min(len(p), p[0].numel()) >= LARGE]):
        shape = " x ".join(map(str, large[0].shape))
        log.warning("optimizer=muon takes long for a layer of %s weights: seconds a step on a CPU", shape)
    return kind(parameters, **options)


def build_scheduler(config: TrainConfig, optimizer: Optimizer) -> LRScheduler | None:
    """Build the configured schedule, stepped once per epoch; None for a constant learning rate."""
    match config.scheduler:
        case StepScheduler(step_size=step_size, gamma=gamma):
            return StepLR(optimizer, step_size, gamma)
        case CosineScheduler(final_fraction=final, warmup_epochs=warmup):

            def factor(epoch: int) -> float:
                cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * epoch / config.max_epochs))
                return cosine * min(1.0, (epoch + 1) / (warmup + 1))

            return LambdaLR(optimizer, factor)
        case _:
            return None


def build_checkpoint_io(config: TrainConfig) -> CheckpointIO:
    """Build what saves checkpoints: to files in the background, or to memory if ``checkpoint.keep=none``."""
    return MemoryCheckpointIO() if config.checkpoint.keep == "none" else BackgroundCheckpointIO()


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    arithmetic: Arithmetic,
    checkpoint_io: CheckpointIO,
    logger: Logger,
    profiler: Profiler | None = None,
) -> L.Trainer:
    """Build Lightning's Trainer with our callbacks, in the order that `KeepLast` and `StopOnSignal` need."""
    show_bar = config.trainer.progress_bar
    if show_bar is None:
        show_bar = sys.stderr.isatty()
    keep_best = KeepBest(
        folder.checkpoints, filename="best", monitor=config.monitor, mode=mode_of(config.monitor),
        save_weights_only=True, enable_version_counter=False,
    )  # fmt: skip
    steps = None if config.checkpoint.every == "epoch" else config.checkpoint.every
    callbacks: list[L.Callback] = [
        HearSignals(),
        StepSeed(config.seed),
        StopDiverged(steps),
        History(folder.history, config.monitor, config.patience),
        ResumableEarlyStopping(config.monitor, patience=config.patience, mode=mode_of(config.monitor)),
        keep_best,
    ]
    if config.checkpoint.keep != "none":
        # After `keep_best`: the state that it saves then knows the best epoch.
        callbacks.append(KeepLast(folder.last, config.checkpoint.keep == "all", steps))
    callbacks.append(StopOnSignal())
    if show_bar:
        callbacks.append(ProgressBar(config.monitor))
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=build_strategy(config, device),
        use_distributed_sampler=False,  # `siamese.training.processes.collective` divides each batch
        precision="bf16-mixed" if arithmetic.bf16 else "32-true",
        max_epochs=config.max_epochs,
        deterministic=config.trainer.deterministic,
        benchmark=False,
        gradient_clip_val=config.trainer.gradient_clip_val,
        gradient_clip_algorithm=config.trainer.gradient_clip_algorithm,
        max_time=config.trainer.max_time,
        detect_anomaly=config.trainer.detect_anomaly,
        profiler=profiler,
        logger=logger,
        callbacks=callbacks,
        plugins=[checkpoint_io],
        enable_progress_bar=show_bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder.path,
    )


def build_profiler(config: TrainConfig, path: Path) -> Profiler | None:
    """Build the configured profiler, which writes to ``path/profile``; None if none is configured."""
    match config.trainer.profiler:
        case "simple":
            return SimpleProfiler(path / "profile", "steps")
        case "pytorch":
            return PyTorchProfiler(path / "profile", "operators", group_by_input_shapes=True)
        case _:
            return None


def log_profile(profiler: Profiler, path: Path) -> None:
    """Log the slowest steps (of the simple profiler) and where the whole profile is."""
    if isinstance(profiler, SimpleProfiler):
        took = {name: (len(seconds), sum(seconds)) for name, seconds in profiler.recorded_durations.items() if seconds}
        for name, (calls, seconds) in sorted(took.items(), key=lambda item: -item[1][1])[:PROFILED]:
            log.info("%8.2f s  %6d calls  %8.1f ms each  %s", seconds, calls, 1e3 * seconds / calls, name)
    log.info("profile: %s", path / "profile")


def build_strategy(config: TrainConfig, device: torch.device) -> Strategy | str:
    """Build the strategy for several processes that train together; Lightning's default for a single one."""
    if config.trainer.processes == 1:
        return "auto"
    return DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo")
