"""Few photos: compare networks that were trained on them with networks that were trained on LFW."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import table
from siamese.data.lists import people_of, read_pairs, read_people
from siamese.data.protocol import TEST_LIST, TEST_PEOPLE_LIST, TRAIN_LIST
from siamese.data.split import validation_split
from siamese.evaluation.intervals import wilson
from siamese.runs.finished import find_run

PEOPLE, PHOTOS = 30, 4
"""People of a folder, and photos of each."""

FOLDER = ["data=folder", "data.crop=0.48"]

WAYS = {
    "trained on LFW, unchanged": None,
    "trained on LFW, then calibrated": ["experiment=own/few", "data.align=null", "start_from={run}"],
    "trained on LFW, then on the folder": [
        "experiment=best/quick", *FOLDER, "start_from={run}", "max_epochs=20", "patience=20", "learning_rate=2e-4",
    ],
    "trained on the folder, best/quick": ["experiment=best/quick", *FOLDER],
    "trained on the folder, Koch": [*FOLDER, "data.image_size=105"],
    "trained on ImageNet, then on the folder": [
        *FOLDER, "data.color=true", "data.image_size=112", "model=torchvision", "model.weights=imagenet",
        "objective=ntxent", "objective.temperature=0.05", "augmentation=face", "optimizer=adamw",
        "learning_rate=3e-4", "max_epochs=30", "patience=30", "monitor=val/auc", "sampling.min_images=2",
    ],
}  # fmt: skip
"""What is compared -> overrides of train.py; None: no training."""


def measure_few(run: Path, root: Path, images: str, tested: str, repeats: int) -> tuple[str, dict[str, Any]]:
    """Train in each of `WAYS` on folders of people that ``run`` has not seen, and test on the others.

    Args:
        run: a run of ``experiment=best/quick`` on LFW.
        root: LFW's root folder.
        images: its image folder.
        tested: ``val``: the run's validation people, to choose; ``test``: View 1's test people, to report.
        repeats: number of folders, which have no person in common.
    """
    listed = sorted(_people(run, root, tested))
    names = [name for name in listed if len(list((root / images / name).iterdir())) >= PHOTOS]
    random.Random(0).shuffle(names)
    counts: dict[str, list[list[int]]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            base, chosen = Path(folder) / str(repeat), names[PEOPLE * repeat :][:PEOPLE]
            _link(root / images, base / "own", chosen)
            _link(root / images, base / "others", [name for name in names if name not in chosen])
            for number, (way, overrides) in enumerate(WAYS.items()):
                out = base / str(number)
                scored = run.resolve() if overrides is None else out
                if overrides is not None:
                    given = [text.format(run=run.resolve()) for text in overrides]
                    error = _start("train.py", *given, f"data.root={base / 'own'}", f"hydra.run.dir={out}")
                    if error:
                        failed[way] = error
                        continue
                test = f"{out}-test"
                error = _start(
                    "eval.py", f"run={scored}", "data=folder", f"data.root={base / 'others'}", f"hydra.run.dir={test}"
                )
                if error:
                    raise SystemExit(error)
                result = json.loads(Path(test, "result.json").read_text(encoding="utf-8"))
                counts.setdefault(way, []).append([result["tp"] + result["tn"], result["n_test"]])
                print(f"folder {repeat + 1} of {repeats}, {way}: {result['test/acc']:.1%}", file=sys.stderr)
    rows = []
    for way, found in counts.items():
        right, pairs = map(sum, zip(*found, strict=True))
        each = ", ".join(f"{100 * k / n:.1f}" for k, n in found)
        rows.append([way, *(f"{100 * share:.1f} %" for share in (right / pairs, *wilson(right, pairs))), each])
    text = table(["", "accuracy", "95 % confidence interval from", "to", "each folder"], rows)
    text += f"\n\n{repeats} folders of {PEOPLE} people with {PHOTOS} photos; tested on pairs of "
    text += f"{len(names) - PEOPLE} other people with {PHOTOS} photos ({tested}, {pairs:,} pairs together)."
    return text + "".join(f"\n{way}: {error}" for way, error in failed.items()), {"counts": counts, "failed": failed}


def _people(run: Path, root: Path, tested: str) -> set[str]:
    if tested == "test":
        listed = [name for subset in read_people(root / TEST_PEOPLE_LIST) for name in subset]
        return people_of(read_pairs(root / TEST_LIST)) | set(listed)
    pairs = read_pairs(root / TRAIN_LIST)
    _, held_out = validation_split(pairs, find_run(run).config.data)
    return people_of([pairs[k] for k in held_out])


def _link(images: Path, folder: Path, people: list[str]) -> None:
    """Link photos under other names: validation people of the run would be refused by their own."""
    for number, name in enumerate(people):
        home = folder / f"{folder.name} {number}"
        home.mkdir(parents=True)
        for photo in random.Random(name).sample(sorted((images / name).iterdir()), PHOTOS):
            (home / f"{len(list(home.iterdir()))}.jpg").symlink_to(photo.resolve())


def _start(*command: str) -> str:
    """Run a command; returns the last line of its messages if it failed."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    return (done.stderr.strip() or "failed").splitlines()[-1] if done.returncode else ""
