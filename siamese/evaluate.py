"""Score a finished run: the figures that its training reported, or those on other images."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from siamese.checkpoints import load_network
from siamese.config import EvalConfig
from siamese.experiment import announce, describe, load_data, score_splits
from siamese.hardware import pick_device, recorded_arithmetic
from siamese.report.run import write_run_report
from siamese.runs import RunFolder, find_run

log = logging.getLogger(__name__)


def evaluate(config: EvalConfig, folder: RunFolder) -> dict[str, Any]:
    """Score the validation and test pairs with the run's best weights and write the result into ``folder``.

    Raises:
        UserError: the run or the data cannot be used.
    """
    started = time.perf_counter()
    scored = find_run(config)
    run = RunFolder(Path(config.run))
    recorded = run.result or {}
    device = pick_device(scored)
    arithmetic = recorded_arithmetic(recorded)
    facts = describe(scored, device, arithmetic)
    # What the weights were made with counts, whatever they are scored on.
    facts["outside_data"] |= recorded["outside_data"]
    folder.start(scored, **facts, run=str(run.path.resolve()), trained_on=recorded["dataset"])
    network = load_network(run.best, scored, arithmetic.dft)
    data = load_data(scored, folder)
    figures = score_splits(network, scored, folder, data, device, arithmetic.bf16)
    result = folder.record(
        status="done",
        **figures,
        threshold=scored.threshold,
        best_epoch=recorded["best_epoch"],
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        total_seconds=round(time.perf_counter() - started, 2),
    )
    log.info("report: %s", write_run_report(folder.path))
    announce(result)
    return result
