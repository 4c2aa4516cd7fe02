"""Read the runs below a folder, for a sweep page. Works while a sweep is running and with any launcher.

The folder can be that of one sweep, or hold several sweeps and single runs. Files that have not changed are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from siamese.files import file_state, flatten
from siamese.runs.continuing import EARLIER
from siamese.runs.records import Result, read_mapping, read_result
from siamese.runs.tables import HistoryRow, read_history

CACHED = 4096
"""Files of each kind that are kept in memory."""

# PyYAML's C parser, if it is available: it reads the configurations of a sweep ten times as fast.
_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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


def read_jobs(folder: Path) -> list[Job]:
    """Read all trainings below a folder, in natural order; a damaged file does not affect other jobs.

    The folds of a View 2 run are not jobs of their own and are skipped, as is the earlier result of a run that is being
    trained further.
    """
    return read_runs(folder)[0]


def read_runs(folder: Path) -> tuple[list[Job], list[Job]]:
    """Read the trainings (see `read_jobs`) and the evaluations (``eval.py``) below a folder, both in natural order."""
    runs = {path.parent for path in folder.rglob("result.json") if path.parent != folder}
    found = [run for run in runs if run.parent not in runs or not run.name.startswith(("fold_", EARLIER))]
    jobs = [job for path in found if (job := _job(folder, path, *map(file_state, _files(path)))) is not None]
    jobs.sort(key=lambda job: [(len(part), part) for part in Path(job.name).parts])
    return [job for job in jobs if not job.result.is_evaluation], [job for job in jobs if job.result.is_evaluation]


def history(job: Job) -> Sequence[HistoryRow]:
    """The epochs of a job; empty if there is no ``history.csv``."""
    file = job.folder / "history.csv"
    return _history(file, file_state(file))


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path / "result.json", path / "config.yaml", path / ".hydra" / "config.yaml"


@lru_cache(maxsize=CACHED)
def _job(folder: Path, path: Path, *states: tuple[int, ...] | None) -> Job | None:
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
def _history(file: Path, state: tuple[int, ...] | None) -> Sequence[HistoryRow]:
    return read_history(file, [])
