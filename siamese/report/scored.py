"""What a sweep page needs of the scored pairs of a run, in a few bytes per pair.

``predictions.csv`` is read once, row by row, when a run has finished. The result is stored in the run folder, so that
the page after each further job costs the same however many pairs the earlier jobs have.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from array import array
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese.data.lists import Pair, people_of_each
from siamese.evaluation.metrics import roc_curve
from siamese.evaluation.people import NumberedPeople
from siamese.files import file_state, write_text_atomically
from siamese.report.drawn import code_version
from siamese.report.jobs import CACHED, Job
from siamese.runs.tables import Prediction, iterate_predictions

ROC_GRID = np.linspace(0, 1, 201)
"""False positive rates at which the ROC of a run is interpolated; finer than the figure shows."""

FILE = ".scored.json"
"""Where it is stored, in the run folder."""


class PairSet(NamedTuple):
    """Equal for equal lists of pairs: a digest of names and labels, the number of pairs, and of those that are same."""

    digest: str
    n: int
    same: int


class Scored(NamedTuple):
    """The scored pairs of a job.

    Attributes:
        validated: the validation pairs.
        tested: the P test pairs.
        packed: which test pairs were predicted correctly, one bit each.
        tpr: float [201], the true positive rates at `ROC_GRID`; nan if the test pairs have no ROC.
    """

    validated: PairSet
    tested: PairSet
    packed: bytes
    tpr: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Bool [P], which test pairs were predicted correctly."""
        bits = np.unpackbits(np.frombuffer(self.packed, dtype=np.uint8), count=self.tested.n)
        return bits.astype(bool)


def scored(job: Job) -> Scored:
    """The scored pairs of a job; empty if there is no ``predictions.csv``."""
    file = job.folder / "predictions.csv"
    return _scored(file, file_state(file), job.status == "done")


class _Reader:
    """Takes in the pairs of one set, one by one."""

    def __init__(self) -> None:
        self._digest, self._waiting = hashlib.sha256(), list[str]()
        self.labels, self.right, self.scores = bytearray(), bytearray(), array("d")

    def add(self, pair: Prediction) -> None:
        self._waiting.append(f"{pair.image1}\0{pair.image2}\0{pair.label}\0")
        if len(self._waiting) == 4096:
            self._flush()
        self.labels.append(pair.label)
        self.right.append(pair.label == pair.predicted)
        self.scores.append(pair.score)

    def _flush(self) -> None:
        self._digest.update("".join(self._waiting).encode("utf-8", "surrogatepass"))
        self._waiting.clear()

    @property
    def pairs(self) -> PairSet:
        self._flush()
        return PairSet(self._digest.hexdigest(), len(self.labels), sum(self.labels))


@lru_cache(maxsize=CACHED)
def _scored(file: Path, state: tuple[int, ...] | None, store: bool) -> Scored:
    if state is None:
        return _read(file)
    stored = file.with_name(FILE)
    found = _load(stored, state)
    if found is None:
        found = _read(file)
        if store:
            with suppress(OSError):  # for example a folder of somebody else
                _save(stored, state, found)
    return found


def _read(file: Path) -> Scored:
    readers = {"val": _Reader(), "test": _Reader()}
    for pair in iterate_predictions(file):
        if pair.split in readers:
            readers[pair.split].add(pair)
    tested = readers["test"]
    tpr = np.full(len(ROC_GRID), math.nan)
    if tested.labels:
        x, y, _ = roc_curve(np.frombuffer(tested.scores), np.frombuffer(tested.labels, dtype=np.uint8))
        if not np.isnan(x).any() and not np.isnan(y).any():
            tpr = np.interp(ROC_GRID, x, y)
    right = np.packbits(np.frombuffer(tested.right, dtype=np.uint8)).tobytes()
    return Scored(readers["val"].pairs, tested.pairs, right, tpr)


def _load(stored: Path, state: tuple[int, ...]) -> Scored | None:
    """What was stored for a file in this state by this code; None if nothing usable."""
    try:
        record = json.loads(stored.read_text(encoding="utf-8"))
        if (record["code"], record["state"]) != (code_version(), list(state)):
            return None
        validated, tested = PairSet(*record["validated"]), PairSet(*record["tested"])
        tpr = np.array([math.nan if rate is None else rate for rate in record["tpr"]], dtype=np.float64)
        found = Scored(validated, tested, base64.b64decode(record["right"]), tpr)
        is_whole = 8 * len(found.packed) - tested.n in range(8) and len(tpr) == len(ROC_GRID)
        return found if is_whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(stored: Path, state: tuple[int, ...], found: Scored) -> None:
    record = {
        "code": code_version(), "state": state, "validated": found.validated, "tested": found.tested,
        "right": base64.b64encode(found.packed).decode(),
        "tpr": [None if math.isnan(rate) else rate for rate in found.tpr.tolist()],
    }  # fmt: skip
    write_text_atomically(stored, json.dumps(record))


# --- the people of the test pairs ---------------------------------------------------------------------------

_people: dict[PairSet, NumberedPeople] = {}
"""The people of the last test sets. The jobs of a comparison have the same test pairs, so it is read once."""


def people_of_tested(job: Job) -> NumberedPeople | None:
    """The people of a job's test pairs; None if its file has changed meanwhile."""
    wanted = scored(job).tested
    if wanted not in _people:
        pairs, people = _read_people(job.folder / "predictions.csv")
        if pairs != wanted:
            return None
        while len(_people) >= 4:
            del _people[next(iter(_people))]
        _people[wanted] = people
    return _people[wanted]


def _read_people(file: Path) -> tuple[PairSet, NumberedPeople]:
    reader = _Reader()
    name: dict[str, str] = {}  # each name once in memory
    pairs = []
    for pair in iterate_predictions(file):
        if pair.split == "test":
            reader.add(pair)
            first, second = (name.setdefault(image, image) for image in (pair.image1, pair.image2))
            pairs.append(Pair(first, second, pair.label))
    return reader.pairs, NumberedPeople(people_of_each(pairs))
