"""Divide each batch among the processes that train one network together.

The share of a process consists of neighbouring images (or pairs) of the batch. The outputs of the network are gathered,
so every process computes the loss of the whole batch: the same loss, gradients and metrics as in a single process. Two
things differ: batch normalization uses the statistics of each share, and dropout uses the same masks in all processes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Return how many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(x_N: Tensor) -> Tensor:
    """Return this process's share along the first dimension, a view; the sizes of two shares differ by at most one."""
    if processes() == 1:
        return x_N
    return x_N.tensor_split(processes())[dist.get_rank()]


def gather(x: Tensor, total: int, all_gather: Callable[..., Any]) -> Tensor:
    """Concatenate the outputs of all processes, in order; each gradient goes back to the process it belongs to.

    Every process has the same loss, so a gradient is summed over processes. DDP divides it by their number later.

    Args:
        x: [n, ...], outputs for this process's share.
        total: N, the sum of n over all processes.
        all_gather: that of the LightningModule, for equal n only: [n, ...] -> [processes, n, ...].

    Returns:
        [N, ...]; ``x`` itself in a single process.
    """
    count = processes()
    if count == 1:
        return x
    sizes = [len(part) for part in torch.empty(total).tensor_split(count)]
    padded = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
    parts = all_gather(padded, sync_grads=True)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def leave() -> None:
    """Leave the process group, if there is one."""
    if processes() > 1:
        with suppress(RuntimeError):  # another process may have died
            dist.destroy_process_group()
