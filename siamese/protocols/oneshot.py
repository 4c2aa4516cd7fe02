"""N-way one-shot trials among the test people (Koch et al. 2015, section 4.3)."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from siamese.config.data import OwnData
from siamese.config.protocol import OneShotProtocol
from siamese.data.image_cache import load_images
from siamese.data.lists import People
from siamese.data.pixels import Images
from siamese.data.protocol import read_test_people
from siamese.data.sources import image_root
from siamese.errors import DataError
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import choose_decision
from siamese.evaluation.identification import Identification, Trials, draw_trials, identification_accuracy
from siamese.evaluation.people import are_few
from siamese.files import file_digest, write_csv_atomically
from siamese.parallel import READERS, in_order
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.moved import changed_images
from siamese.runs.records import Membership, write_excluded
from siamese.scoring.device import pick_device
from siamese.scoring.leakage import check_unseen
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.run_data import changed_data, load_run_data
from siamese.scoring.scores import embed_images, score_embeddings, score_pairs
from siamese.text import count

log = logging.getLogger(__name__)

ONESHOT_COLUMNS = ("ways", "trials", "acc", "low", "high", "pixels", "pixels_low", "pixels_high", "chance")


class OneshotImages(NamedTuple):
    """The usable images of the test people.

    Attributes:
        people: person -> the rows of their images.
        pixels: for each run uint8 [N, C, H, W], preprocessed as that run does; equal rows are the same image.
        excluded: images that at least one run could not use, with the reason.
    """

    people: dict[str, list[int]]
    pixels: list[Images]
    excluded: dict[str, str]


class Member(NamedTuple):
    """A run of the ensemble, ready to score: its head, the embeddings of all test images, and its calibration."""

    head: nn.Module
    embeddings: Tensor
    calibration: Calibration
    bf16: bool


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
    people = read_test_people(runs[0].config.data, runs[0].config.protocol, runs[0].test_only)
    for run in runs:
        check_people(run, people, folder)
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


def check_people(run: FinishedRun, people: People, folder: RunFolder) -> None:
    """Make sure that the run has not seen the test people, and that the user's own test images are unchanged.

    Raises:
        DataError: otherwise.
    """
    if run.foreign:
        check_unseen(run, {image: person for person, images in people.items() for image in images}, folder)
    elif isinstance(run.config.data, OwnData) and (recorded := run.folder.memberships) is not None:
        root = image_root(run.config.data)
        images = [(image, person) for person, images in people.items() for image in images]
        digests = in_order(lambda one: file_digest(root / one[0]), images, workers=READERS)
        now = [Membership(*one, "test", digest) for one, digest in zip(images, digests, strict=True)]
        before = [row for row in recorded if row.split == "test"]
        if changed := changed_images(before, now):
            raise changed_data(changed, root)


def load_test_images(runs: list[FinishedRun], people: People) -> OneshotImages:
    """Decode the images of the test people for each run; keep those that all can use."""
    listed = [name for images in people.values() for name in images]
    progress = sys.stderr.isatty()
    arrays = [load_images(image_root(run.config.data), listed, run.config.data, progress) for run in runs]
    excluded = {name: reason for array in arrays for name, reason in array.excluded.items()}
    names = [name for name in listed if name not in excluded]
    number = {name: index for index, name in enumerate(names)}
    rows = [[number[name] for name in images if name in number] for images in people.values()]
    pixels: list[Images] = []
    for array in arrays:
        row = {name: index for index, name in enumerate(array.names)}
        pixels.append(array.pixels.only([row[name] for name in names]))
    usable = {person: images for person, images in zip(people, rows, strict=True) if images}
    sizes = count(len(usable), "person", "people"), count(len(names), "image"), count(len(excluded), "image")
    log.info("%s, %s; %s excluded", *sizes)
    return OneshotImages(usable, pixels, excluded)


def load_member(run: FinishedRun, refit: bool, pixels: Images, folder: RunFolder) -> Member:
    """Load a run and embed all test images with it."""
    device, bf16 = pick_device(run.config), recorded_arithmetic(run.result).bf16
    if refit:
        data = load_run_data(run.config, folder)
        network = load_scorer(run, refit, data)
        val = score_pairs(network, data.pixels, data.val.indices, device, bf16)
        labels = data.val.labels.numpy()
        decision = choose_decision(val, labels, run.config.fitted_calibration, run.config.threshold)
    else:
        network, decision = load_scorer(run), recorded_decision(run.result)
    z_ND = embed_images(network, pixels, torch.arange(len(pixels)), device, bf16)
    return Member(network.head, z_ND, decision.calibration, bf16)


def mean_logits(members: list[Member], pairs: Tensor) -> NDArray[np.float64]:
    """The mean over the members of their calibrated logits, float64 [P], for pairs of rows int64 [P, 2]."""
    logits = [m.calibration.logits(score_embeddings(m.head, m.embeddings, pairs, m.bf16)) for m in members]
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
