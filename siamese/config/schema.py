"""The typed schema of the whole configuration, and every check on its values.

The only module that knows OmegaConf: `load_train` and `load_eval` turn what Hydra composed into frozen, typed
objects, and everything after works on those. It imports neither torch nor Lightning, so that a bad value is
told in a second.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from siamese.config.shapes import koch_feature_size
from siamese.config.threshold_rules import RULES, far_of

SMALLEST_CROP = 8
"""Pixels of the side that a network of ``model=multicrop`` must see at least."""

DOWNLOADED_ROOT = "data/lfw"
"""The default of ``data.root``, and the only folder that is made when it is missing."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, types are strict, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- data -------------------------------------------------------------------------------------------------


def _number_or_share(least: int, what: str, example: str) -> PlainValidator:
    """Of a value that is a whole number from ``least`` on, a share in (0, 1] written with a point, or null."""

    def check(value: object) -> object:
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if value is None or is_number or (isinstance(value, float) and 0 < value <= 1):
            return value
        raise ValueError(
            f"{value!r} is neither a number of {what}, {least} or more, nor a share such as {example} or 1.0"
        )

    return PlainValidator(check)


Crop = Annotated[int | float | None, _number_or_share(8, "pixels", "0.6")]


class ImageOptions(Section):
    """How an image file becomes an array, and where the arrays are kept."""

    image_size: int = Field(105, ge=8, le=1024, description="side of the square network input, pixels")
    color: bool = Field(False, description="RGB instead of grey")
    crop: Crop = Field(
        None, description="side of the central square kept before resizing: pixels, or a share of the shorter side"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    cache: str = Field("data/cache", min_length=1, description="folder of the decoded images")
    split: Literal["pairs", "people"] = Field("pairs", description="what training and validation do not share")
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


class OwnData(ImageOptions):
    """What data sets of one's own share."""

    crop: Crop = 1.0
    split: Literal["pairs", "people"] = "people"
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share kept for the test: of people, of a list's pairs")


class FolderData(OwnData):
    """A folder of photos for each person; pairs are formed, and people parted, by ``split_seed``."""

    name: Literal["folder"]
    root: str = Field(min_length=1, description="folder that holds a folder for each person")
    train_pairs: int = Field(2000, ge=2, multiple_of=2, description="at most, half of one person; setting restricted")
    val_pairs: int = Field(500, ge=2, multiple_of=2, description="at most, half of them of one person")
    test_pairs: int = Field(1000, ge=2, multiple_of=2, description="at most, half of them of one person")

    @model_validator(mode="after")
    def _people_are_parted(self) -> FolderData:
        if self.split != "people":
            raise ValueError(f"split={self.split}: data=folder keeps people apart; leave it out")
        return self


class PairsData(OwnData):
    """A CSV file of pairs: image1, image2, label, and perhaps split."""

    name: Literal["pairs"]
    list: str = Field(min_length=1, description="the CSV file")
    root: str | None = Field(None, min_length=1, description="folder of the images; null: that of the list")


DataConfig = Annotated[LfwData | SyntheticData | FolderData | PairsData, Field(discriminator="name")]


# --- model, objective, optimisation -----------------------------------------------------------------------


class KochModel(Section):
    """Koch, Zemel and Salakhutdinov (2015) with the report's options."""

    name: Literal["koch"]
    batchnorm: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    widths: list[Annotated[int, Field(ge=1)]] = Field([64, 128, 128, 256], min_length=4, max_length=4)
    embedding_dim: int = Field(4096, ge=1)
    init: Literal["torch", "koch"] = "torch"


class ResidualModel(Section):
    """What all models of residual networks share."""

    widths: list[Annotated[int, Field(ge=1)]] = Field([32, 64, 128, 256], min_length=1, max_length=6)
    blocks: list[Annotated[int, Field(ge=1)]] = Field([1, 1, 1, 1], min_length=1, max_length=6)
    pooling: Literal["average", "flatten"] = "flatten"
    # Not the default of conf/: that of runs which were recorded before there was a choice.
    stem: Literal["pool", "conv"] = Field("conv", description="how the image is first halved")
    dropout: float = Field(0.0, ge=0, lt=1)
    embedding_dim: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _stages_agree(self) -> ResidualModel:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths={self.widths} and blocks={self.blocks} must have as many stages")
        return self


class ResnetModel(ResidualModel):
    """A small residual network (He et al. 2016)."""

    name: Literal["resnet"]


class MulticropModel(ResidualModel):
    """Several residual networks, each on its own central crop of the image; ``embedding_dim`` is that of each."""

    name: Literal["multicrop"]
    crops: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [1.0, 0.8, 0.63], min_length=1, max_length=16, description="share of the image's side, one for each network"
    )
    crop_size: int = Field(64, ge=8, le=1024, description="side to which each crop is resized, pixels")


