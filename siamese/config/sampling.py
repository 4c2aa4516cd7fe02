"""The section ``sampling``: how training pairs are drawn if identities may be used."""

from __future__ import annotations

from pydantic import Field

from siamese.config.section import Section


class SamplingConfig(Section):
    """How many images of each person an epoch uses if identities may be used (``protocol.setting=unrestricted``)."""

    images_per_person: int = Field(
        ge=2, description="images of each person in a batch, for the objectives ntxent, triplet, arcface and cosface"
    )
    max_images: int = Field(
        ge=2, description="largest number of images of a person in an epoch; every epoch draws them again"
    )
    min_images: int = Field(
        ge=1, description="smallest number of images of a person; training excludes people with fewer"
    )
