"""The keys of ``conf/model/``: the network that turns an image into an embedding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from siamese.config.section import Section

SMALLEST_CROP = 8
"""Smallest side, in pixels, of a crop that a network of ``model=multicrop`` may get."""

Positive = Annotated[int, Field(ge=1)]


class KochModel(Section):
    """The network of Koch, Zemel and Salakhutdinov (2015), with the options of the course report."""

    name: Literal["koch"] = Field(description="the network")
    batchnorm: bool = Field(description="batch normalization before each ReLU, and after the embedding layer")
    dropout: float = Field(ge=0, lt=1, description="dropout probability after each convolution block; 0: off")
    widths: list[Positive] = Field(min_length=4, max_length=4, description="channels of the four convolutions")
    embedding_dim: int = Field(ge=1, description="length of the embedding")
    init: Literal["torch", "koch"] = Field(
        description="initial weights: PyTorch's defaults, or the normal distributions of the paper (section 3.2)"
    )


class ResidualModel(Section):
    """What the residual networks share."""

    widths: list[Positive] = Field(
        min_length=1, max_length=6, description="channels of each stage; each stage halves the image"
    )
    blocks: list[Positive] = Field(min_length=1, max_length=6, description="residual blocks of each stage")
    pooling: Literal["average", "flatten"] = Field(
        description="how the last feature map becomes a vector: mean over its positions (average), or all positions "
        "(flatten)"
    )
    stem: Literal["pool", "conv"] = Field(
        description="first step that halves the image: max pooling (pool), or the stride of the first block (conv, "
        "slower)"
    )
    dropout: float = Field(ge=0, lt=1, description="dropout probability before the embedding layer; 0: off")
    embedding_dim: int = Field(ge=1, description="length of the embedding; model=multicrop: of each network")

    @model_validator(mode="after")
    def _stages_agree(self) -> ResidualModel:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths={self.widths} and blocks={self.blocks} must have the same length")
        return self


class ResnetModel(ResidualModel):
    """A small residual network (He et al. 2016)."""

    name: Literal["resnet"] = Field(description="the network")


class MulticropModel(ResidualModel):
    """Several residual networks, each with its own central crop of the image. Their embeddings are concatenated."""

    name: Literal["multicrop"] = Field(description="the network")
    crops: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1, max_length=16, description="crop side of each network, as a fraction of the image side"
    )
    crop_size: int = Field(ge=8, le=1024, description="side to which each crop is resized, in pixels")


class TorchvisionModel(Section):
    """A classification network of torchvision whose classifier is replaced by an embedding layer."""

    name: Literal["torchvision"] = Field(description="the network")
    backbone: Literal["resnet18", "resnet34", "resnet50", "mobilenet_v3_small", "mobilenet_v3_large"] = Field(
        description="name of the network in torchvision"
    )
    weights: Literal["imagenet"] | None = Field(
        description="imagenet: pretrained weights, downloaded at first use, which set outside_data in result.json; "
        "null: random weights"
    )
    dropout: float = Field(ge=0, lt=1, description="dropout probability before the embedding layer; 0: off")
    embedding_dim: int = Field(ge=1, description="length of the embedding")


class LbpModel(Section):
    """Histograms of local binary patterns, and a linear layer that starts as their principal components."""

    name: Literal["lbp"] = Field(description="the network")
    scales: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        min_length=1, max_length=16,
        description="sides to which the image is resized, each as a fraction of the image side",
    )  # fmt: skip
    radii: list[Annotated[float, Field(ge=1, le=16)]] = Field(
        min_length=1, max_length=16, description="radii of the patterns, in pixels of the resized image"
    )
    cell: int = Field(ge=2, le=1024, description="side of a cell, in pixels; a histogram is over 2 x 2 cells")
    embedding_dim: int = Field(
        ge=1, description="length of the embedding: the number of principal components, at most the number of training "
        "images minus 1",
    )  # fmt: skip


ModelConfig = Annotated[
    KochModel | ResnetModel | MulticropModel | TorchvisionModel | LbpModel, Field(discriminator="name")
]
