"""Compare our runs with the course report that this project reproduces.

The course report is public and about one-shot face recognition: the network of Koch, Zemel and Salakhutdinov (2015) on
LFW View 1. Runs are recognised by their configuration, so their names and folders do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from siamese.config.titles import DATASETS, titled
from siamese.errors import ConfigError
from siamese.report.groups import ABOUT_INTERVALS, Group, best_on_test, difference, group_jobs, spread
from siamese.report.jobs import Job, history, read_jobs
from siamese.report.text import markdown_table, number, percent
from siamese.text import count

COMMON: dict[str, Any] = {
    "model.name": "koch", "model.widths": [64, 128, 128, 256], "model.embedding_dim": 4096, "model.init": "torch",
    "objective.name": "bce", "learning_rate": 1e-4, "scheduler.name": "step", "scheduler.step_size": 10,
    "scheduler.gamma": 0.1, "max_epochs": 20, "patience": 5, "monitor": "val/loss", "threshold": 0.5,
    "data.image_size": 105, "data.color": False, "data.crop": None, "data.interpolation": "bilinear",
    "data.val_fraction": 0.2, "data.split_seed": 0, "protocol.name": "view1", "trainer.gradient_clip_val": None,
    "protocol.setting": "restricted", "data.split": "pairs", "calibration": "auto", "flip_average": False,
    "crop_average": 1.0, "ema_decay": 0.0, "backend.name": "network", "augmentation.flip": False,
    "augmentation.rotation": 0.0, "augmentation.shear": 0.0, "augmentation.scale": 1.0, "augmentation.translation": 0.0,
    "augmentation.brightness": 0.0, "augmentation.contrast": 0.0, "augmentation.erase": 0.0, "start_from": None,
    "data.align": None, "trainer.max_time": None, "trainer.limit_train_batches": None, "trainer.overfit_batches": None,
}  # fmt: skip
"""Settings that all experiments of the course report share; an option that it does not have is off."""


@dataclass(frozen=True)
class Experiment:
    """An experiment of the course report, and its printed results; None if a result is not printed.

    Attributes:
        title: its name in the course report.
        settings: dotted key -> value, in addition to `COMMON` or instead of its values; None: the run lacks the key.
        acc, loss: results on the 1,000 test pairs.
        epochs: number of epochs until training stopped.
    """

    title: str
    settings: Mapping[str, Any] = field(repr=False)
    acc: float
    loss: float | None = None
    epochs: int | None = None

    def describes(self, job: Job) -> bool:
        """Whether a run has the settings of this experiment."""
        return all(job.settings.get(key) == value for key, value in (COMMON | dict(self.settings)).items())


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer.betas": [0.9, 0.999], "optimizer.eps": 1e-8},
    "sgd": {"optimizer.momentum": 0.9, "optimizer.nesterov": False},
}
"""Settings that the course report does not state: the optimizers' defaults, and our choice of momentum."""


def _settings(optimizer: str, batchnorm: bool, dropout: float, batch_size: int, weight_decay: float) -> dict[str, Any]:
    return OPTIMIZERS[optimizer] | {
        "optimizer.name": optimizer, "model.batchnorm": batchnorm, "model.dropout": dropout, "batch_size": batch_size,
        "weight_decay": weight_decay,
    }  # fmt: skip


EXPERIMENTS = (
    Experiment("1 Adam", _settings("adam", False, 0.0, 128, 0.0), 0.642, 0.8784),
    Experiment("2 SGD", _settings("sgd", False, 0.0, 128, 0.0), 0.587, None, 20),
    Experiment("3 batch normalization", _settings("adam", True, 0.0, 128, 0.0), 0.668, 0.6475),
    Experiment("4 with dropout 0.1", _settings("adam", True, 0.1, 128, 0.0), 0.6630, 0.6487, 10),
    Experiment("5 with dropout 0.2", _settings("adam", True, 0.2, 128, 0.0), 0.6350, 0.6524, 12),
    Experiment("6 batch 256, decay 1e-6", _settings("adam", True, 0.0, 256, 1e-6), 0.6830, 0.6212, 9),
    Experiment("6 batch 128, decay 1e-4", _settings("adam", True, 0.0, 128, 1e-4), 0.6960, 0.6146, 8),
    Experiment("6 batch 64, decay 1e-6", _settings("adam", True, 0.0, 64, 1e-6), 0.6870, 0.6343, 7),
    Experiment("6 batch 32, decay 1e-5 (final)", _settings("adam", True, 0.0, 32, 1e-5), 0.7040, 0.6299, 8),
)  # fmt: skip
ADAM, SGD, BATCHNORM, DROPOUT_1, DROPOUT_2, *_, FINAL = EXPERIMENTS

CONSTANT_RATE: dict[str, Any] = {
    "learning_rate": 1e-2, "scheduler.name": "constant", "scheduler.step_size": None, "scheduler.gamma": None,
}  # fmt: skip
GUESS = Experiment(
    "our guess for 2: constant rate 1e-2", dict(SGD.settings) | CONSTANT_RATE, SGD.acc, SGD.loss, SGD.epochs
)
"""Settings with which the course report may have trained its SGD row: with those that it states, nothing is learned."""

