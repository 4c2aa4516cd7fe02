"""Score finished runs: the figures that training reported, those on other images, of an ensemble, or one-shot."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese.checkpoints import load_backend, load_network
from siamese.config import EvalConfig, FolderData, OneShotProtocol, read_yaml
from siamese.data.images import load_images
from siamese.data.lists import Pair, identities, people_of
from siamese.data.module import PairDataModule
from siamese.data.sources import image_root, read_listed, read_test_people
from siamese.errors import DataError, UserError
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision, choose_decision
from siamese.evaluation.identification import draw_trials, identification_accuracy
from siamese.experiment import announce, changed_since, describe, judge, load_data, score_splits
from siamese.files import write_csv_atomically
from siamese.hardware import pick_device, recorded_arithmetic
from siamese.models.siamese import SiameseNetwork
from siamese.report.run import write_run_report
from siamese.runs import Member, RunFolder, find_runs
from siamese.scoring import embed_images, fit_backend, score_embeddings, score_pairs

log = logging.getLogger(__name__)

ONESHOT_COLUMNS = ("ways", "trials", "acc", "low", "high", "pixels", "pixels_low", "pixels_high", "chance")


def evaluate(config: EvalConfig, folder: RunFolder) -> dict[str, Any]:
    """Score a run's best weights, or the mean of several runs', and write the result into ``folder``.

    A single run keeps the calibration and the threshold that belong to it. An ensemble's scores are the mean of its
    members' calibrated logits; they are calibrated anew, and its threshold is chosen, on the validation pairs.

    Raises:
        UserError: the runs or the data cannot be used.
    """
    started = time.perf_counter()
    members = find_runs(config)
    start_evaluation(members, config, folder)
    if isinstance(config.protocol, OneShotProtocol):
        identify(members, config.scores_anew, config.protocol, folder)
    else:
        verify(members, config.scores_anew, folder)
    result = folder.record(status="done", total_seconds=round(time.perf_counter() - started, 2))
    log.info("report: %s", write_run_report(folder.path))
    return result


def start_evaluation(members: list[Member], config: EvalConfig, folder: RunFolder) -> None:
    """Record what is scored, before it is."""
    first = members[0]
    facts = describe(first.config, pick_device(first.config), recorded_arithmetic(first.result))
    # What the weights were made with counts, whatever they are scored on.
    facts["outside_data"] |= any(member.result["outside_data"] for member in members)
    paths = [str(member.folder.path.resolve()) for member in members]
    facts["setting"] = first.result.get("setting", facts["setting"])
    if config.protocol is not None:
        facts["protocol"] = config.protocol.name
    folder.start(
        first.config,
        **facts,
        run=paths[0] if len(paths) == 1 else paths,
        trained_on=first.result["dataset"],
        best_epoch=first.result["best_epoch"] if len(paths) == 1 else None,
        parameters=sum(member.result["parameters"] for member in members),
    )


def verify(members: list[Member], refit: bool, folder: RunFolder) -> None:
    """Score the validation and test pairs and record the figures; ``refit`` as of `load_scorer`."""
    first = members[0]
    scored: list[dict[str, NDArray[np.floating]]] = []
    pairs: list[list[Pair]] = []
    for member in members:
        data = load_data(member.config, folder, member.test_only, None if member.foreign else member.folder)
        if member.foreign:
            person = identities(data.test.pairs)
            check_strangers(member, {*person, *person.values()}, folder)
        pairs.append(data.val.pairs + data.test.pairs)
        if pairs[-1] != pairs[0]:
            raise DataError(f"{member.folder.path}: other images are unusable for it than for {first.folder.path}")
        network = load_scorer(member, refit, data)
        scored.append(score_splits(network, data, pick_device(member.config), recorded_arithmetic(member.result).bf16))
    labels = data.val.labels.numpy()
    decisions = [
        choose_decision(one["val"], labels, member.config.fitted_calibration, member.config.threshold)
        if refit
        else decision_of(member.result)
        for member, one in zip(members, scored, strict=True)
    ]
    scores, decision = scored[0], decisions[0]
    if len(members) > 1:
        logits = [{k: own.calibration.logits(one[k]) for k in one} for own, one in zip(decisions, scored, strict=True)]
        scores = {split: np.mean([one[split] for one in logits], axis=0) for split in scores}
        decision = choose_decision(scores["val"], labels, "platt", first.config.threshold)
    announce(folder.record(**judge(scores, data, decision, first.config.threshold, folder)))


def check_strangers(member: Member, tested: set[str], folder: RunFolder) -> None:
    """Make sure that nobody of a test on other data was trained on or validated with, as far as names tell.

    Args:
        member: what is tested.
        tested: names of the people and of the images.
        folder: of the evaluation.

    Raises:
        DataError: somebody was, in the same folder of photos.
    """
    if not (both := seen_by(member.folder) & tested):
        return
    told = f"somebody of the test ({min(both)}) was trained on or validated with in {member.folder.path}"
    if folder.result is not None and folder.result.get("image_root") == member.result.get("image_root"):
        raise DataError(f"{folder.result['image_root']}: {told}; leave data out, to test on those that it kept apart")
    log.warning("%s, if the names mean the same: figures are too good for strangers", told)


def seen_by(run: RunFolder) -> set[str]:
    """The names of people and images that a run was trained or validated with; none where its lists are gone."""
    if (members := run.memberships) is not None:
        return {name for *names, split in members if split != "test" for name in names}
    trained = read_yaml(run.config)
    try:
        listed = read_listed(trained.data, trained.protocol)
    except UserError:
        return set()
    named = {image for images in (listed.people or {}).values() for image in images}
    return named | set(listed.people or ()) | people_of(listed.train) | {i for pair in listed.train for i in pair[:2]}


def load_scorer(member: Member, refit: bool, data: PairDataModule | None = None) -> SiameseNetwork:
    """A run's best network with the head that scores.

    Args:
        member: the run, and with which back end to score it.
        refit: fit that back end to the training images of ``data`` instead of loading what the run has saved.
        data: of the run, set up; needed to fit.

    Raises:
        DataError: a file of the run cannot be used.
    """
    arithmetic, backend = recorded_arithmetic(member.result), member.config.backend
    network = load_network(member.folder.best, member.config, arithmetic.dft)
    if backend.name == "network":
        return network
    if refit:
        assert data is not None
        network.head = fit_backend(backend, network, data, pick_device(member.config), arithmetic.bf16)
    else:
        network.head = load_backend(member.folder.backend, backend, network.encoder.embedding_dim)
    return network


def decision_of(result: dict[str, Any]) -> Decision:
    """Calibration and threshold that were chosen when the run was trained; an older run's scores are logits."""
    return Decision(
        Calibration(result.get("calibration/slope", 1.0), result.get("calibration/intercept", 0.0)), result["threshold"]
    )


