"""One experiment, top to bottom: seed -> data -> model -> trainer -> fit -> test -> result -> report."""

from __future__ import annotations

import inspect
import logging
import math
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from numpy.typing import NDArray
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, StepLR
from tqdm.contrib.logging import logging_redirect_tqdm

import siamese
from siamese import signals
from siamese.callbacks import (
    HearSignals,
    History,
    KeepLast,
    ResumableEarlyStopping,
    StepSeed,
    StopDiverged,
    StopOnSignal,
    best_epoch,
    mode_of,
    read_history,
)
from siamese.checkpoints import (
    AtomicCheckpointIO,
    MemoryCheckpointIO,
    WaitingCheckpointIO,
    load_network,
    save_backend,
)
from siamese.collective import leave
from siamese.config import PAIR_OBJECTIVES, CosineScheduler, StepScheduler, TrainConfig, to_plain, write_yaml
from siamese.data.module import PairDataModule
from siamese.data.photos import memberships
from siamese.data.sources import has_outside_data, image_root, title
from siamese.distributed import other_processes
from siamese.errors import DataError, TrainingError
from siamese.evaluation.decision import Decision, choose_decision
from siamese.evaluation.summary import summarise
from siamese.files import write_csv_atomically
from siamese.hardware import Arithmetic, choose_arithmetic, device_name, pick_device, recorded_arithmetic
from siamese.models import norm_pool
from siamese.models.build import network_of
from siamese.models.siamese import SiameseNetwork
from siamese.module import SiameseModule
from siamese.objectives.build import build_objective
from siamese.report.html import PROTOCOLS, titled
from siamese.report.load import OUTCOMES
from siamese.report.run import write_run_report
from siamese.runs import MEMBERSHIP_COLUMNS, RunFolder, is_main
from siamese.scoring import embed_images, fit_backend, score_pairs
from siamese.tracking import build_logger, log_configuration, log_embedding, log_result

log = logging.getLogger(__name__)

NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "could not create a primitive")
"""What torch, and in the last words oneDNN, say where a batch does not fit."""

PROFILED = 12
"""Steps of a profile that the log tells."""

OPTIMIZERS = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
PREDICTION_COLUMNS = ["split", "image1", "image2", "label", "score", "probability", "predicted", "outcome"]


