"""A training step as one CUDA graph: the CPU starts all of its kernels by a single call.

The networks of the recipes are small. Without a graph, a GPU waits most of a step for the CPU to start the next of some
thousand kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from siamese.errors import TrainingError

Tensors = tuple[Tensor, ...]


class StepGraphs:
    """Runs a training step on a GPU. The first calls of each input shape run directly, later calls replay a CUDA graph.

    A graph repeats the recorded kernels on the same addresses. So the inputs are copied, the outputs are overwritten by
    the next call, and numbers computed by Python stay those of the recording. The optimizer therefore reads its
    learning rates from tensors, float32, in the first calls too. A graph keeps the memory of a step until training
    ends.

    Args:
        step: tensors -> tensors; updates parameters through ``optimizer``. It must not read results back to the CPU,
            and must draw random numbers from torch's generator of the GPU only.
        optimizer: reads the learning rate from a tensor without waiting for the GPU, as torch's do with ``fused=True``.
        device: the GPU.
    """

    WARM_UP = 3
    """Calls before the recording: they allocate the optimizer's state, and load kernels."""

    def __init__(self, step: Callable[[Tensors], Tensors], optimizer: Optimizer, device: torch.device) -> None:
        self._step = step
        self._optimizer = optimizer
        self._rates = [torch.empty((), device=device) for _ in optimizer.param_groups]
        self._calls: Counter[Any] = Counter()
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, inputs: Tensors) -> Tensors:
        """Run the step.

        Raises:
            TrainingError: the step cannot be recorded.
        """
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        self._calls[shapes] += 1
        if self._calls[shapes] <= self.WARM_UP:
            return self._directly(inputs)
        if shapes not in self._recorded:
            self._recorded[shapes] = self._record(inputs)
        graph, static, outputs = self._recorded[shapes]
        for target, source in zip(static, inputs, strict=True):
            target.copy_(source)
        graph.replay()
        return outputs

    def _directly(self, inputs: Tensors) -> Tensors:
        """Run the step on the stream of the recording: autograd's nodes remember the stream."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), tensor_rates(self._optimizer, self._rates, capturable=False):
            outputs = self._step(inputs)
        current.wait_stream(self._stream)
        return outputs

    def _record(self, inputs: Tensors) -> tuple[torch.cuda.CUDAGraph, Tensors, Tensors]:
        static, graph = tuple(tensor.clone() for tensor in inputs), torch.cuda.CUDAGraph()
        self._optimizer.zero_grad()  # the graph has gradients of its own
        try:
            # Only this thread is recorded: another one may be copying a checkpoint from the GPU.
            with (
                torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"),
                tensor_rates(self._optimizer, self._rates, capturable=True),
            ):
                outputs = self._step(static)
        except Exception as error:
            cause = error.__context__ or error  # the end of a failed recording fails as well
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise TrainingError(
                f"the training step cannot become a CUDA graph ({' '.join(str(cause).split())[:200]}); give "
                "trainer.cuda_graphs=false"
            ) from error
        return graph, static, outputs


@contextmanager
def tensor_rates(optimizer: Optimizer, rates: Sequence[Tensor], capturable: bool) -> Iterator[None]:
    """Context in which an optimizer reads the learning rate of each group from a tensor; checkpoints hold numbers.

    Args:
        optimizer: the optimizer.
        rates: a scalar for each of its groups.
        capturable: whether a CUDA graph is being recorded.
    """
    before = [dict(group) for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group.update(lr=rate, capturable=capturable)
        yield
    finally:
        for group, values in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(values)
