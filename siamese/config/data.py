"""The keys of ``conf/data/``: which images and pairs there are, and how images are preprocessed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from siamese.config.section import Section, UserPath, number_or_fraction

DOWNLOADED_ROOT = "data/lfw"
"""The default of ``data.root`` for LFW, and the only missing folder that is created."""

Crop = Annotated[int | float | None, number_or_fraction(8, "pixels", "0.6")]


class ImageOptions(Section):
    """How an image file becomes an array, where arrays are cached, and how validation pairs are chosen."""

    image_size: int = Field(ge=8, le=1024, description="side of the square network input, in pixels")
    color: bool = Field(description="load images in color (RGB) instead of gray")
    align: Literal["eyes"] | None = Field(
        description="eyes: find the largest face, and turn and scale the photo so that its eyes lie where LFW's lie, "
        "before the crop (extra `faces`); null: use the photo as it is"
    )
    crop: Crop = Field(
        description="side of the central square that is cut out before resizing: a whole number of pixels, or a "
        "fraction of the shorter side (1.0: the largest square); null: no crop, the whole image is resized"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(description="method for resizing")
    cache: UserPath = Field(min_length=1, description="folder of the cache of decoded images")
    split: Literal["pairs", "people"] = Field(
        description="how validation is kept apart: by pairs (a person may be in both training and validation), or by "
        "people (no person is in both)"
    )
    val_fraction: float = Field(
        gt=0, lt=1, description="fraction of the training pairs (data=folder: of the people) used for validation"
    )
    split_seed: int = Field(ge=0, description="seed of the split into training and validation, independent of `seed`")

    @property
    def channels(self) -> int:
        """Channels of an image: 1 (gray) or 3 (RGB)."""
        return 3 if self.color else 1


class LfwData(ImageOptions):
    """Labeled Faces in the Wild, in the layout of the official archives."""

    name: Literal["lfw", "lfw_funneled", "lfw_deepfunneled", "lfw_a"] = Field(description="version of the images")
    root: UserPath = Field(
        min_length=1, description="folder that holds the image folder and the lists of pairs and people"
    )
    download: bool = Field(description="download missing files; the images of lfw_a must be placed by hand")


class SyntheticData(ImageOptions):
    """Synthetic faces, rendered at first use and written to ``root`` in LFW's layout."""

    name: Literal["synthetic"] = Field(description="the data set")
    root: UserPath = Field(min_length=1, description="folder to write the data set to, or to read it from")
    seed: int = Field(ge=0, description="seed of the people and images")
    train_people: int = Field(ge=2, description="number of training people")
    test_people: int = Field(ge=2, description="number of test people")
    train_pairs: int = Field(
        ge=10, multiple_of=2, description="number of pairs for training and validation; half of them are same pairs"
    )
    test_pairs: int = Field(ge=2, multiple_of=2, description="number of test pairs; half of them are same pairs")
    view2_pairs: int = Field(ge=20, multiple_of=20, description="number of pairs of View 2, over its ten folds")


class OwnData(ImageOptions):
    """What ``data=folder`` and ``data=pairs`` share: the user's own photos."""

    test_fraction: float = Field(
        gt=0, lt=1, description="fraction of the people (data=pairs: of the pairs) used for testing"
    )


class FolderData(OwnData):
    """One folder of photos per person. ``split_seed`` seeds the assignment of people to sets and the draw of pairs."""

    name: Literal["folder"] = Field(description="the data set")
    root: UserPath = Field(min_length=1, examples=["PHOTOS"], description="folder that holds one folder per person")
    train_pairs: int = Field(
        ge=2, multiple_of=2,
        description="largest number of training pairs if protocol.setting=restricted; half of them are same pairs",
    )  # fmt: skip
    val_pairs: int = Field(ge=2, multiple_of=2, description="largest number of validation pairs; half are same pairs")
    test_pairs: int = Field(ge=2, multiple_of=2, description="largest number of test pairs; half are same pairs")

    @model_validator(mode="after")
    def _people_are_split(self) -> FolderData:
        if self.split != "people":
            raise ValueError(f"split={self.split}: data=folder always splits people; leave the key out")
        return self


class PairsData(OwnData):
    """A CSV file of pairs with the columns image1, image2, label and, optionally, split."""

    name: Literal["pairs"] = Field(description="the data set")
    list: UserPath = Field(min_length=1, examples=["PAIRS.csv"], description="path of the CSV file")
    root: UserPath | None = Field(
        min_length=1, description="folder that image names are relative to; null: the folder of the CSV file"
    )


DataConfig = Annotated[LfwData | SyntheticData | FolderData | PairsData, Field(discriminator="name")]


class DataSection(Section):
    """A data set without a run."""

    data: DataConfig
