"""The typed schema of the whole configuration, and every check on its values.

The only module that knows OmegaConf: `load_train` and `load_eval` turn what Hydra composed into frozen, typed
objects, and everything after works on those. It imports neither torch nor Lightning, so that a bad value is
told in a second.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from siamese.errors import ConfigError
from siamese.models.shapes import koch_feature_size

DOWNLOADED_ROOT = "data/lfw"
"""The default of ``data.root``, and the only folder that is made when it is missing."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, types are strict, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- data -------------------------------------------------------------------------------------------------


class ImageOptions(Section):
    """How an image file becomes an array, and where the arrays are kept."""

    image_size: int = Field(105, ge=8, le=1024, description="side of the square network input, pixels")
    color: bool = Field(False, description="RGB instead of grey")
    crop: int | None = Field(None, ge=8, description="side of the central square kept before resizing, pixels")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    cache: str = Field("data/cache", min_length=1, description="folder of the decoded images")
    val_fraction: float = Field(0.2, gt=0, lt=1, description="share of the training pairs kept for validation")
    split_seed: int = Field(0, ge=0, description="seed of that split, apart from the seed of training")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 (grey) or 3 (RGB)."""
        return 3 if self.color else 1


class LfwData(ImageOptions):
    """Labeled Faces in the Wild, laid out as the official archives unpack."""

    name: Literal["lfw", "lfw_funneled", "lfw_deepfunneled", "lfw_a"]
    root: str = Field(min_length=1, description="folder that holds the image folder and the lists")
    download: bool = Field(False, description="fetch what is missing (lfw and lfw_funneled)")


class SyntheticData(ImageOptions):
    """Faces drawn by our own code, written to ``root`` in LFW's layout when missing."""

    name: Literal["synthetic"]
    root: str = Field(min_length=1, description="folder the data set is written to")
    seed: int = Field(0, ge=0, description="seed of the people and photos")
    train_people: int = Field(ge=2)
    test_people: int = Field(ge=2)
    train_pairs: int = Field(ge=10, multiple_of=2, description="half of them of one person; training and validation")
    test_pairs: int = Field(ge=2, multiple_of=2)
    view2_pairs: int = Field(ge=20, multiple_of=20, description="pairs of View 2's ten folds together")


DataConfig = Annotated[LfwData | SyntheticData, Field(discriminator="name")]


# --- model, objective, optimisation -----------------------------------------------------------------------


class KochModel(Section):
    """Koch, Zemel and Salakhutdinov (2015) with the report's options."""

    name: Literal["koch"]
    batchnorm: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    widths: list[Annotated[int, Field(ge=1)]] = Field([64, 128, 128, 256], min_length=4, max_length=4)
    embedding_dim: int = Field(4096, ge=1)
    init: Literal["torch", "koch"] = "torch"


class BceObjective(Section):
    """Binary cross-entropy on the logit of a pair."""

    name: Literal["bce"]


class AdamOptimizer(Section):
    """Adam (weight decay added to the gradient) or AdamW (decoupled)."""

    name: Literal["adam", "adamw"]
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field([0.9, 0.999], min_length=2, max_length=2)
    eps: float = Field(1e-8, gt=0)


