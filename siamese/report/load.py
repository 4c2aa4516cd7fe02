"""Read a run folder for the pages: everything that can be read, and one line per problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siamese.config.defaults import configuration_folder
from siamese.config.protocol import OF_PEOPLE
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result, read_mapping, read_result, read_text
from siamese.runs.tables import (
    CMC_COLUMNS,
    OPEN_SET_COLUMNS,
    OUTCOMES,
    Exclusion,
    GroupFigure,
    HistoryRow,
    Prediction,
    read_curve,
    read_excluded,
    read_folds,
    read_groups,
    read_history,
    read_predictions,
)
from siamese.text import shell_words


@dataclass(frozen=True)
class Run:
    """The files of a run folder; every part may be empty.

    Attributes:
        folder: its path.
        result: ``result.json``.
        config: ``config.yaml``, nested.
        config_text: the text of ``config.yaml``.
        history: one row per epoch.
        predictions: the scored pairs of all splits.
        excluded: the images that could not be used.
        overrides: the ``key=value`` arguments of the command line, as Hydra recorded them.
        folds: the rows of ``folds.csv`` (View 2).
        groups: the rows of ``groups.csv``.
        cmc, open_set: the rows of ``cmc.csv`` and ``open_set.csv`` (``protocol=identification``).
        problems: one line per missing or damaged file.
    """

    folder: Path
    result: Result = field(default_factory=Result)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    history: tuple[HistoryRow, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    excluded: tuple[Exclusion, ...] = ()
    overrides: tuple[str, ...] = ()
    folds: tuple[Mapping[str, float], ...] = ()
    groups: tuple[GroupFigure, ...] = ()
    cmc: tuple[Mapping[str, float], ...] = ()
    open_set: tuple[Mapping[str, float], ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """running, done, failed, interrupted; unknown if nothing is recorded."""
        return self.result.status or "unknown"

    @property
    def threshold(self) -> float | None:
        """The threshold on the probability: from ``result.json``, otherwise from the configuration."""
        for value in (self.result.threshold, self.config.get("threshold")):
            if isinstance(value, int | float):
                return float(value)
        return None

    @property
    def is_calibrated(self) -> bool:
        """Whether a calibration other than the plain sigmoid turns scores into probabilities."""
        return (self.result.calibration_slope, self.result.calibration_intercept) not in ((1.0, 0.0), (None, None))

    @property
    def command(self) -> str:
        """The command line that trains or evaluates the same again, in an output folder of its own."""
        script = "eval.py" if self.result.is_evaluation else "train.py"
        try:
            recorded = yaml.safe_load((self.folder / ".hydra/hydra.yaml").read_text(encoding="utf-8"))["hydra"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            recorded = {}
        overrides = (word for word in self.overrides if not word.startswith("resume="))
        return shell_words(["python", script, *configuration_options(recorded), *overrides])

    def split(self, name: str) -> list[Prediction]:
        """The predictions of ``val`` or ``test``."""
        return [prediction for prediction in self.predictions if prediction.split == name]


def configuration_options(hydra: Mapping[str, Any]) -> list[str]:
    """The options of the command line that chose the configuration files.

    Args:
        hydra: Hydra's own section, as it recorded it; may be empty.
    """
    sources = {one["provider"]: one["path"] for one in hydra.get("runtime", {}).get("config_sources", [])}
    folder, name = sources.get("main"), hydra.get("job", {}).get("config_name", "train")
    options = [] if folder is None or Path(folder) == configuration_folder() else ["--config-path", folder]
    options += [] if name in ("train", "eval") else ["--config-name", name]
    return options + (["--config-dir", sources["command-line"]] if "command-line" in sources else [])


def run_files(folder: Path) -> list[Path]:
    """All files and folders that `read_run` and the properties of `Run` depend on; some may be missing."""
    paths = RunFolder(folder)
    tables = [paths.history, paths.folds, paths.groups, paths.predictions, paths.excluded]
    tables += [folder / "cmc.csv", folder / "open_set.csv"]
    hydra = [folder / ".hydra" / name for name in ("overrides.yaml", "hydra.yaml")]
    return [folder / "result.json", paths.config, *tables, *hydra, folder / "fold_01", *folder.glob("fold_*")]


def read_run(folder: Path) -> Run:
    """Read a run folder; missing and damaged files are skipped and listed in ``problems``."""
    problems: list[str] = []
    paths = RunFolder(folder)
    result = read_result(folder / "result.json", problems) or Result()
    config = read_mapping(paths.config, yaml.safe_load, problems)
    history: list[HistoryRow] = []
    predictions: list[Prediction] = []
    folds: list[Mapping[str, float]] = []
    is_of_folds = result.protocol == "view2" and any(folder.glob("fold_*"))
    if result.folds is not None:
        folds = read_folds(paths.folds, problems)
    elif not result.is_evaluation and not is_of_folds:  # an evaluation has no epochs
        history = read_history(paths.history, problems)
    # An unfinished run has no predictions yet, which is not a problem to report.
    is_of_pairs = result.protocol not in OF_PEOPLE
    if (result.status in ("done", None) and is_of_pairs) or paths.predictions.exists():
        predictions = read_predictions(paths.predictions, problems)
    excluded: list[Exclusion] = []
    if not is_of_folds:  # each fold has its own
        excluded = read_excluded(paths.excluded, problems)
    groups = [] if result.groups_file is None else read_groups(paths.groups, problems)
    cmc: list[Mapping[str, float]] = []
    open_set: list[Mapping[str, float]] = []
    if result.identification_enrolled is not None:
        cmc = read_curve(folder / "cmc.csv", CMC_COLUMNS, problems)
        if result.identification_enrolled != result.n_test_people:  # there are strangers
            open_set = read_curve(folder / "open_set.csv", OPEN_SET_COLUMNS, problems)
    problems += _contradictions(result, predictions)
    overrides = _overrides(folder / ".hydra" / "overrides.yaml")
    text = read_text(paths.config, [])
    tables = tuple(history), tuple(predictions), tuple(excluded)
    return Run(
        folder, result, config, text, *tables, overrides, tuple(folds), tuple(groups), tuple(cmc), tuple(open_set),
        tuple(problems),
    )  # fmt: skip


def _contradictions(result: Result, predictions: Iterable[Prediction]) -> list[str]:
    """Counts in ``result.json`` that differ from those of ``predictions.csv``."""
    outcomes = [prediction.outcome for prediction in predictions if prediction.split == "test"]
    recorded = list(result.counts)
    counted = [outcomes.count(name) for name in OUTCOMES]
    if not outcomes or None in recorded or recorded == counted:
        return []
    shown = ["/".join(map(str, counts)) for counts in (recorded, counted)]
    recorded_and_counted = f"result.json counts {shown[0]} (TP/FP/TN/FN), predictions.csv {shown[1]}"
    return [f"{recorded_and_counted}: the files belong to different runs."]


def _overrides(file: Path) -> tuple[str, ...]:
    try:
        words = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return tuple(map(str, words)) if isinstance(words, list) else ()
