"""From the configuration to Lightning's objects: module, data module, trainer, optimizer, schedule, profiler."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR

from siamese.config.schema import PAIR_OBJECTIVES, CosineScheduler, StepScheduler, TrainConfig, to_plain
from siamese.data.dataset import PairDataset
from siamese.models.siamese import SiameseNetwork
from siamese.objectives.build import build_objective
from siamese.runs.folder import RunFolder
from siamese.scoring.precision import Arithmetic
from siamese.training.callbacks import (
    HearSignals,
    History,
    KeepLast,
    ResumableEarlyStopping,
    StepSeed,
    StopDiverged,
    StopOnSignal,
    mode_of,
)
from siamese.training.checkpoints import AtomicCheckpointIO, MemoryCheckpointIO, WaitingCheckpointIO
from siamese.training.data_module import PairDataModule
from siamese.training.module import SiameseModule

log = logging.getLogger(__name__)


PROFILED = 12
"""Steps of a profile that the log tells."""


OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def build_module(config: TrainConfig, network: SiameseNetwork, data: PairDataset) -> SiameseModule:
    """Build the LightningModule: network, objective, optimizer and schedule as configured."""
    return SiameseModule(
        network,
        objective=build_objective(
            config.objective, network.encoder.embedding_dim, network.encoder.parts, len(data.people or ())
        ),
        optimizer=partial(build_optimizer, config),
        scheduler=partial(build_scheduler, config),
        threshold=config.threshold,
        calibration=config.fitted_calibration,
        augmentation=config.augmentation,
        views=getattr(config.objective, "views", 1),
        ema_decay=config.ema_decay,
        config=to_plain(config),
    )


def build_data_module(config: TrainConfig, data: PairDataset) -> PairDataModule:
    """Build the batches of the data set as configured."""
    return PairDataModule(
        data,
        config.batch_size,
        config.seed,
        groups=config.objective.name not in PAIR_OBJECTIVES,
        sampling=config.sampling,
        limit_batches=config.trainer.limit_train_batches,
        overfit_batches=config.trainer.overfit_batches,
    )


def build_optimizer(config: TrainConfig, parameters: Any) -> Optimizer:
    """The configured optimizer over ``parameters``."""
    options = to_plain(config.optimizer)
    options |= {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    kind: Callable[..., Optimizer] = OPTIMIZERS[options.pop("name")]
    if "fused" in inspect.signature(kind).parameters:
        # One pass over the parameters. Lightning refuses to clip gradients before such a step under mixed precision.
        options["fused"] = config.trainer.gradient_clip_val is None
    return kind(parameters, **options)


def build_scheduler(config: TrainConfig, optimizer: Optimizer) -> LRScheduler | None:
    """The configured schedule, in steps of epochs; None for a constant learning rate."""
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
    """What writes checkpoints: a thread beside the training; or, under ``checkpoint.keep=none``, memory alone."""
    return MemoryCheckpointIO() if config.checkpoint.keep == "none" else WaitingCheckpointIO(AtomicCheckpointIO())


def build_trainer(
    config: TrainConfig,
    folder: RunFolder,
    device: torch.device,
    arithmetic: Arithmetic,
    checkpoint_io: CheckpointIO,
    logger: Logger,
    profiler: Profiler | None = None,
) -> L.Trainer:
    """Lightning's Trainer with our callbacks."""
    show_bar = config.trainer.progress_bar
    if show_bar is None:
        show_bar = sys.stderr.isatty()
    keep_best = ModelCheckpoint(
        folder.checkpoints, filename="best", monitor=config.monitor, mode=mode_of(config.monitor),
        save_weights_only=True, enable_version_counter=False,
    )  # fmt: skip
    steps = None if config.checkpoint.every == "epoch" else config.checkpoint.every
    callbacks: list[L.Callback] = [
        HearSignals(),
        StepSeed(config.seed),
        StopDiverged(steps),
        History(folder.history, config.monitor),
        ResumableEarlyStopping(config.monitor, patience=config.patience, mode=mode_of(config.monitor)),
        keep_best,
    ]
    if config.checkpoint.keep != "none":
        callbacks.append(KeepLast(folder.last, config.checkpoint.keep == "all", steps))
    callbacks.append(StopOnSignal())
    if show_bar:
        callbacks.append(TQDMProgressBar(leave=False))
    # Deterministic torch would fill each new tensor before an operation overwrites it: a sixth of a training step, for
    # the sake of programs that read memory they never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=build_strategy(config, device),
        use_distributed_sampler=False,  # `siamese.collective` shares the batches out
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
    """What measures where the time goes, and writes it below ``path``."""
    match config.trainer.profiler:
        case "simple":
            return SimpleProfiler(path / "profile", "steps")
        case "pytorch":
            return PyTorchProfiler(path / "profile", "operators", group_by_input_shapes=True)
        case _:
            return None


def log_profile(profiler: Profiler, path: Path) -> None:
    """Log the steps that took longest, as far as the profiler knows them, and where the rest is."""
    if isinstance(profiler, SimpleProfiler):
        took = {name: (len(seconds), sum(seconds)) for name, seconds in profiler.recorded_durations.items() if seconds}
        for name, (calls, seconds) in sorted(took.items(), key=lambda item: -item[1][1])[:PROFILED]:
            log.info("%8.2f s  %6d calls  %8.1f ms each  %s", seconds, calls, 1e3 * seconds / calls, name)
    log.info("profile: %s", path / "profile")


def build_strategy(config: TrainConfig, device: torch.device) -> Strategy | str:
    """How several processes train together; nothing of that for a single one."""
    if config.trainer.processes == 1:
        return "auto"
    return DDPStrategy(process_group_backend="nccl" if device.type == "cuda" else "gloo")


def quiet_lightning() -> None:
    """Silence what Lightning says about choices that are made here on purpose, and nothing else."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are gathered from memory
        ".*exists and is not empty.*",  # a resumed run's checkpoints
        ".*is smaller than the logging interval.*",  # logged by the epoch
        ".*isinstance.treespec, LeafSpec.*",  # Lightning's own affair
        ".*recommended to use `self.log.*sync_dist=True.*",  # figures are of the pairs of all processes already
    ):
        warnings.filterwarnings("ignore", message=message)
