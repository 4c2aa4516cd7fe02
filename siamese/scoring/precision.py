"""Choose the arithmetic of a run: precision and kind of convolution, measured on this machine for ``auto``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

import siamese
from siamese.config.schema import TrainConfig
from siamese.config.section import to_plain
from siamese.files import write_text_atomically
from siamese.models import kernels
from siamese.models.build import build_encoder
from siamese.models.unfold_conv import cpu_has_bf16
from siamese.runs.records import Result
from siamese.scoring.device import device_name, has_bf16_instructions

log = logging.getLogger(__name__)

FAST, SLOW = 0.65, 0.95
"""``auto`` chooses bf16 if it takes at most `FAST` of the time of float32, and float32 if bf16 takes at least `SLOW`.

Between them the measurement decides nothing, and the processor's instructions do: on a busy machine, the ratio varies
by a tenth, and a choice by one limit would vary with it."""

AS_FAST = 0.9
"""A kind of convolution other than the first is chosen if it takes at most this share of the first one's time."""

AGREES = 0.5
"""Largest allowed difference between the bf16 gradient and the float32 gradient, relative to the norm of the latter.

It is about 0.2 if bf16 works (rounding changes maxima and signs in a random network), and 1 if a kernel is wrong."""

PROBE = 11
"""Version of `measure_choice`; measurements of other versions are repeated."""

FEWEST_ROUNDS, MOST_ROUNDS, MOST_SECONDS = 6, 16, 20.0
"""Rounds of timed steps; the seconds are those after which no round begins, apart from the fewest."""

VALID_SECONDS = 30 * 24 * 3600.0
"""Age after which a remembered measurement is repeated, so that a wrong one does not last."""

IMAGES = 32
"""Images in the timed step. With fewer, the transform of the kernel, which a batch shares, would count too much."""


class Arithmetic(NamedTuple):
    """How a run computes.

    Attributes:
        precision: ``32`` or ``bf16``.
        convolution: ``direct``, or ``dft`` (by Fourier transform).
    """

    precision: str
    convolution: str

    @property
    def bf16(self) -> bool:
        """Whether to compute under bf16 autocast."""
        return self.precision == "bf16"

    @property
    def dft(self) -> bool:
        """Whether to compute large convolutions by Fourier transform (`siamese.models.dft_conv`)."""
        return self.convolution == "dft"


def recorded_arithmetic(result: Result) -> Arithmetic:
    """Return the arithmetic recorded in a run's ``result.json``."""
    assert result.precision is not None
    assert result.convolution is not None
    return Arithmetic(result.precision, result.convolution)


def choose_arithmetic(config: TrainConfig, device: torch.device) -> Arithmetic:
    """Return the configured arithmetic, with ``auto`` replaced by the best choice for this machine.

    On a GPU, ``auto`` is bf16 from compute capability 8.0 on, with direct convolutions.

    On a CPU, float32 convolutions are computed by Fourier transform. If the processor supports bf16 and the
    configuration allows it, a training step of the encoder is timed for each allowed combination
    (`measure_choice`). ``auto`` chooses bf16 if it is fast enough (`FAST`, `SLOW`) and its gradients agree with those
    of float32 (`AGREES`): with some processors and versions of PyTorch, bf16 is slow or wrong. The choice is saved in
    the folder ``data.cache``, for a month.
    """
    ways = _ways(config)
    if config.model.name == "lbp" and config.precision == "auto":
        return Arithmetic("32", ways[0])  # it computes in float32 whatever the precision
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        precision = ("bf16" if capable else "32") if config.precision == "auto" else config.precision
        return Arithmetic(precision, "direct" if config.convolution == "auto" else config.convolution)
    if not cpu_has_bf16():
        if config.precision == "bf16":
            log.warning(
                "precision=bf16: this processor does not support bf16, and PyTorch's emulation takes many times as "
                "long as precision=32; give precision=auto"
            )
        return Arithmetic("32" if config.precision == "auto" else config.precision, ways[0])
    if config.convolution != "auto" and config.precision != "auto":
        return Arithmetic(config.precision, config.convolution)
    if config.precision == "32" or (config.precision == "bf16" and len(ways) == 1 and has_bf16_instructions()):
        return Arithmetic(config.precision, ways[0])  # nothing to choose, nothing to warn of
    if config.trainer.processes > 1:  # measurements would disturb each other, and the choices could differ
        return Arithmetic("32" if config.precision == "auto" else config.precision, ways[0])
    machine = [PROBE, device_name(device), torch.__version__, siamese.__version__, kernels.library() is not None]
    data = config.data
    question = [config.precision, ways, data.channels, data.image_size, to_plain(config.model)]
    key = json.dumps([machine, question], sort_keys=True)
    return Arithmetic(*cached_choice(key, Path(config.data.cache)))


def _ways(config: TrainConfig) -> list[str]:
    """Return the allowed kinds of convolution; only Koch's kernels are large enough for the Fourier transform."""
    if config.convolution != "auto":
        return [config.convolution]
    return ["dft", "direct"] if config.model.name == "koch" else ["direct"]


