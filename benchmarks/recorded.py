"""A sweep of many recorded jobs: the size of its page, and the seconds and memory that its pages take."""

from __future__ import annotations

import itertools
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.common import ROOT, table, worker
from siamese.data.lists import person_of
from siamese.runs.tables import PREDICTION_COLUMNS, read_predictions

SEEDS = 4
"""Jobs of a configuration; more if there are more jobs than configurations."""

GRID: dict[str, list[Any]] = {
    "learning_rate": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], "batch_size": [16, 32, 64, 128, 256],
    "weight_decay": [0.0, 1e-6, 1e-5, 1e-4, 1e-3],
}  # fmt: skip
"""The values of the jobs."""

EPOCHS = 20


def measure_recorded(jobs: int, pairs: int) -> tuple[str, dict[str, Any]]:
    """Measure the pages of a sweep of ``jobs`` recorded jobs with as many test pairs each."""
    with tempfile.TemporaryDirectory() as folder:
        parked, sweep = Path(folder) / "parked", Path(folder) / "sweep"
        _record(parked, _train(Path(folder) / "template"), jobs, pairs)
        sweep.mkdir()
        rows: list[list[object]] = []
        for n in sorted({min(n, jobs) for n in (10, 100, jobs)}):
            for job in range(len(list(sweep.glob("[0-9]*"))), n - 2):
                (parked / str(job)).rename(sweep / str(job))
            worker("further_jobs", sweep=str(sweep), jobs=[])  # so far, all jobs at once
            found = worker("further_jobs", sweep=str(sweep), jobs=[str(parked / str(job)) for job in (n - 2, n - 1)])
            size = (sweep / "report.html").stat().st_size / 1e6
            new, same = found["seconds"]
            rows.append([f"page after job {n}", *same, found["peak_mib"], f"page of {size:.1f} MB"])
            rows.append([f"page after job {n - 1}, in a new process", *new, found["peak_mib"], ""])
        for what in ("no run page exists", "nothing changed", "one job changed"):
            if what == "one job changed":
                with (sweep / "0/history.csv").open("a", encoding="utf-8") as file:
                    file.write(f"{EPOCHS + 1},0.1,0.9,0.1,0.9,0.9,0.001,1.0\n")
            found = worker("report_command", sweep=str(sweep))
            rows.append([f"siamese report, {what}", *found["seconds"], found["largest_mib"], f"{found['drawn']} drawn"])
        text = table(["what", "seconds", "CPU seconds", "peak MiB of a process", ""], rows)
        return f"{jobs} jobs, {pairs:,} test pairs each.\n\n{text}", {"rows": rows}


def further_jobs(sweep: str, jobs: list[str]) -> dict[str, Any]:
    """Time the sweep page as each of some jobs finishes; the first time in this process, as submitit's jobs write it.

    Without jobs, only write the page.
    """
    from siamese.report.sweep_page import write_sweep_page

    taken = []
    for job in jobs:
        Path(job).rename(Path(sweep) / Path(job).name)
        started, cpu = time.perf_counter(), time.process_time()
        write_sweep_page(Path(sweep))
        taken.append((time.perf_counter() - started, time.process_time() - cpu))
    if not jobs:
        write_sweep_page(Path(sweep))
    return {"seconds": taken}


