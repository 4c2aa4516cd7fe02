"""How loading a folder of photos grows with their number: time, memory and disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import table, worker

PHOTOS = 50
"""Photos of a person."""

SIDE = 112


def draw(folder: Path, number: int) -> None:
    """Draw photos of ``number / PHOTOS`` people: blurred colours, different for each person."""
    rng = np.random.default_rng(0)
    for person in range(number // PHOTOS):
        photos = folder / f"p{person:06d}"
        photos.mkdir(parents=True, exist_ok=True)
        base = rng.integers(40, 216, (7, 7, 3))
        for k in range(PHOTOS):
            colours = np.clip(base + rng.integers(-25, 26, (7, 7, 3)), 0, 255).astype(np.uint8)
            image = Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            image.save(photos / f"{k:02d}.jpg", quality=75)


def measure_growth(folder: Path, numbers: list[int]) -> tuple[str, dict[str, Any]]:
    rows, found = [], {}
    for number in numbers:
        photos, cache = folder / f"photos-{number}", folder / f"cache-{number}"
        if not photos.is_dir():
            draw(photos, number)
        shutil.rmtree(cache, ignore_errors=True)
        load = {"root": str(photos), "cache": str(cache)}
        stages = {"first": worker("growth", **load, seed=0), "warm": worker("growth", **load, seed=0)}
        changed = photos / stages["first"]["example"]
        os.utime(changed, ns=(0, changed.stat().st_mtime_ns + 1))
        stages["one file changed"] = worker("growth", **load, seed=0)
        stages["other split"] = worker("growth", **load, seed=1)
        disk = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
        found[number] = {**stages, "disk": disk}
        for stage, report in stages.items():
            rows.append([
                f"{number:,}", stage, report["seconds"], report["peak_mib"],
                f"{report['read_per_second']:,.0f}",
            ])  # fmt: skip
        rows.append([f"{number:,}", "on disk", "", f"{disk / 2**20:,.0f}", ""])
    head = ["photos", "", "seconds", "peak MiB", "images read a second"]
    return table(head, rows), {"growth": {str(number): stages for number, stages in found.items()}}