@lru_cache(maxsize=64)
def cached_choice(key: str, cache: Path) -> tuple[str, str]:
    """Return precision and convolution for ``key``: from this process, from a file in ``cache``, or measured now."""
    file = cache / f"arithmetic-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    answer = _remembered(file, key)
    if answer is None:
        with contextlib.ExitStack() as stack:
            # One job of a sweep measures and the others wait. Measurements at the same time could differ.
            with contextlib.suppress(OSError):  # the cache may be read-only
                cache.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(file.with_suffix(".lock")))
            answer = _remembered(file, key)
            if answer is None:
                log.info("timing the arithmetic of this network on this machine (once, up to a minute) ...")
                answer = {"key": key, **measure_choice(*json.loads(key)[1])}
                if answer["measured"]:
                    with contextlib.suppress(OSError):
                        write_text_atomically(file, json.dumps(answer, indent=2) + "\n")
    log.info("arithmetic: %s", answer["why"])
    log.debug("times of a training step with %d images on one thread: %s", IMAGES, answer["times"])
    if answer["slowdown"] > 1:  # only if the configuration asks for bf16
        log.warning(
            "precision=bf16 takes %.1f times as long as precision=32 on this machine; give precision=auto",
            answer["slowdown"],
        )
    return answer["best"][0], answer["best"][1]


def _remembered(file: Path, key: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(file.read_text(encoding="utf-8"))
        recent = time.time() - file.stat().st_mtime < VALID_SECONDS
        return answer if answer["key"] == key and recent else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure_choice(precision: str, ways: list[str], channels: int, size: int, model: dict[str, Any]) -> dict[str, Any]:
    """Time all allowed combinations in turn, and choose one.

    A step is timed by the processor time of one thread, which hardly depends on what else the machine does, unlike the
    wall time. The shortest times count. If the difference is small, or if the times of the odd and of the even rounds
    lead to different choices, the processor decides: bf16 if it has instructions for it.

    Returns:
        ``best``, precision and convolution; ``slowdown``, its time relative to float32; ``measured``, whether the
        rounds agreed; ``why``, the choice in words; ``times``, all times in words.
    """
    plain, *halves = Arithmetic("32", ways[0]), *(Arithmetic("bf16", way) for way in ways)
    with _one_thread():
        steps = {one: prepared_step(one, model, channels, size) for one in (plain, *halves)}
        gradients = {one: step() for one, step in steps.items()}  # not timed: the first pass chooses kernels
        rounds: list[dict[Arithmetic, float]] = []
        ended = time.monotonic() + MOST_SECONDS
        while len(rounds) < FEWEST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.monotonic() < ended):
            rounds.append({one: processor_seconds(step) for one, step in steps.items()})
    seconds = _shortest(rounds)
    errors = {one: float((gradients[one] - gradients[plain]).norm() / gradients[plain].norm()) for one in halves}
    taken = (f"{' '.join(one)} {1e3 * seconds[one]:.0f} ms" for one in steps)
    wrong = (f"gradient of {' '.join(one)} off by {errors[one]:.2f}" for one in halves)
    times = ", ".join([*taken, *wrong])
    usable = [one for one in halves if precision == "bf16" or errors[one] <= AGREES]
    if not usable:
        why = "32, because the gradients of bf16 are wrong on this machine"
        return {"best": list(plain), "slowdown": 1.0, "measured": True, "times": times, "why": why}
    first = usable[0]

    def fastest_half(taken: dict[Arithmetic, float]) -> Arithmetic:
        fastest = min(usable, key=taken.__getitem__)
        return fastest if taken[fastest] <= AS_FAST * taken[first] else first

    def choose(taken: dict[Arithmetic, float]) -> tuple[Arithmetic, str]:
        half = fastest_half(taken)
        ratio = taken[half] / taken[plain]
        words = f"{' '.join(half)} takes {ratio:.2f} of the time of 32"
        if precision == "bf16" or ratio <= FAST:
            return half, words
        if ratio >= SLOW:
            return plain, words
        has = "has" if has_bf16_instructions() else "has no"
        return half if has_bf16_instructions() else plain, f"{words}, and the processor {has} instructions for bf16"

    best, reason = choose(seconds)
    measured = precision == "bf16" or len({choose(_shortest(part))[0] for part in (rounds[::2], rounds[1::2])}) == 1
    if not measured:
        best = fastest_half(seconds) if has_bf16_instructions() else plain
        reason = "by the processor's instructions, because the measurements contradict each other"
    why = f"{' '.join(best)}; {reason}"
    return {
        "best": list(best), "slowdown": seconds[best] / seconds[plain], "measured": measured, "times": times, "why": why
    }  # fmt: skip


def _shortest(rounds: list[dict[Arithmetic, float]]) -> dict[Arithmetic, float]:
    return {one: min(taken[one] for taken in rounds) for one in rounds[0]}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def processor_seconds(step: Callable[[], object]) -> float:
    """The seconds that the processor works on a step in this thread."""
    started = time.thread_time()
    step()
    return time.thread_time() - started


def prepared_step(arithmetic: Arithmetic, model: dict[str, Any], channels: int, size: int) -> Callable[[], Tensor]:
    """Build the encoder; return a function that computes a forward and backward pass with it on the CPU.

    The function returns the gradient of the convolutions' weights, or of all weights if there are no convolutions. It
    is float32 and differs between arithmetics by rounding only.
    """
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # The linear layer holds most of the parameters and is the same in all cases, so it is made small.
        small = {"embedding_dim": 8, "dropout": 0.0, "weights": None}
        small = {key: small.get(key, value) for key, value in model.items()}
        encoder = build_encoder(small, channels, size, dft=arithmetic.dft)
    kernels = [p for p in encoder.parameters() if p.dim() == 4] or list(encoder.parameters())
    x = torch.rand(IMAGES, channels, size, size, generator=rng)

    def step() -> Tensor:
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic.bf16):
            z = encoder(x)
        # The gradient in a random direction: the length of embeddings is constant if the network normalizes them.
        (z.float() * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))).mean().backward()
        return torch.cat([p.grad.flatten().float() for p in kernels if p.grad is not None])

    return step