def train(config: TrainConfig, folder: RunFolder, label: str | None = None) -> dict[str, Any]:
    """Train, test and report one run; returns its recorded result.

    A finished run in ``folder`` (under ``resume``) is returned as recorded; an unfinished one goes on from
    ``last.ckpt``. The caller has made sure with `RunFolder.check` that the folder may be used.

    Args:
        config: what to train, on what, and how.
        folder: where to.
        label: what TensorBoard calls the run; its name when None. A resumed run keeps the one it was begun with.

    Raises:
        UserError: the data or the device that the configuration asks for cannot be used.
    """
    recorded = folder.result
    main = is_main(config.trainer.processes)
    if recorded is not None and recorded["status"] == "done":
        if not main:
            return {}
        log.info("%s is done already", folder.path)
        if not (folder.path / "report.html").is_file():  # stopped while it was drawn
            write_report(folder, [], config, recorded)
        return recorded
    started = time.perf_counter()
    device = pick_device(config)
    # A run is finished in what it was begun in.
    arithmetic = (
        recorded_arithmetic(recorded) if recorded and "precision" in recorded else choose_arithmetic(config, device)
    )
    label = (recorded or {}).get("label") or label or config.name
    if main:
        known = {"logger_id": recorded["logger_id"]} if recorded and "logger_id" in recorded else {}
        folder.start(config, **describe(config, device, arithmetic), label=label, **known)
    if config.print_config and main:
        log.info("configuration:\n%s", write_yaml(config).rstrip())
    quiet_lightning()
    L.seed_everything(config.seed, verbose=False)

    data = load_data(config, folder)
    network = network_of(config, arithmetic.dft, one_view=True)  # several views are for the finished network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %s parameters on %s, precision %s", config.name, f"{parameters:,}", device, arithmetic.precision)
    if device.type == "cpu" and config.model.name != "torchvision" and norm_pool.library() is None:
        log.info(
            "siamese/models/norm_pool.cpp is not compiled: training takes up to half as long again (README: Start)"
        )
    module = build_module(config, network, data)
    checkpoint_io = build_checkpoint_io(config)
    profiler = build_profiler(config, folder.path)
    logger, logger_id = build_logger(config.logger, folder.path, label, (recorded or {}).get("logger_id"))
    if main and logger_id is not None:
        folder.record(logger_id=logger_id)
    trainer = build_trainer(config, folder, device, arithmetic, checkpoint_io, logger, profiler)
    log_configuration(trainer.loggers, config)
    resumed = folder.last if folder.last.exists() else None
    with logging_redirect_tqdm(), other_processes_and_signals(config, folder), _explaining(config, folder):
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    if not main:
        return {}
    if profiler is not None:
        tell_profile(profiler, folder.path)
    history = read_history(folder.history)

    scoring = time.perf_counter()
    weights = checkpoint_io.load_checkpoint(folder.best) if config.checkpoint.keep == "none" else folder.best
    network = load_network(weights, config, arithmetic.dft)
    if config.backend.name != "network":
        network.head = fit_backend(config.backend, network, data, device, arithmetic.bf16)
        if config.checkpoint.keep != "none":
            save_backend(network.head, folder.backend)
    scores = score_splits(network, data, device, arithmetic.bf16)
    decision = choose_decision(scores["val"], data.val.labels.numpy(), config.fitted_calibration, config.threshold)
    figures = judge(scores, data, decision, config.threshold, folder)
    result = folder.record(
        status="done",
        **figures,
        best_epoch=best_epoch(history, config.monitor),
        epochs=len(history),
        parameters=parameters,
        train_seconds=round(sum(row["seconds"] for row in history), 2),
        score_seconds=round(time.perf_counter() - scoring, 2),
        total_seconds=round(time.perf_counter() - started, 2),
    )
    if config.checkpoint.keep != "all":
        folder.last.unlink(missing_ok=True)  # it was for going on, which is over
    if getattr(config.logger, "projector", False):
        show_test_images(trainer.loggers, network, data, device, arithmetic.bf16)
    write_report(folder, trainer.loggers, config, result)
    announce(result)
    return result