class TorchvisionModel(Section):
    """A classification network of torchvision with a linear layer in place of its classifier."""

    name: Literal["torchvision"]
    backbone: Literal["resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large"] = "resnet18"
    weights: Literal["imagenet"] | None = Field(None, description="imagenet counts as outside data")
    dropout: float = Field(0.0, ge=0, lt=1)
    embedding_dim: int = Field(256, ge=1)


ModelConfig = Annotated[KochModel | ResnetModel | MulticropModel | TorchvisionModel, Field(discriminator="name")]


class BceObjective(Section):
    """Binary cross-entropy on the logit of a pair."""

    name: Literal["bce"]


class ContrastiveObjective(Section):
    """Hadsell, Chopra and LeCun (2006), on labelled pairs."""

    name: Literal["contrastive"]
    distance: Literal["cosine", "euclidean"] = "cosine"
    margin: float = Field(0.5, gt=0, description="distance from which a pair of different people costs nothing")


class GroupObjective(Section):
    """What all objectives on batches of many people share."""

    views: Literal[1, 2] = Field(1, description="augmentations of each image in a batch")


class NtxentObjective(GroupObjective):
    """Normalized temperature-scaled cross-entropy over all pairs of a batch (Chen et al. 2020; Khosla et al. 2020)."""

    name: Literal["ntxent"]
    temperature: float = Field(0.1, gt=0)
    pair_weight: float = Field(0.0, ge=0, description="weight of the cross-entropy of the listed pairs beside it")


class TripletObjective(GroupObjective):
    """Schroff, Kalenichenko and Philbin (2015)."""

    name: Literal["triplet"]
    distance: Literal["cosine", "euclidean"] = "euclidean"
    margin: float = Field(0.2, gt=0)
    mining: Literal["all", "semihard", "hard"] = "semihard"


class AngularMarginObjective(GroupObjective):
    """ArcFace (Deng et al. 2019) or CosFace (Wang et al. 2018): classification of the training people."""

    name: Literal["arcface", "cosface"]
    margin: float = Field(gt=0, description="an angle in radians (arcface), a cosine (cosface)")
    scale: float = Field(32.0, gt=0)

    @model_validator(mode="after")
    def _margin_can_be_kept(self) -> AngularMarginObjective:
        most, unit = (math.pi / 2, "a right angle, 1.57") if self.name == "arcface" else (1.0, "1")
        if self.margin >= most:
            raise ValueError(f"margin={self.margin} must be less than {unit}")
        return self


ObjectiveConfig = Annotated[
    BceObjective | ContrastiveObjective | NtxentObjective | TripletObjective | AngularMarginObjective,
    Field(discriminator="name"),
]


PAIR_OBJECTIVES = ("bce", "contrastive")
"""Those on labelled pairs; the others are on groups of images, one for each person."""


class AugmentationConfig(Section):
    """Random changes of training images, each image its own; all off by default."""

    flip: bool = Field(False, description="mirror every second image")
    rotation: float = Field(0.0, ge=0, le=180, description="most, degrees")
    shear: float = Field(0.0, ge=0, lt=1, description="most, as the tangent of the angle")
    scale: float = Field(1.0, ge=1, le=4, description="most; the least is 1 / scale")
    translation: float = Field(0.0, ge=0, lt=1, description="most, as a share of the side")
    brightness: float = Field(0.0, ge=0, lt=1, description="most that is added, white being 1")
    contrast: float = Field(0.0, ge=0, lt=1, description="most that distances from the mean change by, as a share")
    erase: float = Field(0.0, ge=0, le=1, description="probability that a rectangle is blanked")
    erase_size: float = Field(0.4, gt=0, lt=1, description="largest side of that rectangle, as a share of the image's")

    @property
    def changes(self) -> bool:
        """Whether anything is switched on."""
        return self != AugmentationConfig(erase_size=self.erase_size)


