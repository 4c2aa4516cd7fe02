"""The device of a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from siamese.config.schema import TrainConfig
from siamese.errors import ConfigError
from siamese.text import count


def pick_device(config: TrainConfig) -> torch.device:
    """Return the device to train or score on.

    Raises:
        ConfigError: a GPU is configured and torch sees none, or fewer than ``trainer.devices``.
    """
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here; use trainer=auto or trainer=cpu")
    if config.trainer.accelerator != "cpu" and 0 < torch.cuda.device_count() < config.trainer.devices:
        gpus = count(torch.cuda.device_count(), "GPU")
        raise ConfigError(
            f"trainer.devices={config.trainer.devices}: torch sees {gpus} here; give at most that number, or "
            "trainer.accelerator=cpu"
        )
    use_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    if not use_gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@contextlib.contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Context in which float32 convolutions on a GPU use float32; does nothing for the CPU.

    By default PyTorch rounds their inputs to the ten bits of TF32, and a GPU would score a run differently than a CPU.
    (It does not round the inputs of matrix products.)
    """
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def has_bf16_instructions() -> bool:
    """Whether the processor multiplies matrices in bf16 (x86: AMX or AVX-512 BF16); False if that is not known."""
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def cpu_flags() -> set[str]:
    """The extensions of the processor's instruction set, in Linux's names; empty if they are not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def device_name(device: torch.device) -> str:
    """The kind and the name of the device; for the CPU with the number of threads torch uses."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "unknown processor"
    return f"cpu: {model}, {count(torch.get_num_threads(), 'thread')}"
