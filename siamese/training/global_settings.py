"""Process-wide settings of logging, warnings and torch during a run."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # reading a batch takes too little time for worker processes
    ".*exists and is not empty.*",  # the checkpoints of a resumed run
    ".*is smaller than the logging interval.*",  # figures are logged once per epoch
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
    ".*nn.functional.all_gather is deprecated.*",  # Lightning's own use of torch
    ".*recommended to use `self.log.*sync_dist=True.*",  # every process has the figures of all pairs already
)
"""Warnings of Lightning about choices that are made on purpose."""

NO_SRUN = ".*`srun` command is available.*"
"""A warning of Lightning on every machine with SLURM. In a SLURM job it is right: only srun passes signals on."""


@contextmanager
def global_settings() -> Iterator[None]:
    """Context of a run, also as a decorator: silence `EXPECTED_WARNINGS` and info messages of Lightning.

    Afterwards warnings, log levels and torch's deterministic mode, which Lightning's Trainer switches on, are as
    before. The random generators stay seeded, and the environment variables of ``seed_everything`` stay set.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            for message in (*EXPECTED_WARNINGS, *([] if "SLURM_JOB_ID" in os.environ else [NO_SRUN])):
                warnings.filterwarnings("ignore", message=message)
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            # In deterministic mode, torch fills each new tensor before an operation overwrites it. This takes a sixth
            # of a training step, and helps only programs that read memory they never wrote.
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