@contextmanager
def other_processes_and_signals(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Within, the processes that train with this one run, and the first signal waits until all is saved."""
    with signals.deferred(shared=config.trainer.processes > 1), other_processes(config, folder):
        try:
            yield
        except SIGTERMException:  # Lightning's answer, before its handlers are replaced
            raise signals.Interrupted(signal.SIGTERM) from None
        finally:
            leave()


@contextmanager
def _explaining(config: TrainConfig, folder: RunFolder) -> Iterator[None]:
    """Tell what to do where a batch does not fit into memory, or a checkpoint not to the network."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = str(error).lower()
        if "error(s) in loading state_dict" in told:
            raise DataError(
                f"{folder.last}: its weights do not fit the run's config.yaml; delete it to start anew"
            ) from None
        if isinstance(error, RuntimeError) and not any(words in told for words in NO_MEMORY):
            raise
        raise TrainingError(
            f"out of memory with batch_size={config.batch_size}; give a smaller one, or a smaller data.image_size"
        ) from error


def load_data(
    config: TrainConfig, folder: RunFolder, test_only: bool = False, trained: RunFolder | None = None
) -> PairDataModule:
    """The data module, set up; ``excluded.csv`` is written even when nothing usable is left.

    Args:
        config: of the run.
        folder: where the files go.
        test_only: all of one's own data is for the test.
        trained: the run that is evaluated, on its own data.

    Raises:
        DataError: as in `PairDataModule.setup`, or photos of one's own are others than when the run was begun.
    """
    data = PairDataModule(
        config.data,
        config.batch_size,
        config.seed,
        progress=sys.stderr.isatty(),
        protocol=config.protocol,
        groups=config.objective.name not in PAIR_OBJECTIVES,
        sampling=config.sampling,
        test_only=test_only,
        limit_batches=config.trainer.limit_train_batches,
        overfit_batches=config.trainer.overfit_batches,
    )
    data.prepare_data()
    try:
        data.setup()
    finally:
        if is_main(config.trainer.processes):
            excluded = sorted(data.images.excluded.items())
            write_csv_atomically(folder.path / "excluded.csv", ["file", "reason"], excluded)
    if is_main(config.trainer.processes):
        keep_memberships(config, data, folder, trained or folder)
    sizes = {"n_train": len(data.train), "n_val": len(data.val), "n_test": len(data.test)}
    trained_on = f"{len(data.train):,} training"
    if data.people is not None:
        del sizes["n_train"]  # the listed pairs are not what it is trained on
        sizes |= {"n_train_people": len(data.people), "n_train_images": sum(map(len, data.people))}
        trained_on = f"training on {sizes['n_train_images']:,} images of {sizes['n_train_people']:,} people"
        few = sum(len(images) < config.sampling.images_per_person for images in data.people)
        if data.groups and few and not config.augmentation.changes:
            log.warning(
                "%d people have fewer than sampling.images_per_person=%d images: the same ones are shown again, and "
                "augmentation=none leaves them the same; give augmentation=face or a higher sampling.min_images",
                few,
                config.sampling.images_per_person,
            )
    if is_main(config.trainer.processes):
        folder.record(**sizes, n_excluded=len(data.images.excluded))
    log.info("%s: %s, %d validation, %d test pairs", title(config.data), trained_on, len(data.val), len(data.test))
    return data


def keep_memberships(config: TrainConfig, data: PairDataModule, folder: RunFolder, trained: RunFolder) -> None:
    """Record who of one's own photos is in which set, and hold a run that goes on or is evaluated to what it was."""
    if data.own is None:
        return
    members = memberships(data.own, data.val.pairs)
    recorded = trained.memberships
    if recorded is not None and recorded != members:
        raise DataError(changed_since(recorded, members, image_root(config.data)))
    write_csv_atomically(folder.split, MEMBERSHIP_COLUMNS, members)


def changed_since(recorded: list[tuple[str, str, str]], now: list[tuple[str, str, str]], root: Path) -> str:
    """In words what is different about one's own photos, rows as of ``split.csv``."""
    changed = {row[0] for row in set(recorded) ^ set(now)}
    return (
        f"{root}: not as it was when the run was begun: {len(changed)} images came, went or are in another set now "
        f"({min(changed)}); restore them, or begin another run"
    )


def build_module(config: TrainConfig, network: SiameseNetwork, data: PairDataModule) -> SiameseModule:
    """What is trained: the network and the objective with all that the configuration says of them."""
    return SiameseModule(
        network,
        objective=build_objective(config.objective, network.encoder, len(data.people or ())),
        optimizer=partial(build_optimizer, config),
        scheduler=partial(build_scheduler, config),
        threshold=config.threshold,
        calibration=config.fitted_calibration,
        augmentation=config.augmentation,
        views=getattr(config.objective, "views", 1),
        ema_decay=config.ema_decay,
        config=to_plain(config),
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


def tell_profile(profiler: Profiler, path: Path) -> None:
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


def score_splits(
    network: SiameseNetwork, data: PairDataModule, device: torch.device, bf16: bool
) -> dict[str, NDArray[np.floating]]:
    """The scores of the validation and of the test pairs."""
    splits = {"val": data.val, "test": data.test}
    return {name: score_pairs(network, data.pixels, pairs.indices, device, bf16) for name, pairs in splits.items()}


def judge(
    scores: dict[str, NDArray[np.floating]],
    data: PairDataModule,
    decision: Decision,
    threshold: float | str,
    folder: RunFolder,
) -> dict[str, Any]:
    """Write ``predictions.csv``; returns the figures in the keys of ``result.json``, calibration and threshold too.

    Args:
        scores: of the ``val`` and of the ``test`` pairs.
        data: the pairs.
        decision: how scores become answers.
        threshold: what the configuration asks for, to tell where the threshold comes from.
        folder: where to.
    """
    rows: list[tuple[object, ...]] = []
    figures: dict[str, Any] = {}
    for split, pairs in (("val", data.val), ("test", data.test)):
        if not len(pairs):  # nothing but a test
            continue
        probabilities = decision.probabilities(scores[split])
        for pair, score, probability in zip(pairs.pairs, scores[split], probabilities, strict=True):
            predicted = int(probability >= decision.threshold)
            outcome = ("t" if predicted == pair.label else "f") + ("p" if predicted else "n")
            rows.append((split, *pair, float(score), float(probability), predicted, outcome))
        summary = summarise(decision.calibration.logits(scores[split]), pairs.labels.numpy(), decision.threshold)
        # The four counts and the intervals are those of the test.
        keep = ("loss", "acc", "auc") if split == "val" else summary
        figures |= {name if name in OUTCOMES else f"{split}/{name}": summary[name] for name in keep}
    write_csv_atomically(folder.path / "predictions.csv", PREDICTION_COLUMNS, rows)
    figures["threshold"] = decision.threshold
    if isinstance(threshold, str):
        figures["threshold_origin"] = f"chosen on the validation pairs, by {threshold}"
    return figures | {f"calibration/{name}": value for name, value in decision.calibration._asdict().items()}


def describe(config: TrainConfig, device: torch.device, arithmetic: Arithmetic) -> dict[str, Any]:
    """The facts about a run that are known before it starts."""
    return {
        "name": config.name,
        "dataset": title(config.data),
        "protocol": config.protocol.name,
        "setting": config.protocol.setting,
        "outside_data": has_outside_data(config.data) or getattr(config.model, "weights", None) is not None,
        "image_root": str(image_root(config.data).resolve()),
        "seed": config.seed,
        **arithmetic._asdict(),
        "device": device_name(device),
        "version/siamese": siamese.__version__,
        "version/python": sys.version.split()[0],
        **{f"version/{package}": version(package) for package in ("torch", "lightning", "numpy", "pillow")},
        **git_state(),
    }


def git_state() -> dict[str, Any]:
    """The commit of the source tree and whether it has uncommitted changes; nothing outside a clone."""
    clone = Path(__file__).resolve().parent.parent
    if not (clone / ".git").exists():  # installed, perhaps inside somebody else's clone
        return {}
    git = ["git", "-C", str(clone)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit.strip(), "git_dirty": bool(changes.strip())}


def show_test_images(
    loggers: list[Logger], network: SiameseNetwork, data: PairDataModule, device: torch.device, bf16: bool
) -> None:
    """Give TensorBoard's projector the test images; a failure here must not cost a finished run."""
    try:
        rows = data.test.indices.unique()
        z_BD = embed_images(network, data.pixels, rows, device, bf16)
        log_embedding(loggers, z_BD, data.pixels[rows], [data.images.names[row] for row in rows])
    except Exception:
        log.exception("the embedding for TensorBoard's projector failed; the run is finished all the same")


def write_report(folder: RunFolder, loggers: list[Logger], config: TrainConfig, result: dict[str, Any]) -> None:
    """Write the page and its pictures, to the loggers too; a failure here must not cost a finished run."""
    try:
        log.info("report: %s", write_run_report(folder.path))
        log_result(loggers, config, result, folder.path)
    except Exception:
        log.exception("the report failed; build it again with: python -m siamese report %s", folder.path)


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


def announce(result: dict[str, Any]) -> None:
    """Tell the figures of the test set."""
    low, high = result["test/acc_ci"]
    spread = (
        f", standard error over {result['folds']} folds {100 * result['test/acc_se']:.1f}" if "folds" in result else ""
    )
    log.info(
        "test accuracy %.1f %% (95 %%: %.1f - %.1f%s)  loss %.4f  AUC %.3f  EER %.1f %%  (%d pairs of %s, %s, %s)",
        100 * result["test/acc"], 100 * low, 100 * high, spread, result["test/loss"], result["test/auc"],
        100 * result["test/eer"], result["n_test"], result["dataset"], titled(result["protocol"], PROTOCOLS),
        result["setting"],
    )  # fmt: skip
