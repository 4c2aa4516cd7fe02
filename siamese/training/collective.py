"""Divide each batch among the processes that train one network together.

The share of a process consists of neighbouring images (or pairs) of the batch. The outputs of the network are gathered,
so every process computes the loss of the whole batch: the same loss, gradients and metrics as in a single process. Two
things differ: batch normalization uses the statistics of each share, and dropout uses the same masks in all processes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def processes() -> int:
    """Return how many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(x_N: Tensor) -> Tensor:
    """Return this process's share along the first dimension, a view; the sizes of two shares differ by at most one."""
    if processes() == 1:
        return x_N
    return x_N.tensor_split(processes())[dist.get_rank()]


def gather(x: Tensor, total: int) -> Tensor:
    """Concatenate the outputs of all processes, in order; each gradient goes back to the process it belongs to.

    Args:
        x: [n, ...], outputs for this process's share.
        total: N, the sum of n over all processes.

    Returns:
        [N, ...]; ``x`` itself in a single process.
    """
    count = processes()
    if count == 1:
        return x
    sizes = [len(part) for part in torch.empty(total).tensor_split(count)]
    padded = torch.cat([x, x.new_zeros(max(sizes) - len(x), *x.shape[1:])])
    parts: Tensor = _AllGather.apply(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class _AllGather(torch.autograd.Function):
    """[n, ...] of each process -> [processes, n, ...]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        # Every process has the same loss, so this sums it; DDP then divides by their number as it averages gradients.
        g = g.contiguous()
        dist.all_reduce(g)
        return g[dist.get_rank()]


def leave() -> None:
    """Leave the process group, if there is one."""
    if processes() > 1:
        with suppress(RuntimeError):  # another process may have died
            dist.destroy_process_group()
