"""N-way one-shot trials among the test people (Koch et al. 2015, section 4.3)."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese.config.protocol import OneShotProtocol
from siamese.data.lists import People
from siamese.data.pixels import Images
from siamese.data.sources import image_root
from siamese.errors import DataError
from siamese.evaluation.oneshot import Identification, Trials, draw_trials, identification_accuracy
from siamese.evaluation.people import are_few
from siamese.files import write_csv_atomically
from siamese.protocols.people import Member, find_test_people, load_member, load_test_images
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.tables import write_excluded
from siamese.scoring.scores import score_embeddings
from siamese.text import count

log = logging.getLogger(__name__)

ONESHOT_COLUMNS = ("ways", "trials", "acc", "low", "high", "pixels", "pixels_low", "pixels_high", "chance")


def evaluate_oneshot(runs: list[FinishedRun], refit: bool, protocol: OneShotProtocol, folder: RunFolder) -> None:
    """Run the trials for each number of ways, and compare with the nearest image by pixels.

    Write ``oneshot.csv`` and the keys ``oneshot/N/acc``, ``oneshot/N/acc_ci``, ``oneshot/N/pixels``,
    ``oneshot/ci_over`` and ``oneshot/within``.

    Args:
        runs: one run, or the members of an ensemble.
        refit: fit back end and calibration again instead of using those of the runs.
        protocol: ways, trials and seed, and which people are in one trial.
        folder: folder of the evaluation.

    Raises:
        DataError: there are too few people or images, a test person was seen in training, or the user's own images
            changed since the run.
    """
    people = find_test_people(runs, folder)
    if protocol.within is not None:
        people = in_groups(people, protocol.within, min(protocol.ways))
    images = load_test_images(runs, people)
    groups = None if protocol.within is None else [group_of(person, protocol.within) for person in images.people]
    drawn: dict[int, Trials] = {}
    for ways in protocol.ways:
        try:
            drawn[ways] = draw_trials(list(images.people.values()), ways, protocol.trials, protocol.seed, groups)
        except ValueError as error:
            write_excluded(folder.excluded, images.excluded)  # it may be the reason
            root, within = image_root(runs[0].config.data), "" if groups is None else " or another protocol.within"
            raise DataError(f"{root}: {error}; give other protocol.ways{within}") from None
    members = [load_member(run, refit, pixels, folder) for run, pixels in zip(runs, images.pixels, strict=True)]
    write_excluded(folder.excluded, images.excluded)
    folder.record(
        n_test_people=len(images.people), n_test_images=len(images.pixels[0]), n_excluded=len(images.excluded)
    )
    person_of = {row: person for person, of_person in images.people.items() for row in of_person}
    targets = {ways: [person_of[row] for row in trials.query.tolist()] for ways, trials in drawn.items()}
    over_people = any(are_few([(one, one) for one in drawn_people]) for drawn_people in targets.values())
    result: dict[str, Any] = {"oneshot/ci_over": "people" if over_people else "trials"}
    result |= {} if groups is None else {"oneshot/within": protocol.within}
    rows = []
    for ways, trials in drawn.items():
        pairs = torch.from_numpy(trials.pairs)
        found, nearest = (
            identification_accuracy(scores.reshape(-1, ways), targets[ways], over_people)
            for scores in (mean_logits(members, pairs), pixel_scores(images.pixels[0], pairs))
        )
        rows.append(
            (ways, protocol.trials, found.accuracy, *found.interval, nearest.accuracy, *nearest.interval, 1 / ways)
        )
        result |= {
            f"oneshot/{ways}/acc": found.accuracy,
            f"oneshot/{ways}/acc_ci": None if math.isnan(found.interval.low) else list(found.interval),
            f"oneshot/{ways}/pixels": nearest.accuracy,
        }
        _log_accuracy(ways, protocol.trials, found, nearest)
    write_csv_atomically(folder.path / "oneshot.csv", ONESHOT_COLUMNS, rows)
    folder.record(**result)


def group_of(person: str, within: str) -> str:
    """The group of a person: the name up to the last ``within``."""
    return person.rpartition(within)[0] or person


def in_groups(people: People, within: str, ways: int) -> People:
    """Return the people in groups of at least ``ways``, who alone can be in a trial; all if there is no such group."""
    sizes = Counter(group_of(person, within) for person in people)
    kept = {person: images for person, images in people.items() if sizes[group_of(person, within)] >= ways}
    if kept and len(kept) < len(people):
        left_out = count(len(people) - len(kept), "person", "people")
        log.warning("protocol.within=%s: %s left out, in groups of fewer than %d", within, left_out, ways)
    return kept or people


def mean_logits(members: list[Member], pairs: Tensor) -> NDArray[np.float64]:
    """The mean over the members of their calibrated logits, float64 [P], for pairs of rows int64 [P, 2]."""
    logits = [m.decision.calibration.logits(score_embeddings(m.head, m.embeddings, pairs, m.bf16)) for m in members]
    mean: NDArray[np.float64] = np.mean(logits, axis=0)
    return mean


def pixel_scores(pixels: Images, pairs: Tensor) -> NDArray[np.float32]:
    """The negative Euclidean distance of both images of each pair, [P]."""
    distances = [
        torch.linalg.vector_norm((pixels[chunk[:, 0]].float() - pixels[chunk[:, 1]].float()).flatten(1), dim=1)
        for chunk in pairs.split(256)
    ]
    scores: NDArray[np.float32] = -torch.cat(distances).numpy()
    return scores


def _log_accuracy(ways: int, trials: int, found: Identification, nearest: Identification) -> None:
    log.info(
        "%d-way one-shot: %.1f %% (95 %% confidence interval: %.1f - %.1f) of %s; nearest by pixels %.1f %%, "
        "chance %.1f %%",
        ways, 100 * found.accuracy, 100 * found.interval.low, 100 * found.interval.high, count(trials, "trial"),
        100 * nearest.accuracy, 100 / ways,
    )  # fmt: skip
