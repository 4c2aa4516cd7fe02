"""Embed decoded images and score pairs, for training, eval.py and the verifier alike."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese.data.dataset import to_float
from siamese.data.pixels import Images
from siamese.models.backends import CohortHead, LdaHead, PldaHead
from siamese.models.siamese import SiameseNetwork
from siamese.scoring.device import exact_convolutions

CHUNK = 128
"""Images embedded at once: enough for efficient batches, with 0.6 GB of activations in float32."""

GPU_CHUNK = 512
"""Images embedded at once on a GPU, which would otherwise wait for the CPU to start its kernels."""

FACTORED = 1 << 25
"""Most values of the embeddings in a block of images whose factors are computed at once: 0.25 GB in float64."""


@torch.inference_mode()
def score_pairs(
    network: SiameseNetwork, pixels: Images, indices: Tensor, device: torch.device, bf16: bool = False
) -> NDArray[np.float32]:
    """Score pairs of images.

    Each distinct image is embedded once, in the order of its index, so the scores do not depend on the batch size of
    training.

    Args:
        network: left in evaluation mode, on ``device``.
        pixels: uint8 [N, C, H, W].
        indices: int64 [P, 2], rows of ``pixels``.
        device: device to compute on.
        bf16: compute under bf16 autocast.

    Returns:
        float32 [P]; logits if the network was trained with ``objective=bce`` and has no back end.
    """
    if not len(indices):  # the validation pairs of data that is only tested on; some networks fail on no image
        return np.empty(0, np.float32)
    distinct, position = torch.unique(indices, return_inverse=True)
    return score_embeddings(network.head, embed_images(network, pixels, distinct, device, bf16), position, bf16)


@torch.inference_mode()
def score_embeddings(head: nn.Module, z_ND: Tensor, indices: Tensor, bf16: bool = False) -> NDArray[np.float32]:
    """Score pairs of embeddings.

    Args:
        head: head or back end.
        z_ND: result of `embed_images`.
        indices: int64 [P, 2], rows of ``z_ND``.
        bf16: compute under bf16 autocast.

    Returns:
        float32 [P].
    """
    if not len(indices):
        return np.empty(0, np.float32)
    indices = indices.to(z_ND.device)
    with torch.autocast(z_ND.device.type, torch.bfloat16, enabled=bf16):
        match head:
            case LdaHead() | PldaHead():
                score_P = _score_by_factors(head, z_ND, indices)
            case CohortHead():
                # Compare each image with the cohort once, not once for each of its pairs.
                mean_N, std_N = map(torch.cat, zip(*map(head.statistics, z_ND.split(CHUNK)), strict=True))
                i, j = indices.T
                score_P = _score_by_factors(head.head, z_ND, indices)
                score_P = head.relative(score_P, (mean_N[i], std_N[i]), (mean_N[j], std_N[j]))
            case _:
                score_P = torch.cat([head(z_ND[rows[:, 0]], z_ND[rows[:, 1]]) for rows in indices.split(CHUNK)])
    scores: NDArray[np.float32] = score_P.float().cpu().numpy()
    return scores


def _score_by_factors(head: LdaHead | PldaHead, z_ND: Tensor, indices: Tensor) -> Tensor:
    """Score pairs with the factors of their images, float64 [P], in memory that does not depend on their number.

    The matrix products of an image are computed once for all pairs between two blocks of images. Up to `FACTORED`
    values, all images are one block.
    """
    block = max(1, FACTORED // z_ND.shape[1])
    blocks_P2 = indices // block
    tile_P = blocks_P2[:, 0] * (len(z_ND) // block + 1) + blocks_P2[:, 1]
    score_P = torch.empty(len(indices), dtype=torch.float64, device=z_ND.device)
    for tile in tile_P.unique():
        pairs = (tile_P == tile).nonzero().squeeze(1)
        distinct, position = torch.unique(indices[pairs], return_inverse=True)
        query, key, bias = head.factors(z_ND[distinct])
        for chosen, rows in zip(pairs.split(CHUNK), position.split(CHUNK), strict=True):
            i, j = rows.T
            score_P[chosen] = (query[i] * key[j]).sum(1) + bias[i] + bias[j]
    return score_P


@torch.inference_mode()
def embed_images(
    network: SiameseNetwork,
    pixels: Images,
    rows: Tensor,
    device: torch.device,
    bf16: bool = False,
    *,
    with_crops: bool = True,
) -> Tensor:
    """Embed images, `CHUNK` or `GPU_CHUNK` at a time.

    Args:
        network: left in evaluation mode, on ``device``.
        pixels: uint8 [N, C, H, W].
        rows: int64 [B], rows of ``pixels``.
        device: device to compute on.
        bf16: compute under bf16 autocast.
        with_crops: False: ignore the network's ``crop_average``.

    Returns:
        [B, D] on ``device``; bfloat16 under autocast, else float32.
    """
    network = network.to(device).eval()
    chunk = GPU_CHUNK if device.type == "cuda" else CHUNK
    with exact_convolutions(device), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        parts = [network.embed(to_float(pixels[some].to(device)), with_crops=with_crops) for some in rows.split(chunk)]
    return torch.cat(parts) if parts else torch.empty(0, device=device)
