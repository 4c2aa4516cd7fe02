"""Losses on labelled pairs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of the logits, in nats, averaged over the batch (Koch et al. 2015, section 3.2).

    Computed from the logit in float32 whatever the network's precision: sigmoid followed by BCE is the same
    function, but loses all digits of a confident pair in bf16.
    """

    def forward(self, logit_B: Tensor, label_B: Tensor) -> Tensor:
        """Logits [B] of any float type, labels [B] (1 = same person) -> scalar float32."""
        return F.binary_cross_entropy_with_logits(logit_B.float(), label_B.float())


OBJECTIVES = {"bce": BinaryCrossEntropy}
