"""Several processes that train one network together: each computes its share of every batch.

The share of a batch is a run of neighbouring images (or pairs). What the network makes of it is gathered, so that every
process has the loss of the whole batch, whatever is compared in it: the same loss, gradients and metrics as a single
process has. But batch normalization takes the statistics of each share, and dropout uses the same masks in all.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def processes() -> int:
    """How many processes train together; 1 where no group of processes has been formed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(x_N: Tensor) -> Tensor:
    """This process's share of the first dimension: views of neighbours whose sizes differ by one at most."""
    if processes() == 1:
        return x_N
    return x_N.tensor_split(processes())[dist.get_rank()]


def gather(x: Tensor, total: int) -> Tensor:
    """The shares of all processes, in their order; gradients go back to the process whose share it was.

    Args:
        x: [n, ...], what came of this process's share.
        total: N, the sum of all n.

    Returns:
        [N, ...]; ``x`` itself for a single process.
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
        # Every process has the same loss; the sum over them is divided by their number when gradients are averaged.
        g = g.contiguous()
        dist.all_reduce(g)
        return g[dist.get_rank()]


def leave() -> None:
    """Dissolve the group of processes, if one was formed."""
    if processes() > 1:
        with suppress(RuntimeError):  # one of the others may be gone
            dist.destroy_process_group()
