"""The training step of a run: device and arithmetic, Lightning's objects, and `fit`."""

from __future__ import annotations

import logging
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from tqdm.contrib.logging import logging_redirect_tqdm

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.models import norm_pool
from siamese.models.build import network_of
from siamese.runs.folder import RunFolder
from siamese.runs.locks import is_main
from siamese.runs.records import config_text
from siamese.scoring.device import exact_convolutions, pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.precision import Arithmetic, choose_arithmetic, recorded_arithmetic
from siamese.training.build import (
    build_checkpoint_io,
    build_data_module,
    build_module,
    build_profiler,
    build_trainer,
    log_profile,
    quiet_lightning,
)
from siamese.training.loggers import build_logger, log_configuration
from siamese.training.processes import explained_failures, helpers_and_signals

log = logging.getLogger(__name__)


class Session(NamedTuple):
    """How a run computes and what the loggers call it.

    Attributes:
        device: device to train and score on.
        arithmetic: precision and convolution, as chosen for this machine or recorded by the run that is resumed.
        label: name of the run in the loggers.
        logger_id: id of a resumed run in MLflow or W&B.
    """

    device: torch.device
    arithmetic: Arithmetic
    label: str
    logger_id: str | None


class Fitted(NamedTuple):
    """What scoring needs from the training."""

    checkpoint_io: CheckpointIO
    loggers: list[Logger]
    parameters: int


def start_session(config: TrainConfig, folder: RunFolder, label: str | None = None) -> Session:
    """Choose device and arithmetic, record the start of the run, and seed all random generators.

    A resumed run keeps its arithmetic and its label.

    Raises:
        ConfigError: the configured device is not available.
    """
    recorded = folder.result
    device = pick_device(config)
    if recorded is not None and recorded.precision is not None:
        arithmetic = recorded_arithmetic(recorded)
    else:
        arithmetic = choose_arithmetic(config, device)
    label = (recorded.label if recorded else None) or label or config.name
    logger_id = recorded.logger_id if recorded else None
    if is_main(config.trainer.processes):
        known = {} if logger_id is None else {"logger_id": logger_id}
        folder.start(config, **describe_run(config, device, arithmetic), label=label, **known)
        if config.print_config:
            log.info("configuration:\n%s", config_text(config).rstrip())
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)
    return Session(device, arithmetic, label, logger_id)


def fit(config: TrainConfig, folder: RunFolder, session: Session, data: PairDataset) -> Fitted:
    """Train the network; the best weights and ``history.csv`` are in the run folder afterwards.

    Raises:
        TrainingError: the batch does not fit into memory, the loss diverged, or a helper process died.
        DataError: ``last.ckpt`` cannot be resumed from.
        Interrupted: a signal arrived; ``last.ckpt`` is saved.
    """
    device, arithmetic = session.device, session.arithmetic
    network = network_of(config, arithmetic.dft, one_view=True)  # test-time averaging is for the finished network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %s parameters on %s, precision %s", config.name, f"{parameters:,}", device, arithmetic.precision)
    if device.type == "cpu" and config.model.name != "torchvision" and norm_pool.library() is None:
        log.info("the optional extension siamese/models/norm_pool.cpp is not compiled: training may take 1.5x as long")
    module = build_module(config, network, data)
    checkpoint_io = build_checkpoint_io(config)
    profiler = build_profiler(config, folder.path)
    logger, logger_id = build_logger(config.logger, folder.path, session.label, session.logger_id)
    if logger_id is not None and is_main(config.trainer.processes):
        folder.record(logger_id=logger_id)
    trainer = build_trainer(config, folder, device, arithmetic, checkpoint_io, logger, profiler)
    log_configuration(trainer.loggers, config)
    resumed = folder.last if folder.last.exists() else None
    with (
        logging_redirect_tqdm(),
        helpers_and_signals(config, folder),
        explained_failures(config, folder),
        exact_convolutions(),
    ):
        trainer.fit(module, build_data_module(config, data), ckpt_path=resumed, weights_only=True)
    if profiler is not None:
        log_profile(profiler, folder.path)
    return Fitted(checkpoint_io, trainer.loggers, parameters)
