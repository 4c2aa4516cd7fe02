"""The training step of a run: choose device and arithmetic, build Lightning's objects, and fit."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset, to_float
from siamese.errors import DataError, TrainingError
from siamese.models import kernels
from siamese.models.siamese import SiameseNetwork
from siamese.runs.finished import FinishedRun, find_start
from siamese.runs.folder import RunFolder
from siamese.runs.locks import is_main
from siamese.runs.records import config_text
from siamese.runs.signals import Interrupted, deferred
from siamese.runs.tables import write_history
from siamese.scoring.device import exact_convolutions, pick_device
from siamese.scoring.facts import describe_run
from siamese.scoring.networks import initial_network
from siamese.scoring.precision import Arithmetic, choose_arithmetic, recorded_arithmetic
from siamese.scoring.scores import CHUNK
from siamese.text import count
from siamese.training.build import (
    build_checkpoint_io,
    build_data_module,
    build_module,
    build_profiler,
    build_trainer,
    graph_obstacle,
    log_profile,
)
from siamese.training.loggers import build_logger, log_configuration
from siamese.training.processes.start import helpers

log = logging.getLogger(__name__)

NO_MEMORY = (
    "out of memory", "allocate memory", "not enough memory", "could not create a primitive", "start new thread",
)  # fmt: skip
"""Parts of error messages if a batch does not fit into memory; the last two come from oneDNN and Python."""

PREPARED = 4_000
"""Largest number of images for `Encoder.prepare`; their histograms take 0.35 GB with baseline/lbp (120 pixels)."""


class Session(NamedTuple):
    """How a run computes, and what the loggers call it.

    Attributes:
        device: device to train and score on.
        arithmetic: precision and convolution, chosen for this machine or recorded by the run that is resumed.
        label: name of the run in the loggers.
        logger_id: id of a resumed run in MLflow or W&B; None if it has none yet.
        start: the run of ``start_from``; None if there is none.
    """

    device: torch.device
    arithmetic: Arithmetic
    label: str
    logger_id: str | None
    start: FinishedRun | None


class Fitted(NamedTuple):
    """What remains after training, in addition to the files in the run folder.

    Attributes:
        checkpoint_io: reads the best weights if ``checkpoint=none`` kept them in memory only.
        loggers: still open; the final figures follow.
        parameters: number of parameters of the network.
    """

    checkpoint_io: CheckpointIO
    loggers: list[Logger]
    parameters: int


def start_session(config: TrainConfig, folder: RunFolder, label: str | None = None) -> Session:
    """Choose device and arithmetic, record the start of the run, and seed all random generators.

    A resumed run keeps its arithmetic, its label and its id in the logger.

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
    start = find_start(config)
    if is_main(config.trainer.processes):
        known = {} if logger_id is None else {"logger_id": logger_id}
        folder.start(config, **describe_run(config, device, arithmetic, start), label=label, **known)
        if config.print_config:
            log.info("configuration:\n%s", config_text(config).rstrip())
    L.seed_everything(config.seed, verbose=False)
    return Session(device, arithmetic, label, logger_id, start)


def fit(config: TrainConfig, folder: RunFolder, session: Session, data: PairDataset) -> Fitted:
    """Train the network; afterwards the run folder holds the best weights and ``history.csv``.

    Raises:
        TrainingError: a batch does not fit into memory, the loss is not finite, or a helper process died.
        DataError: ``last.ckpt`` cannot be resumed from.
        Interrupted: a signal arrived; ``last.ckpt`` is saved.
    """
    network = initial_network(config, session.start, session.arithmetic.dft)
    if session.start is None and not folder.last.exists():
        network.encoder.prepare(_training_images(data))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if config.max_epochs == 0:
        return _untrained(config, folder, network, parameters)
    module = build_module(config, network, data)
    if (
        session.device.type == "cuda"
        and config.trainer.cuda_graphs
        and (key := graph_obstacle(config, module.objective))
    ):
        log.info("single kernels instead of CUDA graphs, because of %s: an epoch may take twice as long", key)
    batches = build_data_module(config, data)
    _log_plan(config, folder, session, parameters, len(batches.train_dataloader()))
    checkpoint_io = build_checkpoint_io(config)
    profiler = build_profiler(config, folder.path)
    logger, logger_id = build_logger(config.logger, folder.path, session.label, session.logger_id)
    if logger_id is not None and is_main(config.trainer.processes):
        folder.record(logger_id=logger_id)
    trainer = build_trainer(config, folder, session.device, session.arithmetic, checkpoint_io, logger, profiler)
    log_configuration(trainer.loggers, config)
    resumed = folder.last if folder.last.exists() else None
    with (
        logging_redirect_tqdm(),
        deferred(shared=config.trainer.processes > 1),
        helpers(config, folder),
        explained_failures(config, folder),
        exact_convolutions(session.device),
    ):
        trainer.fit(module, batches, ckpt_path=resumed, weights_only=True)
    if profiler is not None:
        log_profile(profiler, folder.path)
    return Fitted(checkpoint_io, trainer.loggers, parameters)


