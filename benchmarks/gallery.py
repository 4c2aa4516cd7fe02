"""Ask a large gallery: embeddings like those of a run, drawn from their covariances within and between people."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, table
from siamese import Verifier
from siamese.inference.gallery import write_gallery
from siamese.inference.gallery_files import Embedded, replacing_folder
from siamese.inference.verifier import Described
from siamese.models.backends import covariances_by_groups

PHOTOS_OF_A_PERSON = 10
BLOCK = 10_000


def measure_gallery(run: Path, images: Path, size: int, folder: Path | None) -> tuple[str, dict[str, Any]]:
    """Write a gallery of ``size`` photos and ask it in new processes, exactly and with the index.

    Args:
        run: folder of a finished run.
        images: one folder of photos for each person; the first 2,000 photos of people with several are embedded.
        size: photos of the gallery.
        folder: where to write it, or where it is already; None: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        gallery = (folder or Path(temporary) / "gallery").absolute()
        photos = [file for person in sorted(images.iterdir()) for file in _of_several(person)][:2000]
        written: dict[str, Any] = {}
        if not gallery.exists():
            written = _process("write", str(run), str(gallery), str(size), *map(str, photos))
        asked = list(map(str, photos[:20]))
        ways = {name: _process("ask", str(run), str(gallery), name, *asked) for name in ("exact", "index")}
    parts = {
        "opened": "opening, CPU s", "first": "first photo, CPU s", "median": "each further",
        "embed": "of which embedding", "peak_mib": "peak MiB", "before_mib": "peak before opening",
    }  # fmt: skip
    rows = [[name, *(way[part] for part in parts)] for name, way in ways.items()]
    columns = ["search", *parts.values()]
    text = table(columns, rows)
    text += f"\n\n{size:,} photos; recall {ways['index']['recall']}; "
    text += (
        f"writing: {written['seconds']:.0f} CPU s, peak {written['peak_mib']} MiB." if written else "Written before."
    )
    return text, {"written": written, **ways}


def _of_several(person: Path) -> list[Path]:
    photos = sorted(person.iterdir())
    return photos if len(photos) > 1 else []


def _process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gallery", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write(run: str, gallery: str, size: str, *photos: str) -> dict[str, Any]:
    """Draw embeddings of people who are not on the photos, and write them as a gallery with an index."""
    verifier = Verifier.load(run)
    z_ND = verifier.embed(photos)
    groups = torch.from_numpy(np.unique([Path(photo).parent.name for photo in photos], return_inverse=True)[1])
    mean, within, total = covariances_by_groups([(torch.from_numpy(z_ND), groups)])
    started, number = time.process_time(), int(size)
    person_of = {f"{k // PHOTOS_OF_A_PERSON}/{k}.jpg": str(k // PHOTOS_OF_A_PERSON) for k in range(number)}
    blocks = _draw(mean, within, total - within, number)
    stamps = dict.fromkeys(person_of, (0, 0))
    with replacing_folder(Path(gallery)) as new:
        written = write_gallery(new, verifier, Path(run), blocks, person_of, stamps, approximate=True)
    return {"seconds": time.process_time() - started, "peak_mib": _peak(), "recall": written.facts.get("recall")}


def _draw(mean: torch.Tensor, within: torch.Tensor, between: torch.Tensor, number: int) -> Iterator[Embedded]:
    rng = torch.Generator().manual_seed(0)

    def drawn(covariance: torch.Tensor, rows: int) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(covariance)
        factor = (vectors * values.clamp_min(0).sqrt()).T.float()
        z_BD: torch.Tensor = torch.randn(rows, len(factor), generator=rng) @ factor
        return z_BD

    for first in range(0, number, BLOCK):
        people = drawn(between, BLOCK // PHOTOS_OF_A_PERSON).repeat_interleave(PHOTOS_OF_A_PERSON, 0)
        z_BD = (mean.float() + people + drawn(within, BLOCK))[: number - first]
        names = [f"{k // PHOTOS_OF_A_PERSON}/{k}.jpg" for k in range(first, first + len(z_BD))]
        photos = [Described(k.to_bytes(16, "big"), False) for k in range(first, first + len(z_BD))]
        yield Embedded(names, photos, z_BD.numpy())


def ask(run: str, gallery: str, way: str, *photos: str) -> dict[str, Any]:
    """Identify photos one after the other, as ``siamese identify`` does."""
    from siamese.inference.gallery import Gallery

    verifier = Verifier.load(run)
    asked = [verifier.prepare(photo) for photo in photos]
    verifier.embed_prepared(asked[:1])
    before, started = _peak(), time.process_time()
    opened = Gallery.load(gallery, verifier, exact=way == "exact")
    ready = time.process_time() - started
    taken: dict[str, list[float]] = {"search": [], "embed": []}
    for photo in asked:
        for name, work in (
            ("embed", lambda photo=photo: verifier.embed_prepared([photo])),
            ("search", lambda photo=photo: opened.search(verifier, [photo], 5, False)),
        ):
            started = time.process_time()  # the machine may have other work
            work()
            taken[name].append(time.process_time() - started)
    return {
        "opened": ready, "first": taken["search"][0], "median": float(np.median(taken["search"][1:])),
        "embed": float(np.median(taken["embed"])),
        "peak_mib": _peak(), "before_mib": before, "recall": opened.facts.get("recall"),
    }  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    print(json.dumps({"write": write, "ask": ask}[sys.argv[1]](*sys.argv[2:])))
