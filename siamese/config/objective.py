"""The keys of ``conf/objective/``: the training loss."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from siamese.config.section import Section


class BceObjective(Section):
    """Binary cross-entropy on the logit of a pair."""

    name: Literal["bce"] = Field(description="the loss")


class ContrastiveObjective(Section):
    """Contrastive loss on labelled pairs (Hadsell, Chopra and LeCun 2006)."""

    name: Literal["contrastive"] = Field(description="the loss")
    distance: Literal["cosine", "euclidean"] = Field(description="distance of two embeddings, scaled to length 1")
    margin: float = Field(gt=0, description="distance from which a different pair no longer contributes to the loss")


class GroupObjective(Section):
    """What the objectives on batches of many people share."""

    views: Literal[1, 2] = Field(
        description="number of augmented copies of each image in a batch; with 2, both count as images of the person"
    )


class NtxentObjective(GroupObjective):
    """Normalized temperature-scaled cross-entropy over all pairs of a batch (Chen et al. 2020; Khosla et al. 2020)."""

    name: Literal["ntxent"] = Field(description="the loss")
    temperature: float = Field(gt=0, description="divisor of the cosine similarities")
    chain_pairs: bool = Field(
        description="restricted setting: images connected by a chain of same pairs count as one person; false: only "
        "the two images of a pair do"
    )
    negatives: Literal["batch", "listed"] = Field(
        description="images that count as other people: all others of the batch; or, in the restricted setting, only "
        "those of listed different pairs (needs views=2)"
    )
    pair_weight: float = Field(
        ge=0, description="weight of an additional binary cross-entropy on listed pairs (restricted setting); 0: off"
    )


class TripletObjective(GroupObjective):
    """Triplet loss (Schroff, Kalenichenko and Philbin 2015)."""

    name: Literal["triplet"] = Field(description="the loss")
    distance: Literal["cosine", "euclidean"] = Field(description="distance of two embeddings, scaled to length 1")
    margin: float = Field(gt=0, description="distance by which a negative should be farther away than a positive")
    mining: Literal["all", "semihard", "hard"] = Field(
        description="negatives used: those within the margin (all); of these, only those farther away than the "
        "positive (semihard); or only those nearer than the positive (hard)"
    )


class AngularMarginObjective(GroupObjective):
    """Classification of the training people with a margin: ArcFace (Deng et al. 2019), CosFace (Wang et al. 2018)."""

    name: Literal["arcface", "cosface"] = Field(description="the loss")
    margin: float = Field(gt=0, description="margin: an angle in radians (arcface) or a cosine (cosface)")
    scale: float = Field(gt=0, description="factor on the cosines before the softmax")

    @model_validator(mode="after")
    def _margin_is_possible(self) -> AngularMarginObjective:
        most, unit = (math.pi / 2, "a right angle, 1.57") if self.name == "arcface" else (1.0, "1")
        if self.margin >= most:
            raise ValueError(f"margin={self.margin} must be less than {unit}")
        return self


ObjectiveConfig = Annotated[
    BceObjective | ContrastiveObjective | NtxentObjective | TripletObjective | AngularMarginObjective,
    Field(discriminator="name"),
]

PAIR_OBJECTIVES = ("bce", "contrastive")
"""Objectives on labelled pairs. The others are on groups of images, one group per person."""
