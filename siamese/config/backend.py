"""The keys of ``conf/backend/``: how two embeddings are scored after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from siamese.config.section import Section


class BackendConfig(Section):
    """How a pair of embeddings is scored after training."""

    name: Literal["network", "l1", "lda", "plda"] = Field(
        description="the network's own output, or a model that is fitted to the training images' embeddings"
    )
    shrinkage: float = Field(
        gt=0, le=1, description="l1: weight of the L2 penalty; lda, plda: shrinkage of the within-person covariance"
    )
    within: float = Field(
        gt=0, description="lda, plda: factor on the within-person covariance; use more than 1 if the embeddings of a "
        "training person vary less than those of a new person",
    )  # fmt: skip
    cohort: int = Field(
        ge=0, description="lda, plda: adaptive s-norm: score both images of a pair against training images, and "
        "normalize the pair's score by the mean and standard deviation of this many highest scores; 0: off",
    )  # fmt: skip

    @model_validator(mode="after")
    def _cohort_is_possible(self) -> BackendConfig:
        if self.cohort and self.name not in ("lda", "plda"):
            raise ValueError(f"cohort={self.cohort} is for backend=lda and backend=plda, not for {self.name}; give 0")
        if self.cohort == 1:
            raise ValueError("cohort=1: a single score has no spread; give 2 or more (100 is usual), or 0 for none")
        return self
