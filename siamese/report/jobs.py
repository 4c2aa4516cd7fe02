"""Read the runs below a folder, for a sweep page. Works while a sweep is running and with any launcher.

The folder can be that of one sweep, or hold several sweeps and single runs. Files that have not changed are read once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from siamese.data.lists import Pair
from siamese.evaluation.metrics import roc_curve
from siamese.files import flatten
from siamese.runs.continuing import EARLIER
from siamese.runs.records import HistoryRow, Result, read_history, read_mapping, read_predictions, read_result

ROC_GRID = np.linspace(0, 1, 201)
"""False positive rates at which the ROC of a run is interpolated; finer than the figure shows."""

CACHED = 4096
"""Files of each kind that are kept in memory."""

# PyYAML's C parser, if it is available: it reads the configurations of a sweep ten times as fast.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Pairs = tuple[Pair, ...]
"""Image names and label of each pair of a set."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run below a folder.

    Attributes:
        folder: the run folder.
        name: its path relative to the folder that was read, such as ``3`` or ``grid/3``.
        settings: the configuration: dotted key -> value.
        result: ``result.json``.
    """

    folder: Path
    name: str
    settings: dict[str, Any]
    result: Result

    @property
    def status(self) -> str:
        """running, done, failed, interrupted or unknown."""
        return self.result.status or "unknown"

    @property
    def title(self) -> str:
        """The run's ``name``, its label in tables."""
        return str(self.result.name or self.settings.get("name") or "")

    @property
    def seed(self) -> Any:
        """The configured seed."""
        return self.settings.get("seed")


class Scored(NamedTuple):
    """The scored pairs of a job.

    Attributes:
        validated: the validation pairs.
        pairs: the P test pairs.
        right: bool [P], which test pairs were predicted correctly.
        tpr: float [201], the true positive rates at `ROC_GRID`; nan if the test pairs have no ROC.
    """

    validated: Pairs
    pairs: Pairs
    right: NDArray[np.bool_]
    tpr: NDArray[np.float64]


def read_jobs(folder: Path) -> list[Job]:
    """Read all trainings below a folder, in natural order; a damaged file does not affect other jobs.

    The folds of a View 2 run are not jobs of their own and are skipped, as is the earlier result of a run that is being
    trained further.
    """
    return [job for job in _read(folder) if not job.result.is_evaluation]


def read_evaluations(folder: Path) -> list[Job]:
    """Read all evaluations (``eval.py``) below a folder, in natural order."""
    return [job for job in _read(folder) if job.result.is_evaluation]


def _read(folder: Path) -> list[Job]:
    runs = {path.parent for path in folder.rglob("result.json") if path.parent != folder}
    found = [run for run in runs if run.parent not in runs or not run.name.startswith(("fold_", EARLIER))]
    jobs = [job for path in found if (job := _job(folder, path, *map(_changed, _files(path)))) is not None]
    return sorted(jobs, key=lambda job: [(len(part), part) for part in Path(job.name).parts])


def scored(job: Job) -> Scored:
    """The scored pairs of a job; empty if there is no ``predictions.csv``."""
    file = job.folder / "predictions.csv"
    return _scored(file, _changed(file))


def history(job: Job) -> Sequence[HistoryRow]:
    """The epochs of a job; empty if there is no ``history.csv``."""
    file = job.folder / "history.csv"
    return _history(file, _changed(file))


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path / "result.json", path / "config.yaml", path / ".hydra" / "config.yaml"


def _changed(file: Path) -> int:
    """The modification time of a file, part of the key of the caches below; 0 if there is no such file."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=CACHED)
def _job(folder: Path, path: Path, *changed: int) -> Job | None:
    result_file, config_file, composed_file = _files(path)
    result = read_result(result_file, [])
    if result is None or not result.model_fields_set:
        return None
    settings = flatten(read_mapping(config_file, _parse_yaml, []))
    if not settings:  # the configuration was rejected: what Hydra composed, without unresolved values
        composed = flatten(read_mapping(composed_file, _parse_yaml, []))
        settings = {key: value for key, value in composed.items() if "${" not in str(value)}
    return Job(path, path.relative_to(folder).as_posix(), settings, result)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_YamlLoader)


@lru_cache(maxsize=CACHED)
def _scored(file: Path, changed: int) -> Scored:
    predictions = read_predictions(file, [])
    tested = [prediction for prediction in predictions if prediction.split == "test"]
    validated = tuple(Pair(p.image1, p.image2, p.label) for p in predictions if p.split == "val")
    tpr = np.full(len(ROC_GRID), math.nan)
    if tested:
        x, y, _ = roc_curve([p.score for p in tested], [p.label for p in tested])
        if not np.isnan(x).any() and not np.isnan(y).any():
            tpr = np.interp(ROC_GRID, x, y)
    right = np.array([prediction.label == prediction.predicted for prediction in tested], dtype=bool)
    return Scored(validated, tuple(Pair(p.image1, p.image2, p.label) for p in tested), right, tpr)


@lru_cache(maxsize=CACHED)
def _history(file: Path, changed: int) -> Sequence[HistoryRow]:
    return read_history(file, [])