def identify(members: list[Member], refit: bool, protocol: OneShotProtocol, folder: RunFolder) -> None:
    """N-way one-shot trials among the test people, beside the nearest in pixels.

    Writes ``oneshot.csv`` and, into ``result.json``, ``oneshot/N/acc``, its interval, and ``oneshot/N/pixels``.

    Raises:
        DataError: there are too few people or images for the trials.
    """
    scorers = []
    for member in members:
        device, bf16 = pick_device(member.config), recorded_arithmetic(member.result).bf16
        data = load_data(member.config, folder) if refit else None
        network = load_scorer(member, refit, data)
        decision = decision_of(member.result)
        if data is not None:
            val = score_pairs(network, data.pixels, data.val.indices, device, bf16)
            calibration, threshold = member.config.fitted_calibration, member.config.threshold
            decision = choose_decision(val, data.val.labels.numpy(), calibration, threshold)
        scorers.append((network, device, bf16, decision.calibration))
    people = read_test_people(members[0].config.data, members[0].config.protocol, members[0].test_only)
    tested = {image for images in people.values() for image in images}
    for member in members:
        if member.foreign:
            check_strangers(member, {*people, *tested}, folder)
        elif isinstance(member.config.data, FolderData) and (recorded := member.folder.memberships) is not None:
            now = [(image, name, "test") for name, images in people.items() for image in images]
            before = [row for row in recorded if row[2] == "test"]
            if sorted(now) != before:
                raise DataError(changed_since(before, now, image_root(member.config.data)))
    listed = [name for images in people.values() for name in images]
    arrays = [
        load_images(image_root(m.config.data), listed, m.config.data, progress=sys.stderr.isatty()) for m in members
    ]
    usable = set.intersection(*(set(array.names) for array in arrays))
    excluded = sorted({name: reason for array in arrays for name, reason in array.excluded.items()}.items())
    write_csv_atomically(folder.path / "excluded.csv", ["file", "reason"], excluded)
    names = [name for name in listed if name in usable]
    number = {name: index for index, name in enumerate(names)}
    photos = [[number[name] for name in images if name in number] for images in people.values()]
    photos = [images for images in photos if images]
    folder.record(n_test_people=len(photos), n_test_images=len(names), n_excluded=len(excluded))
    log.info("%d people, %d images; %d images unusable", len(photos), len(names), len(excluded))
    pixels = []
    for array in arrays:
        row = {name: index for index, name in enumerate(array.names)}
        pixels.append(torch.from_numpy(array.pixels[[row[name] for name in names]]))
    everyone = torch.arange(len(names))
    embedded = [
        embed_images(network, images, everyone, device, bf16)
        for (network, device, bf16, _), images in zip(scorers, pixels, strict=True)
    ]
    result: dict[str, Any] = {}
    rows = []
    for ways in protocol.ways:
        try:
            trials = draw_trials(photos, ways, protocol.trials, protocol.seed)
        except ValueError as error:
            raise DataError(f"{image_root(members[0].config.data)}: {error}; give other protocol.ways") from None
        pairs = torch.from_numpy(trials.pairs)
        logits = [
            line.logits(score_embeddings(network.head, z_ND, pairs, bf16))
            for (network, _, bf16, line), z_ND in zip(scorers, embedded, strict=True)
        ]
        found = identification_accuracy(np.mean(logits, axis=0).reshape(-1, ways))
        nearest = identification_accuracy(_pixel_scores(pixels[0], pairs).reshape(-1, ways))
        rows.append(
            (ways, protocol.trials, found.accuracy, *found.interval, nearest.accuracy, *nearest.interval, 1 / ways)
        )
        result |= {
            f"oneshot/{ways}/acc": found.accuracy,
            f"oneshot/{ways}/acc_ci": list(found.interval),
            f"oneshot/{ways}/pixels": nearest.accuracy,
        }
        log.info(
            "%d-way one-shot: %.1f %% (95 %%: %.1f - %.1f) of %d trials; nearest pixels %.1f %%, chance %.1f %%",
            ways, 100 * found.accuracy, 100 * found.interval.low, 100 * found.interval.high, protocol.trials,
            100 * nearest.accuracy, 100 / ways,
        )  # fmt: skip
    write_csv_atomically(folder.path / "oneshot.csv", ONESHOT_COLUMNS, rows)
    folder.record(**result)


def _pixel_scores(pixels: Tensor, pairs: Tensor) -> NDArray[np.float32]:
    """The Euclidean distance of both images of each pair, with the sign that makes higher mean more alike, [P]."""
    distances = [
        torch.linalg.vector_norm((pixels[chunk[:, 0]].float() - pixels[chunk[:, 1]].float()).flatten(1), dim=1)
        for chunk in pairs.split(256)
    ]
    scores: NDArray[np.float32] = -torch.cat(distances).numpy()
    return scores
