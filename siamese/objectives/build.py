"""Build a loss from its configuration. A new objective is added here and in `siamese.config.objective`."""

from __future__ import annotations

from torch import nn

from siamese.config.objective import (
    AngularMarginObjective,
    ContrastiveObjective,
    NtxentObjective,
    ObjectiveConfig,
    TripletObjective,
)
from siamese.objectives.pairs import BinaryCrossEntropy, Contrastive


def build_objective(config: ObjectiveConfig, embedding_dim: int, parts: int, people: int) -> nn.Module:
    """Build the configured loss.

    Args:
        config: the objective.
        embedding_dim: dimensions of an embedding, all parts together.
        parts: number of parts of an embedding (`siamese.models.encoder.Encoder`), each trained with a separate loss.
        people: number of training people; 0 in the restricted setting, which has no identities.

    Returns:
        a loss on the scores and labels of pairs (`siamese.objectives.pairs`), or on the embeddings of a batch
        (`siamese.objectives.groups`).
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
            return NTXent(config.temperature, config.pair_weight, config.negatives)
        case TripletObjective():
            return Triplet(config.distance, config.margin, config.mining)
        case AngularMarginObjective():
            return AngularMargin(config.name, people, embedding_dim, config.margin, config.scale)