class SgdOptimizer(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdOptimizer:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum > 0")
        return self


OptimizerConfig = Annotated[AdamOptimizer | SgdOptimizer, Field(discriminator="name")]


class StepScheduler(Section):
    """The learning rate times ``gamma`` every ``step_size`` epochs."""

    name: Literal["step"]
    step_size: int = Field(10, ge=1)
    gamma: float = Field(0.1, gt=0, le=1)


class CosineScheduler(Section):
    """Half a cosine from the learning rate to ``final_fraction`` of it over ``max_epochs``."""

    name: Literal["cosine"]
    final_fraction: float = Field(0.0, ge=0, le=1)


class ConstantScheduler(Section):
    """The learning rate as given."""

    name: Literal["constant"]


SchedulerConfig = Annotated[StepScheduler | CosineScheduler | ConstantScheduler, Field(discriminator="name")]


# --- where and how it runs --------------------------------------------------------------------------------


class TrainerConfig(Section):
    """What is handed to Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    deterministic: bool = Field(True, description="only algorithms that give the same bits every time")
    gradient_clip_val: float | None = Field(None, gt=0)
    progress_bar: bool | None = Field(None, description="null: when the output is a terminal")


class LoggerConfig(Section):
    """Where the curves go besides history.csv."""

    name: Literal["tensorboard", "csv"]
    projector: bool = Field(False, description="the test images' embeddings, with thumbnails, for TensorBoard")

    @model_validator(mode="after")
    def _projector_is_tensorboards(self) -> LoggerConfig:
        if self.projector and self.name != "tensorboard":
            raise ValueError("projector=true needs logger=tensorboard")
        return self


class ProtocolConfig(Section):
    """What is scored."""

    name: Literal["view1"]


Label = Annotated[str, Field(strict=False, coerce_numbers_to_str=True, min_length=1, max_length=120)]


def _text_of_32(value: object) -> object:
    return "32" if value == 32 and not isinstance(value, bool | float) else value


class TrainConfig(Section):
    """The configuration of one training run; the keys are those of ``conf/train.yaml``."""

    name: Label
    seed: int = Field(ge=0, lt=2**32)
    batch_size: int = Field(ge=1, description="pairs in a step")
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    max_epochs: int = Field(ge=1)
    patience: int = Field(ge=1, description="epochs without a better monitor before training stops")
    monitor: Literal["val/loss", "val/acc"] = "val/loss"
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a pair is called the same")
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_text_of_32)] = "auto"
    convolution: Literal["auto", "direct", "dft"] = "auto"
    checkpoint: Literal["best", "all", "none"] = "best"
    resume: bool = False
    data: DataConfig
    model: KochModel
    objective: BceObjective
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    protocol: ProtocolConfig

    @model_validator(mode="after")
    def _image_fits_network(self) -> TrainConfig:
        if koch_feature_size(self.data.image_size) < 1:
            smallest = next(size for size in range(8, 1024) if koch_feature_size(size) >= 1)
            raise ValueError(
                f"data.image_size={self.data.image_size} is too small for model=koch; give at least {smallest}"
            )
        return self

    @model_validator(mode="after")
    def _batch_has_statistics(self) -> TrainConfig:
        if self.model.batchnorm and self.batch_size < 2:
            raise ValueError("batch_size=1 has no batch statistics; give at least 2, or model.batchnorm=false")
        return self


class EvalConfig(Section):
    """The configuration of ``eval.py``."""

    run: Label
    data: DataConfig | None = None
    protocol: ProtocolConfig


# --- from Hydra, from disk --------------------------------------------------------------------------------

S = TypeVar("S", bound=Section)


def load_train(cfg: DictConfig) -> TrainConfig:
    """The typed configuration of a training run.

    Raises:
        ConfigError: one line that names the key, its value and what is expected.
    """
    return _load(cfg, TrainConfig)


def load_eval(cfg: DictConfig) -> EvalConfig:
    """The typed configuration of an evaluation; errors as in `load_train`."""
    if OmegaConf.is_missing(cfg, "run"):
        raise ConfigError("run is missing: name the folder of a finished run, as in eval.py run=outputs/DATE/TIME")
    return _load(cfg, EvalConfig)


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as nested dicts of str, int, float, bool, None and list: safe in a checkpoint."""
    return config.model_dump(mode="json")


def write_yaml(config: Section) -> str:
    """The configuration as YAML that `read_yaml` reads back exactly."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def read_yaml(path: Path) -> TrainConfig:
    """The configuration recorded in a run folder's ``config.yaml``.

    Raises:
        ConfigError: the file is missing, no YAML, or does not fit this version's schema.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as a run's configuration ({_one_line(error)})") from None
    try:
        return _validate(plain, TrainConfig)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def composition_error(error: Exception) -> ConfigError:
    """Hydra's multi-line complaint about an override, as one line with the nearest valid key."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key and "not in struct" in str(cause):
        parent = cause.parent_node
        known = [str(key) for key in parent] if isinstance(parent, DictConfig) else []
        return ConfigError(_unknown_key(str(cause.full_key), known))
    text = _one_line(error if cause is None else f"{error} {cause}")
    for ballast in ("Config search path:", "See https://hydra.cc", "full_key:"):
        text = text.partition(ballast)[0].rstrip()
    override = getattr(error, "override", None)
    return ConfigError(text if override is None or override in text else f"override '{override}': {text}")


def _load(cfg: DictConfig, schema: type[S]) -> S:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from None
    return _validate(plain, schema)


def _validate(plain: Any, schema: type[S]) -> S:
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        lines = [_explain(detail, plain, schema) for detail in error.errors(include_url=False)]
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ConfigError(lines[0] + more) from None


def _explain(detail: Any, plain: Any, schema: type[Section]) -> str:
    """One of pydantic's findings as ``key=value: what is wrong``."""
    path, node = [], plain
    for part in detail["loc"]:
        # In the location pydantic names the branch of a union too; only what is in the configuration is a key.
        if isinstance(part, int) or (isinstance(node, dict) and part in node) or part == detail["loc"][-1]:
            path.append(str(part))
            node = node.get(part) if isinstance(node, dict) else None
    key, kind = ".".join(path), detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(key, _known_keys(schema, plain, path[:-1]))
    if kind == "missing":
        return f"{key} is missing"
    if kind == "value_error":
        message = detail["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return f"{key}={detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _known_keys(schema: type[Section], plain: Any, path: list[str]) -> list[str]:
    """The keys that the section at ``path`` may hold."""
    sections = [schema]
    for part in path:
        plain = plain.get(part) if isinstance(plain, dict) else None
        sections = [found for section in sections for found in _sections_of(section.model_fields[part].annotation)]
    named = [
        section
        for section in sections
        if isinstance(plain, dict)
        and "name" in section.model_fields
        and plain.get("name") in getattr(section.model_fields["name"].annotation, "__args__", ())
    ]
    return [key for section in (named or sections) for key in section.model_fields]


def _sections_of(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections_of(part)]


def _unknown_key(key: str, known: list[str]) -> str:
    prefix, _, last = key.rpartition(".")
    near = difflib.get_close_matches(last, known, n=1)
    where = f" of {prefix}" if prefix else ""
    hint = f"; did you mean {prefix + '.' if prefix else ''}{near[0]}?" if near else ""
    return f"unknown key '{key}'{hint}" + (f" (keys{where}: {', '.join(known)})" if known and not near else "")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
