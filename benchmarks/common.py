"""Measure times in new processes, and print results as text and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def machine() -> dict[str, Any]:
    """Describe the machine."""
    import torch

    from siamese.scoring.device import cpu_flags, device_name

    flags = cpu_flags()
    return {
        "device": device_name(device()),
        "cpu": device_name(torch.device("cpu")),
        "cpu_flags": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "hydra-core")},
    }


def device() -> Any:
    """Return the GPU, or the CPU if there is none."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16() -> bool:
    """Whether bf16 can be measured: on a processor without AVX-512, a large matrix product would take minutes."""
    from siamese.models.unfold_conv import cpu_has_bf16

    return bool(device().type == "cuda" or cpu_has_bf16())


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def seconds(*command: str) -> float:
    """Return the wall time of a command.

    Raises:
        RuntimeError: the exit code is not 0; the message contains the end of the error output.
    """
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return taken


def worker(name: str, **options: Any) -> dict[str, Any]:
    """Return what a new process of `benchmarks.worker` reports; a process starts without memory settings and caches."""
    command = [sys.executable, "-m", "benchmarks.worker", name, json.dumps(options)]
    clean = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    done = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name} with {options} ended with {done.returncode}: {done.stderr[-1500:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format rows as a Markdown table, with numbers to three digits."""

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
