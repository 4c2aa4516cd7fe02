"""From the configuration to a loss; add a new objective here and in `siamese.config`."""

from __future__ import annotations

from torch import nn

from siamese.config.schema import (
    AngularMarginObjective,
    ContrastiveObjective,
    NtxentObjective,
    ObjectiveConfig,
    TripletObjective,
)
from siamese.objectives.pairs import BinaryCrossEntropy, Contrastive


def build_objective(config: ObjectiveConfig, embedding_dim: int, parts: int = 1, people: int = 0) -> nn.Module:
    """The configured loss on what ``encoder`` gives; ``people`` is the number of training people where names may be
    used.
    """
    if isinstance(config, ContrastiveObjective):
        return Contrastive(config.distance, config.margin)
    if config.name == "bce":
        return BinaryCrossEntropy()
    from siamese.objectives.groups import EachPart

    losses = [_on_groups(config, embedding_dim // parts, people) for _ in range(parts)]
    return losses[0] if len(losses) == 1 else EachPart(losses)


def _on_groups(
    config: NtxentObjective | TripletObjective | AngularMarginObjective, embedding_dim: int, people: int
) -> nn.Module:
    from siamese.objectives.groups import AngularMargin, NTXent, Triplet

    match config:
        case NtxentObjective():
            return NTXent(config.temperature, config.pair_weight)
        case TripletObjective():
            return Triplet(config.distance, config.margin, config.mining)
        case AngularMarginObjective():
            return AngularMargin(config.name, people, embedding_dim, config.margin, config.scale)