TEST_PAIRS = 1000
"""Test pairs of View 1."""

GRID_BATCH_SIZES = (32, 64, 128, 256)
GRID_WEIGHT_DECAYS = (1e-4, 1e-5, 1e-6)

COMPARED = ((ADAM, SGD), (BATCHNORM, ADAM), (DROPOUT_1, BATCHNORM), (DROPOUT_2, BATCHNORM), (FINAL, BATCHNORM))
"""The comparisons behind the conclusions of the course report: is the first experiment better than the second?"""

FINAL_COUNTS = {"tp": 372, "fn": 128, "fp": 168, "tn": 332}
"""Outcomes of the final model at threshold 0.5."""

FINAL_EPOCHS = (
    {"train/loss": 0.6874, "train/acc": 0.6040, "val/loss": 0.6493, "val/acc": 0.6727},
    {"train/loss": 0.2839, "train/acc": 0.9062, "val/loss": 0.6224, "val/acc": 0.6909},
    {"train/loss": 0.1010, "train/acc": 0.9943, "val/loss": 0.6182, "val/acc": 0.6909},
)
"""The first epochs of the final model."""


def reproduction(folders: Sequence[Path]) -> str:
    """Compare the course report with the finished runs below some folders, as Markdown.

    Raises:
        ConfigError: a folder is missing, or there is no finished run of one of the experiments.
    """
    found: dict[Path, Job] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder")
        found |= {job.folder.resolve(): job for job in read_jobs(folder)}
    jobs = [*found.values()]
    done = [job for job in jobs if job.status == "done" and (job.result.dataset or "").startswith("lfw")]
    known = [job for job in done if _is_of_the_report(job)]
    if not known:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: no finished run of the course report's experiments; train them with "
            "python train.py -m experiment=report/grid and the other files in conf/experiment/report"
        )
    lines = ["# The experiments of the course report: printed and measured results"]
    for dataset in dict.fromkeys(job.result.dataset or "" for job in known):
        mine = [job for job in known if job.result.dataset == dataset]
        lines += ["", f"## {titled(dataset, DATASETS)}", "", *_table(mine), *_differences(mine), *_grid(mine)]
        lines += _final(mine)
    if len(jobs) > len(known):
        others = count(len(jobs) - len(known), "other run")
        lines += ["", f"{others} skipped: not finished, or not one of these experiments."]
    return "\n".join(lines) + "\n"


def verdict(ours: float, theirs: float, error: float) -> str:
    """``agrees`` if the results differ by at most two standard errors ``error``, otherwise ``higher`` or ``lower``."""
    if abs(ours - theirs) <= 2 * error:
        return "agrees"
    return "higher" if ours > theirs else "lower"


def _is_of_the_report(job: Job) -> bool:
    return any(one.describes(job) for one in (*EXPERIMENTS, GUESS)) or _cell_of_grid(job) is not None


def _cell_of_grid(job: Job) -> tuple[int, float] | None:
    """Batch size and weight decay, if the run belongs to the grid of experiment 6."""
    cells = ((size, decay) for size in GRID_BATCH_SIZES for decay in GRID_WEIGHT_DECAYS)
    return next((cell for cell in cells if Experiment("", _settings("adam", True, 0.0, *cell), 0).describes(job)), None)


def _runs(experiment: Experiment, jobs: Sequence[Job]) -> Group | None:
    """The runs of an experiment. Each seed counts once: the first of several runs is used."""
    found = {job.seed: job for job in reversed(jobs) if experiment.describes(job)}
    return Group((), tuple(found[seed] for seed in sorted(found))) if found else None


def _table(jobs: Sequence[Job]) -> list[str]:
    rows: list[list[str]] = []
    for experiment in (*EXPERIMENTS, GUESS):
        printed = number(experiment.loss, "{:.4f}".format)
        row = [experiment.title, percent(experiment.acc)]
        one = _runs(experiment, jobs)
        if one is None:
            rows.append([*row, "", "", printed, "", "", "", number(experiment.epochs, str), "", ""])
            continue
        acc, loss = one.mean("test/acc"), one.mean("test/loss")
        variance = experiment.acc * (1 - experiment.acc) / (one.jobs[0].result.n_test or TEST_PAIRS)
        about_acc = "" if experiment is GUESS else verdict(acc, experiment.acc, math.sqrt(variance))
        about_loss = "" if experiment.loss is None else verdict(loss, experiment.loss, _loss_error(one))
        rows.append([
            *row, spread([100 * value for value in one.figures("test/acc")], 1) + " %", about_acc,
            printed, spread(one.figures("test/loss"), 4), about_loss, str(len(one.jobs)),
            number(experiment.epochs, str), spread(one.figures("epochs"), 1), spread(one.figures("train_seconds"), 0),
        ])  # fmt: skip
    head = [
        "experiment", "test accuracy: course report", "ours", "verdict", "test loss: course report", "ours", "verdict",
        "seeds", "epochs: course report", "ours", "training seconds",
    ]  # fmt: skip
    return [
        *markdown_table(head, rows), "",
        "Ours: mean ± standard error over the seeds. The accuracy agrees if the difference is at most two standard "
        "errors of an accuracy on the 1,000 test pairs (2.9 points at 70 %); the loss agrees if the difference is at "
        "most two standard errors of the mean loss on these pairs. Empty: not measured. –: not given in "
        "the course report.",
    ]  # fmt: skip


