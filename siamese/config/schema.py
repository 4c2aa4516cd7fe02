"""The configuration of ``train.py`` and ``eval.py``: the keys of ``conf/train.yaml`` and ``conf/eval.yaml``.

To add a key, add it to the YAML file that sets its default and to the class that checks it: a key of the group
``conf/GROUP/`` to ``siamese/config/GROUP.py``, any other key to this module. Then run ``python docs/generate.py``.
The YAML files own the defaults, the classes own the meaning: ``--help`` and docs/configuration.md print the
descriptions of the fields, and comments in the YAML files only give units and reasons.

This module checks the values of top-level keys, and combinations of keys of several groups. It imports neither torch
nor Lightning, so that an invalid value is reported within a second.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from siamese.config.augmentation import AugmentationConfig
from siamese.config.backend import BackendConfig
from siamese.config.checkpoint import CheckpointConfig, as_section
from siamese.config.data import DataConfig, OwnData, PairsData
from siamese.config.logger import LoggerConfig
from siamese.config.model import SMALLEST_CROP, ModelConfig
from siamese.config.objective import PAIR_OBJECTIVES, ObjectiveConfig
from siamese.config.optimizer import OptimizerConfig
from siamese.config.protocol import EvalProtocol, PeopleProtocol, TrainProtocol
from siamese.config.sampling import SamplingConfig
from siamese.config.scheduler import SchedulerConfig
from siamese.config.section import Section, UserPath
from siamese.config.shapes import koch_feature_size, lbp_cells, lbp_features
from siamese.config.threshold_rules import RULES, far_of
from siamese.config.trainer import TrainerConfig

PRESETS = {
    "experiment": "recipe that sets several keys and groups; other overrides are applied on top of it",
    "regularization": "shortcut that sets one key; the same key on the command line overrides it",
    "debug": "mode for debugging (docs/debugging.md)",
}
"""Groups without keys of their own: their options set keys of other groups."""

HOW_IT_IS_STARTED = ("resume", "print_config", "data.cache", "data.download")
"""Keys that may differ if a run is resumed."""

GROUPS = (
    "CSV file of groups: a column image or person, and a column for each attribute, such as gender; the error rates of "
    "each group are then reported on the test pairs (docs/protocols.md); null: none"
)

Label = Annotated[str, Field(strict=False, coerce_numbers_to_str=True, min_length=1, max_length=120)]
FolderName = Annotated[UserPath, Field(strict=False, coerce_numbers_to_str=True, min_length=1)]


def _text_of_32(value: object) -> object:
    return "32" if value == 32 and not isinstance(value, bool | float) else value


def _threshold(value: object) -> float | str:
    if isinstance(value, str):
        far_of(value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{value!r} is neither a probability between 0 and 1 nor a rule: {RULES}")
    return float(value)


class TrainConfig(Section):
    """The configuration of one training run."""

    name: Label = Field(description="label of the run in tables and on pages")
    seed: int = Field(ge=0, lt=2**32, description="seed of the initial weights, data order, augmentation and dropout")
    batch_size: int = Field(ge=1, description="pairs per training step, over all processes together")
    learning_rate: float = Field(gt=0, description="initial learning rate; `scheduler` changes it from epoch to epoch")
    weight_decay: float = Field(ge=0, description="weight decay of the optimizer; 0: off")
    start_from: FolderName | None = Field(
        description="folder of a finished run, or latest, whose weights training starts from; null: random weights, or "
        "for model=lbp principal components"
    )
    max_epochs: int = Field(
        ge=0,
        description="largest number of epochs; 0: only calibrate the network of start_from on the new data, or for "
        "model=lbp train no more than its principal components and the back end",
    )
    patience: int = Field(ge=1, description="stop training after this many epochs without a better `monitor`")
    monitor: Literal["val/loss", "val/acc", "val/auc"] = Field(
        description="validation figure that selects the best epoch and stops training early"
    )
    calibration: Literal["auto", "none", "platt", "temperature"] = Field(
        description="how scores become probabilities; none: the scores already are logits; platt, temperature: fitted "
        "to the validation pairs; auto: as none with objective=bce and backend=network, otherwise platt"
    )
    threshold: Annotated[float | str, PlainValidator(_threshold)] = Field(
        description="decision boundary on the probability: a number between 0 and 1, or a rule that chooses it on the "
        "validation pairs: accuracy, eer (equal error rate) or far:RATE (false accept rate, such as far:0.01)"
    )
    flip_average: bool = Field(
        description="average the embeddings of an image and its mirror image when scoring (not during training)"
    )
    crop_average: float = Field(
        ge=0.5, le=1,
        description="also average the embeddings of four crops when scoring; value: crop side as a fraction of the "
        "image side (1: off)",
    )  # fmt: skip
    ema_decay: float = Field(
        ge=0, lt=1,
        description="decay per step of an exponential moving average of the weights; validation and test then use "
        "the average instead of the weights; 0: off",
    )  # fmt: skip
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_text_of_32)] = Field(
        description="number format: float32, mixed precision with bfloat16, or auto: bf16 where this machine is much "
        "faster with it"
    )
    convolution: Literal["auto", "direct", "dft"] = Field(
        description="algorithm for the convolutions of model=koch: direct, dft (discrete Fourier transform), or auto: "
        "the faster of the two"
    )
    checkpoint: Annotated[CheckpointConfig, BeforeValidator(as_section)] = Field(
        description="which checkpoints a run saves, and when; checkpoint=best is short for checkpoint.keep=best"
    )
    groups: FolderName | None = Field(description=GROUPS)
    resume: bool = Field(description="resume the run in the output folder")
    print_config: bool = Field(description="log the whole configuration when the run starts")
    data: DataConfig = Field(description="data set, and how its images are preprocessed")
    model: ModelConfig = Field(description="network that turns an image into an embedding")
    objective: ObjectiveConfig = Field(description="loss that the training minimizes")
    augmentation: AugmentationConfig = Field(description="random changes of the training images")
    backend: BackendConfig = Field(description="how a pair of embeddings is scored after training")
    sampling: SamplingConfig = Field(
        description="which images of a person an epoch uses; only for protocol.setting=unrestricted"
    )
    optimizer: OptimizerConfig = Field(description="how the weights are updated from the gradients")
    scheduler: SchedulerConfig = Field(description="how the learning rate changes from epoch to epoch")
    trainer: TrainerConfig = Field(description="hardware, and options that are passed to Lightning's Trainer")
    logger: LoggerConfig = Field(description="where curves and pictures are shown, apart from the run page")
    protocol: TrainProtocol = Field(description="which pairs are used for training, validation and testing")

    @property
    def unrestricted(self) -> bool:
        """Whether training may use the identities of the people."""
        return self.protocol.setting == "unrestricted"

    @property
    def fitted_calibration(self) -> str:
        """``calibration`` with ``auto`` resolved: only the binary cross-entropy trains probabilities by itself."""
        if self.calibration != "auto":
            return self.calibration
        return "none" if self._scores_are_logits else "platt"

    @property
    def _scores_are_logits(self) -> bool:
        return self.objective.name == "bce" and self.backend.name == "network"

    @model_validator(mode="after")
    def _calibration_gives_probabilities(self) -> TrainConfig:
        if self.calibration in ("none", "temperature") and not self._scores_are_logits:
            raise ValueError(
                f"calibration={self.calibration}: objective={self.objective.name} with backend={self.backend.name} "
                "gives similarities, not logits; give calibration=platt"
            )
        return self

    @model_validator(mode="after")
    def _network_is_trained(self) -> TrainConfig:
        if self.max_epochs == 0 and self.start_from is None:
            if self.model.name != "lbp":
                raise ValueError(
                    "max_epochs=0 trains nothing; give start_from=FOLDER of a finished run, more epochs, or model=lbp"
                )
            if self._scores_are_logits:
                raise ValueError(
                    "max_epochs=0 does not train the head of objective=bce; give backend=plda, or more epochs"
                )
        if self.start_from is not None and getattr(self.model, "weights", None) is not None:
            raise ValueError("start_from and model.weights both give the initial weights; give model.weights=null")
        return self

    @model_validator(mode="after")
    def _protocol_fits_data(self) -> TrainConfig:
        if isinstance(self.data, OwnData) != (self.protocol.name == "holdout"):
            wanted = "holdout" if isinstance(self.data, OwnData) else "view1 or view2"
            raise ValueError(f"protocol={self.protocol.name} is not for data={self.data.name}; give protocol={wanted}")
        if isinstance(self.data, PairsData) and self.unrestricted:
            raise ValueError("data=pairs has no identities to form further pairs; give protocol.setting=restricted")
        return self

    @model_validator(mode="after")
    def _setting_fits_objective(self) -> TrainConfig:
        usual = {"pair_weight": 0, "chain_pairs": True, "negatives": "batch"}
        changed = {key for key, value in usual.items() if getattr(self.objective, key, value) != value}
        if self.unrestricted:
            if changed:
                key = min(changed)
                raise ValueError(
                    f"objective.{key} is for listed pairs, which protocol.setting=unrestricted does not use; "
                    f"give {str(usual[key]).lower()}"
                )
        elif self.objective.name in ("arcface", "cosface"):
            raise ValueError(
                f"objective={self.objective.name} classifies people by identity; give protocol.setting=unrestricted"
            )
        if "negatives" in changed and getattr(self.objective, "views", 1) == 1:
            raise ValueError(
                "objective.negatives=listed gives the images of different pairs nothing to be similar to; give "
                "objective.views=2"
            )
        return self

    @model_validator(mode="after")
    def _convolution_fits_network(self) -> TrainConfig:
        if self.convolution == "dft" and self.model.name != "koch":
            raise ValueError(
                f"convolution=dft is for model=koch, which has large kernels; give auto for {self.model.name}"
            )
        return self

    @model_validator(mode="after")
    def _image_fits_network(self) -> TrainConfig:
        if self.model.name == "koch" and koch_feature_size(self.data.image_size) < 1:
            smallest = next(size for size in range(8, 1024) if koch_feature_size(size) >= 1)
            raise ValueError(
                f"data.image_size={self.data.image_size} is too small for model=koch; give at least {smallest}"
            )
        if self.model.name == "multicrop":
            least = min(self.model.crops)
            if least * self.data.image_size < SMALLEST_CROP:
                raise ValueError(
                    f"model.crops={self.model.crops}: {least} of data.image_size={self.data.image_size} is less than "
                    f"{SMALLEST_CROP} pixels; give larger crops"
                )
        if self.model.name == "lbp":
            scale, radius = min(self.model.scales), max(self.model.radii)
            if lbp_cells(round(scale * self.data.image_size), radius, self.model.cell) < 2:
                raise ValueError(
                    f"model.cell={self.model.cell}: {scale:g} of data.image_size={self.data.image_size} has no room "
                    f"for 2 cells between margins of {math.ceil(radius)} pixels; give a smaller cell, smaller "
                    "radii, or a larger data.image_size"
                )
            features = self.data.channels * lbp_features(
                self.data.image_size, self.model.scales, self.model.radii, self.model.cell
            )
            if features < self.model.embedding_dim:
                raise ValueError(
                    f"model.embedding_dim={self.model.embedding_dim}: the histograms of this model have only "
                    f"{features} features; give at most {features}, or a smaller model.cell"
                )
        return self

    @model_validator(mode="after")
    def _views_differ(self) -> TrainConfig:
        unchanged = not self.augmentation.changes and getattr(self.model, "dropout", 0) == 0
        if unchanged and getattr(self.objective, "views", 1) > 1:
            raise ValueError("objective.views=2 without augmentation uses each image twice; give augmentation=face")
        return self

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> TrainConfig:
        if self.trainer.processes > 1 and self.batch_size < 2 * self.trainer.processes:
            raise ValueError(
                f"batch_size={self.batch_size} is too small for {self.trainer.processes} processes that share each "
                f"batch; give at least {2 * self.trainer.processes}"
            )
        return self

    @model_validator(mode="after")
    def _batch_has_statistics(self) -> TrainConfig:
        if self.batch_size < 2 and self.model.name not in ("koch", "lbp"):
            raise ValueError(f"batch_size=1 has no batch statistics; model={self.model.name} needs at least 2")
        if self.batch_size < 2 and getattr(self.model, "batchnorm", False):
            raise ValueError("batch_size=1 has no batch statistics; give at least 2, or model.batchnorm=false")
        if self.objective.name not in PAIR_OBJECTIVES and self.batch_size < 2:
            raise ValueError(f"batch_size=1: objective={self.objective.name} compares people; give at least 2")
        return self


NULL_AVERAGE = "null: as in the run; otherwise back end, calibration and threshold are fitted again"


class EvalConfig(Section):
    """The configuration of one evaluation. A key that is null leaves the run as it was trained and scored.

    Null is the default here, not only in ``conf/eval.yaml``, because `siamese.runs.finished.find_run` gives no more
    than the run.
    """

    run: FolderName | list[FolderName] = Field(
        examples=["outputs/latest"],
        description="folder of a finished run, or latest; a list of folders: an ensemble of runs",
    )
    data: DataConfig | None = Field(None, description="data set to test on; null: that of the run")
    protocol: EvalProtocol | None = Field(None, description="which pairs are tested; null: those of the run")
    backend: BackendConfig | None = Field(
        None, description="how a pair of embeddings is scored; null: as in the run; any other is fitted before scoring"
    )
    groups: FolderName | None = Field(None, examples=["GROUPS.csv"], description=GROUPS)
    fusion: Literal["mean", "logistic"] = Field(
        "mean", description="weights of the scores of an ensemble: equal (mean), or fitted to the validation pairs by "
        "logistic regression (logistic), for runs of different kinds",
    )  # fmt: skip
    flip_average: bool | None = Field(
        None, description=f"{TrainConfig.model_fields['flip_average'].description}; {NULL_AVERAGE}"
    )
    crop_average: float | None = Field(
        None, ge=0.5, le=1, description=f"{TrainConfig.model_fields['crop_average'].description}; {NULL_AVERAGE}"
    )

    @model_validator(mode="after")
    def _groups_are_of_pairs(self) -> EvalConfig:
        if self.groups is not None and isinstance(self.protocol, PeopleProtocol):
            raise ValueError(
                f"groups: error rates by group are those of pairs, not of protocol={self.protocol.name}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _weights_can_be_fitted(self) -> EvalConfig:
        if self.fusion == "logistic" and (isinstance(self.run, str) or len(self.run) < 2):
            raise ValueError("fusion=logistic weighs several runs; give run=[FOLDER1,FOLDER2], or leave it out")
        if self.fusion == "logistic" and isinstance(self.protocol, PeopleProtocol):
            raise ValueError(f"fusion=logistic is for pairs, not for protocol={self.protocol.name}; leave it out")
        return self

    @property
    def changes_scores(self) -> bool:
        """Whether back end, calibration and threshold must be fitted again."""
        return any(value is not None for value in (self.backend, self.flip_average, self.crop_average))
