"""A helper process: trains together with the first process of a run and writes nothing.

The first process starts helpers with ``python -m siamese.training.processes.helper FOLDER``, unless torchrun or SLURM
did.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from siamese.config.schema import TrainConfig
from siamese.data.protocol import count_folds
from siamese.data.sources import prepare_data
from siamese.errors import TrainingError, UserError
from siamese.runs.folder import RunFolder
from siamese.runs.records import read_config
from siamese.runs.signals import catch_signals
from siamese.scoring.run_data import load_run_data
from siamese.training.fit import fit, start_session
from siamese.training.folds import fold_of
from siamese.training.global_settings import global_settings
from siamese.training.processes.start import FIRST_PROCESS


def train_as_helper(config: TrainConfig, folder: RunFolder) -> None:
    """Compute a share of every training batch, for View 2 of all folds one after the other."""
    if config.protocol.name != "view2" or config.protocol.fold is not None:
        _train(config, folder)
        return
    prepare_data(config.data, protocol=config.protocol)
    for fold in range(1, count_folds(config.data) + 1):
        _train(*fold_of(config, fold, folder))


@global_settings()
def _train(config: TrainConfig, folder: RunFolder) -> None:
    """Train one network; return at once if the run is already done or trains nothing."""
    if config.max_epochs == 0 or (folder.is_done and folder.why_ended(config) is not None):
        return
    session = start_session(config, folder)
    data = load_run_data(config, folder)
    fit(config, folder, session, data)


def main(folder: str) -> None:
    """Entry point of a helper that the first process started."""
    logging.basicConfig(level=logging.WARNING)
    catch_signals()
    _end_with_the_first_process()
    run = RunFolder(Path(folder))
    try:
        train_as_helper(read_config(run.config), run)
    except (TrainingError, UserError):
        raise SystemExit(1) from None  # the first process has the same error and reports it


def _end_with_the_first_process() -> None:
    first = int(os.environ[FIRST_PROCESS])

    def watch() -> None:
        while os.getppid() == first:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