def _loss_error(one: Group) -> float:
    """The standard error of the mean loss over the test pairs, from the recorded 95 % confidence intervals."""
    intervals = [ends for job in one.jobs if (ends := job.result.test_loss_ci) is not None]
    return fmean((high - low) / (2 * 1.96) for low, high in intervals) if intervals else 0.0


def _differences(jobs: Sequence[Job]) -> list[str]:
    """The table of the comparisons in `COMPARED`, with confidence intervals."""
    rows = []
    for first, second in COMPARED:
        one, other = _runs(first, jobs), _runs(second, jobs)
        found = difference(one, other) if one and other else None
        if one and other and found:
            printed = f"{100 * (first.acc - second.acc):+.1f}"
            cells = found.cells()
            rows.append([
                f"{first.title} – {second.title}", printed, *cells.values(),
                f"{len(one.jobs)} and {len(other.jobs)}",
            ])  # fmt: skip
    if not rows:
        return []
    head = ["test accuracy, points", "course report", "ours", "95 % CI", "significant", "McNemar p per seed", "seeds"]
    return [
        "", *markdown_table(head, rows), "",
        ABOUT_INTERVALS,
    ]  # fmt: skip


def _grid(jobs: Sequence[Job]) -> list[str]:
    """The grid of experiment 6, for the first seed with all its runs, and the effect of choosing by test accuracy."""
    by_seed: dict[Any, dict[tuple[int, float], Job]] = {}
    for job in jobs:
        if (cell := _cell_of_grid(job)) is not None:
            by_seed.setdefault(job.seed, {}).setdefault(cell, job)
    full = len(GRID_BATCH_SIZES) * len(GRID_WEIGHT_DECAYS)
    complete = [(seed, cells) for seed, cells in by_seed.items() if len(cells) == full]
    if not complete:  # the best of a few runs is not what a grid chooses
        return []
    seed, cells = complete[0]
    rows = []
    for size in GRID_BATCH_SIZES:
        rows.append([str(size), *(_both(cells[size, decay]) for decay in GRID_WEIGHT_DECAYS)])
    groups = group_jobs([*cells.values()], ["batch_size", "weight_decay"])
    chosen, best = groups[0], best_on_test(groups)
    described = [
        f"{one.values[0]} and {one.values[1]}, with test accuracy {percent(one.mean('test/acc'))}"
        for one in (chosen, best)
    ]
    mean = fmean(one.mean("test/acc") for one in groups)
    return [
        "", f"The grid with seed {seed}, {full} runs: validation / test accuracy in %.", "",
        *markdown_table(["batch size", *(f"decay {decay:g}" for decay in GRID_WEIGHT_DECAYS)], rows), "",
        f"Validation accuracy chooses batch size and weight decay {described[0]}. The course report chooses by test "
        f"accuracy, which here gives {described[1]}: {100 * (best.mean('test/acc') - chosen.mean('test/acc')):.1f} "
        f"points more. The mean over the grid is {percent(mean)}.",
    ]  # fmt: skip


def _both(job: Job) -> str:
    return " / ".join(
        number(acc, lambda value: f"{100 * value:.1f}") for acc in (job.result.val_acc, job.result.test_acc)
    )


def _final(jobs: Sequence[Job]) -> list[str]:
    """The outcomes and the first epochs of the final model."""
    one = _runs(FINAL, jobs)
    if one is None:
        return []
    lines = ["", f"The final model, {count(len(one.jobs), 'seed')}:", ""]
    counts = [spread(one.figures(key), 0) for key in FINAL_COUNTS]
    titles = [f"{pair}, predicted {other}" for pair in ("same", "different") for other in ("same", "different")]
    lines += markdown_table(
        ["test pairs", *titles], [["course report", *map(str, FINAL_COUNTS.values())], ["ours", *counts]]
    )
    epochs = []
    histories = [history(job) for job in one.jobs]
    for i, printed in enumerate(FINAL_EPOCHS):
        reached = [rows[i] for rows in histories if len(rows) > i]
        measured = (spread([row[key] for row in reached], 4) for key in printed)
        cells = (f"{theirs:.4f} / {ours}" for theirs, ours in zip(printed.values(), measured, strict=True))
        epochs.append([str(i + 1), *cells])
    titles = ["training loss: course report / ours", "training accuracy", "validation loss", "validation accuracy"]
    return [*lines, "", *markdown_table(["epoch", *titles], epochs)]