def report_command(sweep: str) -> dict[str, Any]:
    """Time ``siamese report`` and count the run pages that it draws."""
    before = {page: page.stat().st_mtime_ns for page in Path(sweep).glob("*/report.html")}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "siamese", "report", sweep], cwd=ROOT, check=True, capture_output=True)
    taken = time.perf_counter() - started
    drawn = sum(before.get(page) != page.stat().st_mtime_ns for page in Path(sweep).glob("*/report.html"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": (taken, cpu), "drawn": drawn, "largest_mib": round(used.ru_maxrss / 1024)}


def _train(folder: Path) -> Path:
    """Train the run that is copied."""
    subprocess.run(
        [sys.executable, "train.py", "experiment=demo", "max_epochs=1", "model.widths=[8,8,8,16]", "logger=csv",
         "checkpoint=none", f"hydra.run.dir={folder}"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def _record(sweep: Path, template: Path, jobs: int, pairs: int) -> None:
    """Write the run folders of jobs with other settings and results than the trained run."""
    config = yaml.safe_load((template / "config.yaml").read_text(encoding="utf-8"))
    result = json.loads((template / "result.json").read_text(encoding="utf-8"))
    trained = read_predictions(template / "predictions.csv")
    lists = {
        "val": [(pair.image1, pair.image2, pair.label) for pair in trained if pair.split == "val"],
        "test": _pairs({name for one in trained for name in (one.image1, one.image2) if one.split == "test"}, pairs),
    }
    values = list(itertools.product(*GRID.values()))
    seeds = max(SEEDS, -(-jobs // len(values)))
    for job in range(jobs):
        settings, seed = values[job // seeds], job % seeds
        folder = sweep / str(job)
        shutil.copytree(template / ".hydra", folder / ".hydra")
        shutil.copyfile(template / "excluded.csv", folder / "excluded.csv")
        chosen = {**dict(zip(GRID, settings, strict=True)), "seed": seed}
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, **chosen}, sort_keys=False), encoding="utf-8")
        rng = np.random.default_rng(job)
        skill = 1 + 2 * rng.random()
        found = {split: _scores(rng, [label for *_, label in listed], skill) for split, listed in lists.items()}
        _write_predictions(folder / "predictions.csv", lists, found)
        _write_history(folder / "history.csv", skill)
        figures = {f"{split}/acc": _accuracy(lists[split], found[split]) for split in lists}
        counts = _counts(lists["test"], found["test"])
        facts = {
            "n_test": pairs,
            "seed": seed,
            "epochs": EPOCHS,
            "best_epoch": EPOCHS,
            "train_seconds": 100 + 10 * skill,
        }
        (folder / "result.json").write_text(json.dumps({**result, **figures, **counts, **facts}), encoding="utf-8")


def _pairs(names: set[str], number: int) -> list[tuple[str, str, int]]:
    """Different pairs of images; every second one is a same pair if there are enough."""
    listed = sorted(names)
    every = [(a, b, int(person_of(a) == person_of(b))) for a, b in itertools.combinations(listed, 2)]
    same, different = [pair for pair in every if pair[2]], [pair for pair in every if not pair[2]]
    chosen = same[: number // 2]
    return chosen + [different[i] for i in np.linspace(0, len(different) - 1, number - len(chosen)).astype(int)]


def _scores(rng: np.random.Generator, labels: Sequence[int], skill: float) -> Any:
    return rng.normal(size=len(labels)) + skill * (np.array(labels) - 0.5)


def _accuracy(listed: Sequence[tuple[str, str, int]], scores: Any) -> float:
    return float(((scores >= 0) == np.array([label for *_, label in listed])).mean())


def _counts(listed: Sequence[tuple[str, str, int]], scores: Any) -> dict[str, int]:
    same, predicted = np.array([label for *_, label in listed]) == 1, scores >= 0
    kinds = {"tp": same & predicted, "fp": ~same & predicted, "tn": ~same & ~predicted, "fn": same & ~predicted}
    return {name: int(chosen.sum()) for name, chosen in kinds.items()}


def _write_predictions(file: Path, lists: dict[str, list[tuple[str, str, int]]], scores: dict[str, Any]) -> None:
    lines = [",".join(PREDICTION_COLUMNS)]
    for split, listed in lists.items():
        probabilities = 1 / (1 + np.exp(-scores[split]))
        for (a, b, label), score, p in zip(listed, scores[split].tolist(), probabilities.tolist(), strict=True):
            predicted = int(p >= 0.5)
            outcome = ("t" if predicted == label else "f") + ("p" if predicted else "n")
            lines.append(f"{split},{a},{b},{label},{score!r},{p!r},{predicted},{outcome}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_history(file: Path, skill: float) -> None:
    lines = ["epoch,train/loss,train/acc,val/loss,val/acc,val/auc,lr,seconds"]
    for epoch in range(1, EPOCHS + 1):
        loss, acc = 0.7 - skill * epoch / 120, 0.5 + skill * epoch / 150
        lines.append(f"{epoch},{loss - 0.02},{acc + 0.02},{loss},{acc},{acc + 0.05},0.001,5.1")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