def _training_images(data: PairDataset) -> Iterator[Tensor]:
    """Yield blocks of training images, floats in [0, 1] [B, C, H, W]."""
    rows, _ = data.training_images(PREPARED)
    for block in torch.from_numpy(rows).split(CHUNK):
        yield to_float(data.pixels[block].cpu())


def _untrained(config: TrainConfig, folder: RunFolder, network: SiameseNetwork, parameters: int) -> Fitted:
    """Keep the weights that training would start from as those of the best epoch."""
    whose = "" if config.start_from is None else f" of {config.start_from}"
    log.info("max_epochs=0: no training; the network%s is calibrated on the validation pairs", whose)
    log.info("output folder: %s", folder.path)
    checkpoint_io = build_checkpoint_io(config)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint_io.save_checkpoint({"state_dict": state}, folder.best)
    checkpoint_io.teardown()
    write_history(folder.history, [])
    return Fitted(checkpoint_io, [], parameters)


@contextlib.contextmanager
def explained_failures(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Context of ``trainer.fit``: turn two of torch's errors into one line that says what to do.

    Raises:
        Interrupted: SIGTERM arrived before Lightning's signal handlers were replaced.
        TrainingError: a batch does not fit into memory.
        DataError: the weights in ``last.ckpt`` do not fit the network.
    """
    try:
        yield
    except SIGTERMException:
        raise Interrupted(signal.SIGTERM) from None
    except (RuntimeError, MemoryError) as error:
        text = str(error).lower()
        if "error(s) in loading state_dict" in text:
            raise DataError(
                f"{folder.last}: its weights do not fit the run's config.yaml; delete it to start again"
            ) from None
        if isinstance(error, RuntimeError) and not any(words in text for words in NO_MEMORY):
            raise
        raise TrainingError(
            f"out of memory with batch_size={config.batch_size}; give a smaller batch_size or data.image_size"
        ) from error


def _log_plan(config: TrainConfig, folder: RunFolder, session: Session, parameters: int, steps: int) -> None:
    """Log what is trained, how it computes, and when training ends."""
    how = f"precision {session.arithmetic.precision}"
    if config.model.name == "koch" or session.arithmetic.dft:
        how += ", convolution by Fourier transform" if session.arithmetic.dft else ", direct convolution"
    log.info("%s: %s parameters on %s, %s", config.name, f"{parameters:,}", session.device, how)
    if session.device.type == "cpu" and config.model.name not in ("torchvision", "lbp") and kernels.library() is None:
        log.info(
            "the optional extension siamese/models/kernels.cpp is not compiled: training may take 1.6x as long; "
            "install again with a C++ compiler"
        )
    limits, early = "", ""
    if config.patience < config.max_epochs:
        limits = "at most "
        early = f"; it stops after {count(config.patience, 'epoch')} without a better {config.monitor}"
    log.info("training for %s%s of %s%s", limits, count(config.max_epochs, "epoch"), count(steps, "step"), early)
    log.info("output folder: %s", folder.path)
    if config.resume:
        log.info("resuming from last.ckpt" if folder.last.exists() else "no run to resume in this folder: starting one")
    result = folder.result
    if config.scheduler.name == "cosine" and result is not None and result.continued_after:
        log.warning(
            "scheduler=cosine: max_epochs was raised after epoch %s; the learning rate now follows the curve for "
            "max_epochs=%d, so the result is not that of a run with max_epochs=%d from the start",
            ", ".join(map(str, result.continued_after)), config.max_epochs, config.max_epochs,
        )  # fmt: skip