class BackendConfig(Section):
    """What scores a pair of embeddings of the finished network."""

    name: Literal["network", "l1", "lda", "plda"]
    shrinkage: float = Field(0.1, gt=0, le=1)
    within: float = Field(1.0, gt=0, description="factor on the covariance within people; lda, plda")
    cohort: int = Field(
        0, ge=0,
        description="scores relative to those with this many of the most similar photos of other training people "
        "(adaptive s-norm); 0: as they are; lda, plda",
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_scores_to_compare(self) -> BackendConfig:
        if self.cohort and self.name not in ("lda", "plda"):
            raise ValueError(f"cohort={self.cohort}: is for backend=lda and backend=plda, not for {self.name}; give 0")
        if self.cohort == 1:
            raise ValueError("cohort=1: one score has no spread; give 2 or more (100 is usual), or 0 for none")
        return self


class SamplingConfig(Section):
    """What an epoch shows of each person where names may be used."""

    images_per_person: int = Field(2, ge=2, description="images of a person in a batch of an objective on groups")
    max_images: int = Field(20, ge=2, description="most images of a person in an epoch, drawn anew in each")
    min_images: int = Field(1, ge=1, description="people with fewer images are left out")


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
    """Half a cosine from the learning rate to ``final_fraction`` of it over ``max_epochs``, times a linear warm-up."""

    name: Literal["cosine"]
    final_fraction: float = Field(0.0, ge=0, le=1)
    warmup_epochs: int = Field(0, ge=0, description="epochs in which the learning rate grows, from a part of it on")


class ConstantScheduler(Section):
    """The learning rate as given."""

    name: Literal["constant"]


SchedulerConfig = Annotated[StepScheduler | CosineScheduler | ConstantScheduler, Field(discriminator="name")]


# --- where and how it runs --------------------------------------------------------------------------------


def _duration(value: str | None) -> str | None:
    if value is None or (re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", value) and value != "00:00:00:00"):
        return value
    raise ValueError(f"{value!r} is no time such as 00:01:30:00 (DD:HH:MM:SS)")


class TrainerConfig(Section):
    """What is handed to Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1, description="processes on a machine that train together, each with a GPU of its own")
    nodes: int = Field(1, ge=1, description="machines; more than one are started by torchrun or SLURM")
    deterministic: bool = Field(True, description="only algorithms that give the same bits every time")
    gradient_clip_val: float | None = Field(None, gt=0)
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    limit_train_batches: Annotated[int | float | None, _number_or_share(1, "batches", "0.1")] = Field(
        None, description="batches of an epoch: a number, or a share of them; null: all"
    )
    overfit_batches: int | None = Field(None, ge=1, description="an epoch shows these alone, again and again")
    max_time: Annotated[str | None, AfterValidator(_duration)] = Field(None, description="stop after DD:HH:MM:SS")
    detect_anomaly: bool = Field(False, description="name the operation that gives the first NaN; slow")
    profiler: Literal["simple", "pytorch"] | None = Field(None, description="where the time goes, into profile/")
    progress_bar: bool | None = Field(None, description="null: when the output is a terminal")

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.devices * self.nodes


class FileLogger(Section):
    """Curves in the run folder, besides history.csv."""

    name: Literal["tensorboard", "csv"]
    projector: bool = Field(False, description="the test images' embeddings, with thumbnails, for TensorBoard")

    @model_validator(mode="after")
    def _projector_is_tensorboards(self) -> FileLogger:
        if self.projector and self.name != "tensorboard":
            raise ValueError("projector=true needs logger=tensorboard")
        return self


class MlflowLogger(Section):
    """MLflow."""

    name: Literal["mlflow"]
    project: str = Field("siamese", min_length=1, description="the experiment")
    uri: str | None = Field(None, min_length=1, description="of the server; null: as it is set, or a file")


class WandbLogger(Section):
    """Weights & Biases."""

    name: Literal["wandb"]
    project: str = Field("siamese", min_length=1, description="the project")
    offline: bool = Field(True, description="keep what is for it in the run folder, instead of sending it")


LoggerConfig = Annotated[FileLogger | MlflowLogger | WandbLogger, Field(discriminator="name")]


def _every(value: object) -> str | int:
    if value == "epoch" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{value!r} is neither epoch nor a number of steps, 1 or more")


def _keep(value: object) -> object:
    return {"keep": value} if isinstance(value, str) else value


class CheckpointConfig(Section):
    """What is written of a network, and when."""

    keep: Literal["best", "all", "none"] = Field("best", description="of a finished run; none writes nothing at all")
    every: Annotated[Literal["epoch"] | int, PlainValidator(_every)] = Field(
        "epoch", description="last.ckpt: at ends of epochs, half a minute apart at least; or every so many steps"
    )

    @model_validator(mode="after")
    def _something_is_written(self) -> CheckpointConfig:
        if self.keep == "none" and self.every != "epoch":
            raise ValueError(f"every={self.every} with keep=none: nothing is written; leave one of them out")
        return self


Setting = Literal["restricted", "unrestricted"]
"""Whether only the listed pairs and their labels may be used, or names may form further ones."""


class View1Protocol(Section):
    """LFW's development split."""

    name: Literal["view1"]
    setting: Setting = "restricted"


class View2Protocol(Section):
    """LFW's ten folds: a network for each, trained on the others."""

    name: Literal["view2"]
    setting: Setting = "restricted"
    fold: int | None = Field(None, ge=1, description="this fold alone, counted from 1; null: all")


class HoldoutProtocol(Section):
    """The test of one's own data: pairs of people kept apart."""

    name: Literal["holdout"]
    setting: Setting = "restricted"


class OneShotProtocol(Section):
    """N-way one-shot identification of the test people."""

    name: Literal["oneshot"]
    ways: list[Annotated[int, Field(ge=2)]] = Field([2, 5, 10, 20], min_length=1)
    trials: int = Field(1000, ge=1)
    seed: int = Field(0, ge=0)


TrainProtocol = Annotated[View1Protocol | View2Protocol | HoldoutProtocol, Field(discriminator="name")]
EvalProtocol = Annotated[View1Protocol | View2Protocol | HoldoutProtocol | OneShotProtocol, Field(discriminator="name")]


Label = Annotated[str, Field(strict=False, coerce_numbers_to_str=True, min_length=1, max_length=120)]


def _text_of_32(value: object) -> object:
    return "32" if value == 32 and not isinstance(value, bool | float) else value


def _threshold(value: object) -> float | str:
    if isinstance(value, str):
        far_of(value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{value!r} is neither a probability between 0 and 1 nor a rule: {RULES}")
    return float(value)


HOW_IT_IS_STARTED = ("resume", "print_config")
"""Keys that may differ when a run goes on."""


class TrainConfig(Section):
    """The configuration of one training run; the keys are those of ``conf/train.yaml``."""

    name: Label
    seed: int = Field(ge=0, lt=2**32)
    batch_size: int = Field(ge=1, description="pairs in a step")
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    max_epochs: int = Field(ge=1)
    patience: int = Field(ge=1, description="epochs without a better monitor before training stops")
    monitor: Literal["val/loss", "val/acc", "val/auc"] = "val/loss"
    calibration: Literal["auto", "none", "platt", "temperature"] = "auto"
    threshold: Annotated[float | str, PlainValidator(_threshold)] = 0.5
    flip_average: bool = Field(False, description="embed each image and its mirror image, and score the mean")
    crop_average: float = Field(1.0, ge=0.5, le=1, description="so also four windows of this share; 1: none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="of the average of the weights that is scored; 0: none")
    precision: Annotated[Literal["auto", "32", "bf16"], BeforeValidator(_text_of_32)] = "auto"
    convolution: Literal["auto", "direct", "dft"] = "auto"
    checkpoint: Annotated[CheckpointConfig, BeforeValidator(_keep)] = CheckpointConfig()
    resume: bool = False
    print_config: bool = False
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig
    augmentation: AugmentationConfig = AugmentationConfig()
    backend: BackendConfig = BackendConfig(name="network")
    sampling: SamplingConfig = SamplingConfig()
    optimizer: OptimizerConfig
    scheduler: SchedulerConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    protocol: TrainProtocol

    @property
    def unrestricted(self) -> bool:
        """Whether names may be used in training."""
        return self.protocol.setting == "unrestricted"

    @property
    def fitted_calibration(self) -> str:
        """``calibration`` with ``auto`` filled in: only the binary cross-entropy trains probabilities by itself."""
        if self.calibration != "auto":
            return self.calibration
        return "none" if self._scores_are_logits else "platt"

    @property
    def _scores_are_logits(self) -> bool:
        return self.objective.name == "bce" and self.backend.name == "network"

    @model_validator(mode="after")
    def _scores_become_probabilities(self) -> TrainConfig:
        if self.calibration in ("none", "temperature") and not self._scores_are_logits:
            raise ValueError(
                f"calibration={self.calibration}: objective={self.objective.name} with backend={self.backend.name} "
                "gives similarities, not logits; give calibration=platt"
            )
        return self

    @model_validator(mode="after")
    def _protocol_is_the_datas(self) -> TrainConfig:
        if isinstance(self.data, OwnData) != (self.protocol.name == "holdout"):
            wanted = "holdout" if isinstance(self.data, OwnData) else "view1 or view2"
            raise ValueError(f"protocol={self.protocol.name} is not for data={self.data.name}; give protocol={wanted}")
        if isinstance(self.data, PairsData) and self.unrestricted:
            raise ValueError(
                "data=pairs tells no names that could form further pairs; give protocol.setting=restricted"
            )
        return self

    @model_validator(mode="after")
    def _names_are_allowed(self) -> TrainConfig:
        if self.unrestricted:
            if getattr(self.objective, "pair_weight", 0):
                raise ValueError(
                    "objective.pair_weight is for listed pairs, which protocol.setting=unrestricted leaves"
                )
        elif self.objective.name in ("arcface", "cosface"):
            raise ValueError(
                f"objective={self.objective.name} classifies people by name; give protocol.setting=unrestricted"
            )
        return self

    @model_validator(mode="after")
    def _convolution_is_the_networks(self) -> TrainConfig:
        if self.convolution == "dft" and self.model.name != "koch":
            raise ValueError(
                f"convolution=dft is for model=koch, whose kernels are large; give auto for {self.model.name}"
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
                    f"{SMALLEST_CROP} pixels; give larger ones"
                )
        return self

    @model_validator(mode="after")
    def _views_differ(self) -> TrainConfig:
        unchanged = not self.augmentation.changes and self.model.dropout == 0
        if unchanged and getattr(self.objective, "views", 1) > 1:
            raise ValueError("objective.views=2 without augmentation shows each image twice; give augmentation=face")
        return self

    @model_validator(mode="after")
    def _each_process_has_a_share(self) -> TrainConfig:
        if self.trainer.processes > 1 and self.batch_size < 2 * self.trainer.processes:
            raise ValueError(
                f"batch_size={self.batch_size}: {self.trainer.processes} processes take a share each; give at least "
                f"{2 * self.trainer.processes}"
            )
        return self

    @model_validator(mode="after")
    def _batch_has_statistics(self) -> TrainConfig:
        if self.batch_size < 2 and self.model.name != "koch":
            raise ValueError(f"batch_size=1 has no batch statistics; model={self.model.name} needs at least 2")
        if self.batch_size < 2 and getattr(self.model, "batchnorm", False):
            raise ValueError("batch_size=1 has no batch statistics; give at least 2, or model.batchnorm=false")
        if self.objective.name not in PAIR_OBJECTIVES and self.batch_size < 2:
            raise ValueError(f"batch_size=1: objective={self.objective.name} compares people; give at least 2")
        return self


class EvalConfig(Section):
    """The configuration of ``eval.py``."""

    run: Label | list[Label]
    data: DataConfig | None = None
    protocol: EvalProtocol | None = None
    backend: BackendConfig | None = None
    flip_average: bool | None = None
    crop_average: float | None = Field(None, ge=0.5, le=1)

    @property
    def changes_scores(self) -> bool:
        """Whether back end, calibration and threshold must be fitted again."""
        return any(value is not None for value in (self.backend, self.flip_average, self.crop_average))


class DataSection(Section):
    """A data set without a run."""

    data: DataConfig


# --- from Hydra, from disk --------------------------------------------------------------------------------


def to_plain(config: Section) -> dict[str, Any]:
    """The configuration as nested dicts of str, int, float, bool, None and list: safe in a checkpoint."""
    return config.model_dump(mode="json")
