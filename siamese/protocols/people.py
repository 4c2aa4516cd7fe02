"""The test people of finished runs, for evaluations that find a person among many."""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn

from siamese.config.data import OwnData
from siamese.data.image_cache import load_images
from siamese.data.lists import People
from siamese.data.pixels import Images
from siamese.data.protocol import read_test_people
from siamese.data.sources import image_root
from siamese.evaluation.decision import Decision, choose_decision
from siamese.files import file_digest
from siamese.parallel import READERS, in_order
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.moved import changed_images
from siamese.runs.tables import Membership
from siamese.scoring.device import pick_device
from siamese.scoring.leakage import check_names, check_unseen
from siamese.scoring.networks import load_scorer, recorded_decision
from siamese.scoring.precision import recorded_arithmetic
from siamese.scoring.run_data import changed_data, load_run_data
from siamese.scoring.scores import embed_images, score_pairs
from siamese.text import count

log = logging.getLogger(__name__)


class TestImages(NamedTuple):
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
    """A run of the ensemble, ready to score: its head, the embeddings of all test images, and its decision."""

    head: nn.Module
    embeddings: Tensor
    decision: Decision
    bf16: bool


def find_test_people(runs: list[FinishedRun], folder: RunFolder) -> People:
    """Return the images of each test person, after `check_people` for each run."""
    people = read_test_people(runs[0].config.data, runs[0].config.protocol, runs[0].test_only)
    for run in runs:
        check_people(run, people, folder)
    return people


def check_people(run: FinishedRun, people: People, folder: RunFolder) -> None:
    """Make sure that the run has not seen the test people, and that the user's own test images are unchanged.

    Raises:
        DataError: otherwise.
    """
    tested = {image: person for person, images in people.items() for image in images}
    if run.foreign:
        check_unseen(run, tested, folder)
    elif run.other_lists:
        check_names(run, tested)
    elif isinstance(run.config.data, OwnData) and (recorded := run.folder.memberships) is not None:
        root = image_root(run.config.data)
        digests = in_order(lambda image: file_digest(root / image), list(tested), workers=READERS)
        now = [Membership(*one, "test", digest) for one, digest in zip(tested.items(), digests, strict=True)]
        before = [row for row in recorded if row.split == "test"]
        if changed := changed_images(before, now):
            raise changed_data(changed, root)


def load_test_images(runs: list[FinishedRun], people: People) -> TestImages:
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
    return TestImages(usable, pixels, excluded)


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
    return Member(network.head, z_ND, decision, bf16)
