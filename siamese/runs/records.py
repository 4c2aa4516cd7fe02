"""``result.json`` and ``config.yaml`` of a run folder: a typed record, a reader and a writer for each.

Every writer replaces the whole file at once. A damaged file is an error. For the pages most readers take a list of
``problems``: they then append one line per missing or damaged file to it and return what they could read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from siamese.config.messages import validate
from siamese.config.schema import TrainConfig
from siamese.config.section import Section, to_plain
from siamese.errors import ConfigError, one_line
from siamese.files import write_text_atomically

# --- result.json ------------------------------------------------------------------------------------------

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Status = Literal["running", "done", "failed", "interrupted"]

START, DATA, DONE, FOLDS, EVALUATION, ONESHOT, IDENTIFICATION, ENDED = (
    "from the start", "once the data is read", "when done", "View 2 over all folds, when done",
    "evaluations, from the start", "one-shot evaluations, when done", "identification, when done",
    "if the run did not finish",
)  # fmt: skip
"""When a key of ``result.json`` is present."""

PEOPLE = "one-shot evaluations and identification, when done"


def _key(name: str, description: str, unit: str = "", present: str = DONE) -> Any:
    """Make a field of `Result` from its key in the file, its meaning, its unit, and when it is present."""
    return Field(None, alias=name, description=description, json_schema_extra={"unit": unit, "present": present})


KEY_PATTERNS = (
    (r"version/\w+", "version/PACKAGE", "version of Python, of this package, and of the main libraries", "", START),
    (r"oneshot/\d+/acc", "oneshot/N/acc", "accuracy of N-way one-shot identification", "fraction", ONESHOT),
    (
        r"oneshot/\d+/acc_ci",
        "oneshot/N/acc_ci",
        "95 % confidence interval of `oneshot/N/acc` (Wilson; see `oneshot/ci_over`)",
        "fraction",
        ONESHOT,
    ),
    (
        r"oneshot/\d+/pixels",
        "oneshot/N/pixels",
        "accuracy of choosing the image with the nearest pixels instead",
        "fraction",
        ONESHOT,
    ),
    (
        r"identification/rank\d+",
        "identification/rankR",
        "closed set: share of searches whose right person is among the first R (1, 5, 10) of the gallery",
        "fraction",
        IDENTIFICATION,
    ),
    (
        r"identification/tpir@fpir=[^_]+",
        "identification/tpir@fpir=RATE",
        "TPIR at the threshold at which FPIR is at most 0.1, 0.01 or 0.001, if there are enough strangers",
        "fraction",
        IDENTIFICATION,
    ),
    (
        r"identification/(rank\d+|tpir@fpir=.+|tpir|fpir)_ci",
        "identification/..._ci",
        "95 % confidence interval of the figure, over people (Wilson); null for `tpir@fpir=RATE` with fewer than about "
        "3 / RATE strangers",
        "fraction",
        IDENTIFICATION,
    ),
    (
        r"test/tar@far=[^_]+",
        "test/tar@far=RATE",
        "true accept rate at false accept rates of 0.01, 0.001 and 0.0001, if there are enough different pairs",
        "fraction",
        DONE,
    ),
    (
        r"test/tar@far=.+_ci",
        "test/tar@far=RATE_ci",
        "95 % confidence interval of `test/tar@far=RATE`",
        "fraction",
        DONE,
    ),
)
"""Keys with a variable part: pattern, name in the documentation, meaning, unit, when present."""


class Result(BaseModel):
    """``result.json``: the facts and figures of a run. A key that does not apply is absent; null means undefined.

    ``docs/records.md`` is generated from these fields.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, strict=True, allow_inf_nan=False)

    status: Status | None = _key("status", "`running`, `done`, `failed` or `interrupted`", present=START)
    error: str | None = _key("error", "why the run did not finish", present=ENDED)
    name: str | None = _key("name", "the configuration's `name`", present=START)
    label: str | None = _key("label", "what the loggers call the run", present=START)
    logger_id: str | None = _key("logger_id", "id of the run in MLflow or W&B", present=START)
    run: str | list[str] | None = _key(
        "run", "folder of the evaluated run, or folders of an ensemble", present=EVALUATION
    )
    trained_on: str | None = _key(
        "trained_on", "data set that the network was trained on, if `run` or `max_epochs=0` differs in it",
        present=EVALUATION,
    )  # fmt: skip
    dataset: str | None = _key("dataset", "data set", present=START)
    protocol: str | None = _key("protocol", "`view1`, `view2`, `holdout`, `oneshot` or `identification`", present=START)
    setting: str | None = _key("setting", "`restricted` or `unrestricted`", present=START)
    outside_data: bool | None = _key(
        "outside_data",
        "whether images from outside the data set were used to align its images or to pretrain the weights",
        present=START,
    )
    image_root: str | None = _key("image_root", "folder that image names are relative to", present=START)
    seed: int | None = _key("seed", "seed of the weights, the order of the data and dropout", present=START)
    precision: str | None = _key(
        "precision",
        "precision that was used: `32` or `bf16`; as the next three keys and the versions, joined by commas if the "
        "folds of View 2 differ",
        present=START,
    )
    convolution: str | None = _key("convolution", "convolution that was used: `direct` or `dft`", present=START)
    device: str | None = _key("device", "GPU, or processor with its number of threads", present=START)
    git_commit: str | None = _key("git_commit", "commit of the source tree (in a clone)", present=START)
    git_dirty: bool | None = _key("git_dirty", "whether the source tree had uncommitted changes", present=START)

    n_train: int | None = _key("n_train", "training pairs (restricted setting)", "pairs", DATA)
    n_val: int | None = _key("n_val", "validation pairs", "pairs", DATA)
    n_test: int | None = _key("n_test", "test pairs", "pairs", DATA)
    n_train_people: int | None = _key("n_train_people", "training people (unrestricted setting)", "people", DATA)
    n_train_images: int | None = _key("n_train_images", "training images (unrestricted setting)", "images", DATA)
    n_test_people: int | None = _key("n_test_people", "test people", "people", PEOPLE)
    n_test_images: int | None = _key("n_test_images", "test images", "images", PEOPLE)
    oneshot_ci_over: Literal["trials", "people"] | None = _key(
        "oneshot/ci_over",
        "what the intervals `oneshot/N/acc_ci` are over: `people` if the trials are of few, else `trials`",
        present=ONESHOT,
    )
    oneshot_within: str | None = _key("oneshot/within", "`protocol.within`, if it is set", present=ONESHOT)
    identification_enrolled: int | None = _key(
        "identification/enrolled", "people in the gallery of the open set; the others are strangers", "people",
        IDENTIFICATION,
    )  # fmt: skip
    identification_searched: int | None = _key(
        "identification/searched", "people with another image, who are searched for in the closed set", "people",
        IDENTIFICATION,
    )  # fmt: skip
    identification_draws: int | None = _key(
        "identification/draws", "random galleries; the figures are means over their searches", "galleries",
        IDENTIFICATION,
    )  # fmt: skip
    identification_fpir: float | None = _key(
        "identification/fpir",
        "false positive identification rate (FPIR) at the run's threshold: share of the searches for strangers in "
        "which any person reaches it; absent for an ensemble",
        "fraction", IDENTIFICATION,
    )  # fmt: skip
    identification_tpir: float | None = _key(
        "identification/tpir",
        "true positive identification rate (TPIR) at the run's threshold: share of the searches for people in the "
        "gallery in which the right person has the highest score and reaches it; absent for an ensemble",
        "fraction", IDENTIFICATION,
    )  # fmt: skip
    n_excluded: int | None = _key("n_excluded", "image files that could not be used", "images", DATA)

    val_loss: float | None = _key("val/loss", "binary cross-entropy on the validation pairs", "nats")
    val_acc: float | None = _key("val/acc", "accuracy on the validation pairs", "fraction")
    val_auc: float | None = _key("val/auc", "area under the ROC curve of the validation pairs", "fraction")
    test_loss: float | None = _key("test/loss", "binary cross-entropy on the test pairs", "nats")
    test_loss_ci: Interval | None = _key("test/loss_ci", "95 % confidence interval of `test/loss` (Student)", "nats")
    test_ci_over: Literal["pairs", "people"] | None = _key(
        "test/ci_over", "what the intervals `test/..._ci` are over: `people` if the pairs come from few, else `pairs`"
    )
    test_acc: float | None = _key("test/acc", "accuracy on the test pairs; View 2: mean over the folds", "fraction")
    test_acc_ci: Interval | None = _key(
        "test/acc_ci", "95 % confidence interval of `test/acc` (Wilson; View 2: Student over the folds)", "fraction"
    )
    test_acc_se: float | None = _key("test/acc_se", "standard error of the mean over the folds", "fraction", FOLDS)
    test_auc: float | None = _key("test/auc", "area under the ROC curve of the test pairs", "fraction")
    test_auc_ci: Interval | None = _key("test/auc_ci", "95 % confidence interval of `test/auc` (DeLong)", "fraction")
    test_eer: float | None = _key("test/eer", "equal error rate on the test pairs", "fraction")
    test_eer_ci: Interval | None = _key("test/eer_ci", "95 % confidence interval of `test/eer` (bootstrap)", "fraction")
    test_brier: float | None = _key("test/brier", "Brier score of the test pairs")
    test_ece: float | None = _key("test/ece", "expected calibration error on the test pairs", "fraction")
    tp: int | None = _key("tp", "true positives: test pairs with label 1 (same), predicted as same", "pairs")
    fp: int | None = _key("fp", "false positives: test pairs with label 0 (different), predicted as same", "pairs")
    tn: int | None = _key("tn", "true negatives: test pairs with label 0 (different), predicted as different", "pairs")
    fn: int | None = _key("fn", "false negatives: test pairs with label 1 (same), predicted as different", "pairs")

    groups_file: str | None = _key("groups/file", "the file of `groups`, from which `groups.csv` was computed")
    groups_sha256: str | None = _key("groups/sha256", "SHA-256 of this file, hexadecimal")
    threshold: float | None = _key("threshold", "decision boundary on the probability", "probability")
    threshold_origin: str | None = _key(
        "threshold_origin", "rule that chose the threshold on the validation pairs, if any"
    )
    calibration_slope: float | None = _key("calibration/slope", "slope in logit = slope * score + intercept")
    calibration_intercept: float | None = _key("calibration/intercept", "intercept, see `calibration/slope`")
    best_epoch: int | None = _key("best_epoch", "epoch whose weights are tested, counted from 1", "epochs")
    epochs: int | None = _key("epochs", "epochs trained", "epochs")
    continued_after: list[int] | None = _key(
        "continued_after",
        "epochs after which the run was continued with a larger `max_epochs`, if it was",
        "epochs",
        "from the start",
    )
    folds: int | None = _key("folds", "folds of View 2", "folds", FOLDS)
    weights: list[float] | None = _key(
        "weights",
        "weights of the runs of an ensemble, in the order of `run`, with `fusion=logistic`; View 2: mean of the folds",
    )
    parameters: int | None = _key("parameters", "parameters of the network, or of all networks of an ensemble")
    train_seconds: float | None = _key("train_seconds", "time of training and validation over all epochs", "seconds")
    score_seconds: float | None = _key("score_seconds", "time to fit the back end and score all pairs", "seconds")
    total_seconds: float | None = _key(
        "total_seconds",
        "time of the run without imports and run page; after a resume, of the last process only",
        "seconds",
    )

    @model_validator(mode="after")
    def _keys_are_documented(self) -> Result:
        if unknown := [key for key in self._extra if not _is_documented(key)]:
            raise ValueError(f"unknown key {unknown[0]!r}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the record as in the file: keys with slashes, without absent keys."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def figure(self, key: str) -> float | None:
        """Return the number under a key of the file such as ``test/acc``; None if it is absent or not a number."""
        value = self._extra[key] if key in self._extra else getattr(self, _fields().get(key, ""), None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return value if is_number else None

    @property
    def counts(self) -> tuple[int | None, ...]:
        """tp, fp, tn, fn, in the order of `OUTCOMES`."""
        return self.tp, self.fp, self.tn, self.fn

    @property
    def is_evaluation(self) -> bool:
        """Whether ``eval.py`` wrote the record."""
        return self.run is not None

    @property
    def versions(self) -> dict[str, str]:
        """Package -> its version."""
        return {key.removeprefix("version/"): value for key, value in self._extra.items() if key.startswith("version/")}

    @property
    def ways(self) -> list[int]:
        """The numbers of people N of a one-shot evaluation."""
        return sorted(int(key.split("/")[1]) for key in self._extra if re.fullmatch(r"oneshot/\d+/acc", key))

    def oneshot(self, ways: int, figure: Literal["acc", "acc_ci", "pixels"]) -> Any:
        """A figure of N-way one-shot identification; None if it is absent."""
        return self._extra.get(f"oneshot/{ways}/{figure}")

    def interval(self, key: str) -> list[float] | None:
        """The confidence interval of a figure such as ``identification/rank1``; None if it is absent or undefined."""
        return self.as_dict().get(f"{key}_ci")

    @property
    def _extra(self) -> dict[str, Any]:
        return self.model_extra or {}


@cache
def _fields() -> dict[str, str]:
    """Key of ``result.json`` -> name of the field of `Result`."""
    return {field.alias or name: name for name, field in Result.model_fields.items()}


def _is_documented(key: str) -> bool:
    return key in _fields() or any(re.fullmatch(pattern, key) for pattern, *_ in KEY_PATTERNS)


def read_result(file: Path, problems: list[str] | None = None) -> Result | None:
    """Read a ``result.json``; return None (with ``problems``: an empty record) if there is no such file.

    Raises:
        ConfigError: it is damaged (without ``problems``).
    """
    if problems is None:
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(plain, dict):
                raise ValueError("not a JSON object")
            return validate(plain, Result)
        except FileNotFoundError:
            return None
        except (ConfigError, OSError, ValueError, RecursionError) as error:
            raise _unreadable(file, error) from None
    plain = read_mapping(file, json.loads, problems)
    try:
        return Result.model_validate(plain)
    except ValidationError as error:
        bad = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
        kept = {key: value for key, value in plain.items() if key not in bad and _is_documented(key)}
        ignored = ", ".join(sorted(plain.keys() - kept.keys()))
        problems.append(f"{file.name}: unusable values were ignored: {ignored}.")
        return Result.model_validate(kept)


def write_result(file: Path, result: Result) -> None:
    """Write a ``result.json``; create its folder if necessary."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(file, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")


# --- config.yaml ------------------------------------------------------------------------------------------


def config_text(config: Section) -> str:
    """Return a configuration as the text of ``config.yaml``."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


ADDED: dict[str, Any] = {"start_from": None, "groups": None}
ADDED_TO: dict[str, dict[str, Any]] = {
    "data": {"align": None},
    "trainer": {"cuda_graphs": False},
    "objective=ntxent": {"chain_pairs": True, "negatives": "batch"},
}
"""Keys, and keys of groups or of one option of a group, that older runs did not record -> what they did."""


def read_config(file: Path) -> TrainConfig:
    """Read a ``config.yaml``.

    Raises:
        ConfigError: the file is missing, damaged, or does not fit this version's schema.
    """
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(plain, dict):
            plain = ADDED | plain
            for place, added in ADDED_TO.items():
                key, _, name = place.partition("=")
                if isinstance(plain.get(key), dict) and name in ("", plain[key].get("name")):
                    plain[key] = added | plain[key]
        return validate(plain, TrainConfig)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as a run's configuration ({one_line(error)})") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


# --- reading ----------------------------------------------------------------------------------------------


def read_mapping(file: Path, parse: Callable[[str], Any], problems: list[str]) -> dict[str, Any]:
    """Read the keys and values of a JSON or YAML file; on a problem return {} and append a line to ``problems``."""
    text = read_text(file, problems)
    if not text.strip():
        return {}
    try:
        content = parse(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        problems.append(f"{file.name} cannot be read: {first_line(error)}.")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{file.name} holds no keys and values.")
    return {}


def read_text(file: Path, problems: list[str]) -> str:
    """Read a text file; on a problem return an empty text and append a line to ``problems``."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        problems.append(f"{file.name} is missing.")
    except (OSError, ValueError) as error:
        problems.append(f"{file.name} cannot be read: {first_line(error)}.")
    return ""


def _unreadable(file: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{file}: cannot be read ({one_line(error)}); restore it or choose another folder")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without its full stop; without a message, the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
