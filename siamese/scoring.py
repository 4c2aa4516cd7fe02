"""Logits of pairs from a network and the decoded images: the one way that training, eval.py and others score."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese.data.module import to_float
from siamese.models.siamese import SiameseNetwork

CHUNK = 128
"""Images embedded at a time: enough to share what is done once a batch; 0.6 GB of activations in float32."""


@torch.inference_mode()
def score_pairs(
    network: SiameseNetwork, pixels: Tensor, indices: Tensor, device: torch.device, bf16: bool = False
) -> NDArray[np.float32]:
    """Score pairs of images; each distinct image is embedded once, in the order of its index.

    The result depends only on the arguments: neither on the batch size of training nor on what else is scored
    with the same call.

    Args:
        network: left in evaluation mode, on ``device``.
        pixels: uint8 [N, C, H, W].
        indices: int64 [P, 2], rows of ``pixels``.
        device: where to compute.
        bf16: compute under bf16 autocast.

    Returns:
        float32 [P], the logits.
    """
    network = network.to(device).eval()
    distinct, position = torch.unique(indices, return_inverse=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        parts = [network.embed(to_float(pixels[rows].to(device))) for rows in distinct.split(CHUNK)]
        z = torch.cat(parts) if parts else torch.empty(0)
        position = position.to(device)
        logits = [network.head(z[rows[:, 0]], z[rows[:, 1]]) for rows in position.split(CHUNK)]
    scores: NDArray[np.float32] = torch.cat(logits).float().cpu().numpy() if logits else np.empty(0, np.float32)
    return scores
