"""Train, test and document one run: ``train()``, read from top to bottom."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from lightning.pytorch.loggers import Logger

from siamese.config.schema import TrainConfig
from siamese.data.dataset import PairDataset
from siamese.data.lists import identities
from siamese.evaluation.decision import choose_decision
from siamese.models.siamese import SiameseNetwork
from siamese.report.run_page import write_run_page
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.tables import read_history
from siamese.scoring.domain import record_domain
from siamese.scoring.fit import fit_backend
from siamese.scoring.groups import record_groups
from siamese.scoring.leakage import check_unseen
from siamese.scoring.networks import load_backend, load_network, save_backend
from siamese.scoring.outcome import log_test_figures, record_predictions, score_splits
from siamese.scoring.run_data import load_run_data
from siamese.scoring.scores import embed_images
from siamese.training.epochs import best_epoch
from siamese.training.fit import Fitted, Session, fit, start_session
from siamese.training.global_settings import global_settings
from siamese.training.loggers import log_embedding, log_result

log = logging.getLogger(__name__)


@global_settings()
def train(
    config: TrainConfig, folder: RunFolder, label: str | None = None, swept: Mapping[str, str] | None = None
) -> Result:
    """Run the steps in order: data, training, scoring, result, run page.

    An unfinished run in ``folder`` resumes from ``last.ckpt``, as does a finished one whose ``max_epochs`` or
    ``patience`` was raised; any other finished run is returned as recorded. The caller has checked with
    `RunFolder.check` that the folder may be used. If several processes train together, this is the first one; the
    others call `siamese.training.processes.helper.train_as_helper`.

    Args:
        config: what to train, on what data, and how.
        folder: the run folder.
        label: name of the run in the loggers; by default the configuration's ``name``. A resumed run keeps its label.
        swept: key -> value of the overrides in which the run differs from the others of its sweep, if any.

    Raises:
        UserError: the configured data or device cannot be used.
        TrainingError: training cannot continue, for example because the loss is not finite.
    """
    recorded = folder.result
    if recorded is not None and recorded.status == "done" and (why := folder.why_ended(config)) is not None:
        return _already_done(config, folder, recorded, why)
    started = time.perf_counter()
    session = start_session(config, folder, label)
    data = load_run_data(config, folder)
    if session.start is not None:
        check_unseen(session.start._replace(config=config), identities(data.test.pairs), folder)
    fitted = fit(config, folder, session, data)
    history = read_history(folder.history)
    record_domain(config, data, folder, session.start)

    scoring_started = time.perf_counter()
    network = best_network(config, folder, session, fitted, data)
    scores = score_splits(network, data, session.device, session.arithmetic.bf16)
    decision = choose_decision(scores["val"], data.val.labels.numpy(), config.fitted_calibration, config.threshold)
    figures = record_predictions(scores, data, decision, config.threshold, folder)
    figures |= record_groups(config.groups, folder)
    result = folder.record(
        status="done",
        **figures,
        best_epoch=best_epoch(history, config.monitor) if history else None,
        epochs=len(history),
        parameters=fitted.parameters,
        train_seconds=round(sum(row["seconds"] for row in history), 2),
        score_seconds=round(time.perf_counter() - scoring_started, 2),
        total_seconds=round(time.perf_counter() - started, 2),
    )
    if config.checkpoint.keep != "all":
        folder.last.unlink(missing_ok=True)  # a finished run is not resumed
    log_test_images(config, fitted.loggers, network, data, session)
    write_page(folder, fitted.loggers, config, result, swept)
    log_test_figures(result)
    return result


def _already_done(config: TrainConfig, folder: RunFolder, recorded: Result, why: str) -> Result:
    log.info("%s is already done", folder.path)
    if why:
        log.warning(why)
        folder.accept(config)
    if not folder.page.is_file():  # the process was stopped while it wrote the page
        write_page(folder, [], config, recorded)
    log_test_figures(recorded)
    return recorded


def best_network(
    config: TrainConfig, folder: RunFolder, session: Session, fitted: Fitted, data: PairDataset
) -> SiameseNetwork:
    """Load the weights of the best epoch; fit and save the back end if the configuration has one.

    The back end of ``start_from`` is kept if nothing was trained.
    """
    kept = config.checkpoint.keep != "none"
    weights = folder.best if kept else fitted.checkpoint_io.load_checkpoint(folder.best)
    network = load_network(weights, config, session.arithmetic.dft)
    if config.backend.name != "network":
        if session.start is not None and config.max_epochs == 0:
            network.head = load_backend(session.start.folder.backend, config.backend, network.encoder.embedding_dim)
        else:
            network.head = fit_backend(config, network, data, session.device, session.arithmetic.bf16)
        if kept:
            save_backend(network.head, folder.backend)
    return network


def log_test_images(
    config: TrainConfig, loggers: list[Logger], network: SiameseNetwork, data: PairDataset, session: Session
) -> None:
    """Show the test images in TensorBoard's projector if ``logger.projector`` is set; only log an error if it fails."""
    if not getattr(config.logger, "projector", False):
        return
    try:
        rows = data.test.indices.unique()
        z_BD = embed_images(network, data.pixels, rows, session.device, session.arithmetic.bf16)
        log_embedding(loggers, z_BD, data.pixels[rows], [data.images.names[row] for row in rows])
    except Exception:  # a failure must not cost a finished run
        log.exception("could not write the embeddings for TensorBoard's projector; the run itself is finished")


def write_page(
    folder: RunFolder,
    loggers: list[Logger],
    config: TrainConfig,
    result: Result,
    swept: Mapping[str, str] | None = None,
) -> None:
    """Write the run page, and send figures and pictures to the loggers; only log an error if it fails."""
    try:
        write_run_page(folder.path)
        log_result(loggers, config, result, folder.path, swept)
    except Exception:  # a failure must not cost a finished run
        log.exception("could not write the run page; build it again with: python -m siamese report %s", folder.path)
