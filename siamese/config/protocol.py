"""The keys of ``conf/protocol/``: which pairs are for training, validation and test."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from siamese.config.section import Section

Setting = Literal["restricted", "unrestricted"]
SETTING = (
    "which information training may use: the listed pairs and their labels only (restricted), or also the identities "
    "of the people, to form further pairs (unrestricted)"
)


class View1Protocol(Section):
    """LFW's development split: training and validation pairs from pairsDevTrain, test pairs from pairsDevTest."""

    name: Literal["view1"] = Field(description="the protocol")
    setting: Setting = Field(description=SETTING)


class View2Protocol(Section):
    """LFW's ten folds: one network per fold, trained on the other nine."""

    name: Literal["view2"] = Field(description="the protocol")
    setting: Setting = Field(description=SETTING)
    fold: int | None = Field(ge=1, description="train and test a single fold, counted from 1; null: all ten")


class HoldoutProtocol(Section):
    """Test on your own photos: pairs of people who are not in the training set."""

    name: Literal["holdout"] = Field(description="the protocol")
    setting: Setting = Field(description=SETTING)


class OneShotProtocol(Section):
    """N-way one-shot identification of the test people (``eval.py`` only)."""

    name: Literal["oneshot"] = Field(description="the protocol")
    ways: list[Annotated[int, Field(ge=2)]] = Field(
        min_length=1, description="numbers of people N to choose from in a trial"
    )
    trials: int = Field(ge=1, description="number of trials for each N")
    seed: int = Field(ge=0, description="seed of the trials")
    within: str | None = Field(
        min_length=1,
        description="draw all people of a trial from one group: those whose names agree before the last occurrence of "
        "this text, for example _ for ALPHABET_CHARACTER; null: from all people",
    )


class IdentificationProtocol(Section):
    """Closed-set and open-set identification of the test people in galleries (``eval.py`` only)."""

    name: Literal["identification"] = Field(description="the protocol")
    strangers: float = Field(
        ge=0, lt=1, description="share of the people who are not in the gallery of the open set; 0: closed set only"
    )
    draws: int = Field(ge=1, le=1000, description="number of random galleries of the test people")
    seed: int = Field(ge=0, description="seed of the galleries")


PeopleProtocol = OneShotProtocol | IdentificationProtocol
"""Protocols that test whom an image shows, instead of pairs."""

OF_PEOPLE = ("oneshot", "identification")
"""The names of `PeopleProtocol`."""

TrainProtocol = Annotated[View1Protocol | View2Protocol | HoldoutProtocol, Field(discriminator="name")]
EvalProtocol = Annotated[
    View1Protocol | View2Protocol | HoldoutProtocol | PeopleProtocol,
    Field(discriminator="name"),
]
