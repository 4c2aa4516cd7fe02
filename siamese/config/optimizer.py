"""The keys of ``conf/optimizer/``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from siamese.config.section import Section


class AdamOptimizer(Section):
    """Adam (weight decay is added to the gradient) or AdamW (weight decay is decoupled)."""

    name: Literal["adam", "adamw"] = Field(description="the optimizer")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        min_length=2, max_length=2, description="decay rates of the running means of the gradient and of its square"
    )
    eps: float = Field(gt=0, description="added to the denominator for numerical stability")


class SgdOptimizer(Section):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = Field(description="the optimizer")
    momentum: float = Field(ge=0, lt=1, description="momentum factor; 0: off")
    nesterov: bool = Field(description="use Nesterov momentum; needs momentum > 0")

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SgdOptimizer:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=true needs momentum > 0")
        return self


class MuonOptimizer(Section):
    """Muon: the update of each layer is orthogonalized, also that of biases and normalization.

    Clipping gradients has hardly any effect.
    """

    name: Literal["muon"] = Field(description="the optimizer")
    momentum: float = Field(ge=0, lt=1, description="decay rate of the running mean of the gradient; 0: off")


OptimizerConfig = Annotated[AdamOptimizer | SgdOptimizer | MuonOptimizer, Field(discriminator="name")]
