"""Where a run computes, and in which arithmetic: measured on this machine when it is left to us."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

import siamese
from siamese.config.schema import TrainConfig, to_plain
from siamese.files import write_text_atomically
from siamese.models import norm_pool
from siamese.models.build import build_encoder
from siamese.models.unfold_conv import cpu_has_bf16
from siamese.runs.records import Result
from siamese.scoring.device import device_name

log = logging.getLogger(__name__)

WORTH = 1.3
"""How many times faster than float32 bf16 has to be, to be chosen for its eight bits of precision."""

AGREES = 0.5
"""Largest difference of a bf16 gradient from the float32 one, relative to its norm.

About 0.2 where bf16 works (rounding moves maxima and signs in a random network); a kernel that is wrong gives 1."""

PROBE = 3
"""Which version of `time_step` gave an answer; those of an earlier one are asked anew."""

IMAGES = 32
"""Images in the step that is timed; with fewer the kernel's own transform, shared by a batch, would weigh too much."""


class Arithmetic(NamedTuple):
    """How the numbers of a run are computed: precision ``32`` or ``bf16``, convolution ``direct`` or ``dft``."""

    precision: str
    convolution: str

    @property
    def bf16(self) -> bool:
        """Whether to compute under bf16 autocast."""
        return self.precision == "bf16"

    @property
    def dft(self) -> bool:
        """Whether costly convolutions go through spectra (`siamese.models.dft_conv`)."""
        return self.convolution == "dft"


def recorded_arithmetic(result: Result) -> Arithmetic:
    """Return the arithmetic recorded in a run's ``result.json``."""
    assert result.precision is not None
    assert result.convolution is not None
    return Arithmetic(result.precision, result.convolution)


def choose_arithmetic(config: TrainConfig, device: torch.device) -> Arithmetic:
    """What ``precision`` and ``convolution`` ask for, with ``auto`` filled in for this machine.

    On a GPU: bf16 from compute capability 8.0 on, direct convolutions. On the CPU float32 goes through spectra, and
    where the processor has bf16 and it is allowed a training step of the encoder's convolutions is timed in each way:
    bf16 is taken when it is `WORTH` it and its gradients agree with those of float32 (on some processors and versions
    of torch it is slow, or wrong). The answer is remembered in the folder ``data.cache``.
    """
    ways = _ways(config)
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        precision = ("bf16" if capable else "32") if config.precision == "auto" else config.precision
        return Arithmetic(precision, "direct" if config.convolution == "auto" else config.convolution)
    if not cpu_has_bf16():
        if config.precision == "bf16":
            log.warning(
                "precision=bf16: this processor has no arithmetic for it, and torch's own takes several times as long "
                "as precision=32, which auto would take"
            )
        return Arithmetic("32" if config.precision == "auto" else config.precision, ways[0])
    if config.convolution != "auto" and config.precision != "auto":
        return Arithmetic(config.precision, config.convolution)
    if config.precision == "32":
        return Arithmetic("32", ways[0])
    if config.trainer.processes > 1:  # which would measure one another, and might not agree
        return Arithmetic("32" if config.precision == "auto" else config.precision, ways[0])
    machine = [PROBE, device_name(device), torch.__version__, siamese.__version__, norm_pool.library() is not None]
    data = config.data
    question = [config.precision, ways, data.channels, data.image_size, to_plain(config.model)]
    key = json.dumps([machine, question], sort_keys=True)
    return Arithmetic(*_measured(key, Path(config.data.cache)))


def _ways(config: TrainConfig) -> list[str]:
    """The convolutions that come into question; only Koch's have kernels large enough for spectra."""
    if config.convolution != "auto":
        return [config.convolution]
    return ["dft", "direct"] if config.model.name == "koch" else ["direct"]


@lru_cache(maxsize=64)
def _measured(key: str, cache: Path) -> tuple[str, str]:
    """The answer to ``key``: of this process, of another one (a file in ``cache``), or measured now."""
    file = cache / f"arithmetic-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    answer = _remembered(file, key)
    if answer is None:
        with contextlib.ExitStack() as stack:
            # One process measures, the others of a sweep wait: they would slow it down, and might choose otherwise.
            with contextlib.suppress(OSError):  # not being able to write is no reason to end
                cache.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(file.with_suffix(".lock")))
            answer = _remembered(file, key)
            if answer is None:
                answer = {"key": key, **_measure(*json.loads(key)[1])}
                with contextlib.suppress(OSError):
                    write_text_atomically(file, json.dumps(answer, indent=2) + "\n")
    log.info(
        "arithmetic on this machine: %s; a step of %d images took %s", " ".join(answer["best"]), IMAGES, answer["told"]
    )
    if answer["slowdown"] > 1:  # only where bf16 was asked for
        log.warning(
            "precision=bf16 takes %.1f times as long as precision=32 on this machine; auto takes the faster",
            answer["slowdown"],
        )
    return answer["best"][0], answer["best"][1]


def _remembered(file: Path, key: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(file.read_text(encoding="utf-8"))
        return answer if answer["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure(precision: str, ways: list[str], channels: int, size: int, model: dict[str, Any]) -> dict[str, Any]:
    """The best of the allowed ways, and the times of all in words."""
    best = Arithmetic("32", ways[0])
    seconds, gradient = time_step(best, model, channels, size)
    told = [f"{' '.join(best)} {1e3 * seconds:.0f} ms"]
    fastest = seconds
    limit = seconds / WORTH if precision == "auto" else math.inf
    for way in ways:
        candidate = Arithmetic("bf16", way)
        taken, other = time_step(candidate, model, channels, size)
        difference = float((other - gradient).norm() / gradient.norm())
        told.append(f"{' '.join(candidate)} {1e3 * taken:.0f} ms (gradient off by {difference:.2f})")
        if taken < limit and (difference <= AGREES or precision == "bf16"):
            best, limit, fastest = candidate, taken, taken
    return {"best": list(best), "told": ", ".join(told), "slowdown": fastest / seconds}


def time_step(
    arithmetic: Arithmetic, model: dict[str, Any], channels: int, size: int, repeats: int = 2
) -> tuple[float, Tensor]:
    """Shortest time on the CPU of a forward and backward pass of the encoder's convolutions, and their gradient.

    Returns:
        seconds, and the gradient float32 [number of the convolutions' parameters], the same for all but rounding.
    """
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The linear layer, most of the parameters and no part of the question, is left small.
        small = {**model, "embedding_dim": 8, "dropout": 0.0} | ({"weights": None} if "weights" in model else {})
        encoder = build_encoder(small, channels, size, arithmetic.dft)
    x = torch.rand(IMAGES, channels, size, size, generator=rng)
    best = float("inf")
    for _ in range(repeats + 1):
        encoder.zero_grad()
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.bf16):
            z = encoder(x)
        # Along a direction of chance: the length of the embeddings tells nothing where the network normalizes it.
        (z.float() * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))).mean().backward()
        best = min(best, time.perf_counter() - started)
    gradients = [p.grad.flatten().float() for p in encoder.parameters() if p.dim() == 4 and p.grad is not None]
    return best, torch.cat(gradients)
