"""Closed-set and open-set identification of the test people in random galleries."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamese.config.protocol import IdentificationProtocol
from siamese.data.sources import image_root
from siamese.errors import DataError
from siamese.evaluation.identification import (
    FPIRS,
    RANKS,
    CmcPoint,
    Draw,
    Searches,
    as_verification,
    cumulative_matches,
    draw_gallery,
    joined,
    open_set_curve,
    search,
    twice,
)
from siamese.evaluation.intervals import share_interval, tar_interval
from siamese.evaluation.metrics import sigmoid, tar_at_far
from siamese.evaluation.people import NumberedPeople
from siamese.files import write_csv_atomically
from siamese.protocols.people import Member, find_test_people, load_member, load_test_images
from siamese.runs.finished import FinishedRun
from siamese.runs.folder import RunFolder
from siamese.runs.records import Result
from siamese.runs.tables import CMC_COLUMNS, OPEN_SET_COLUMNS, write_excluded
from siamese.scoring.search import image_terms, prepare_queries, score_queries
from siamese.text import count

log = logging.getLogger(__name__)

BLOCK = 128
"""Searches at once."""


def evaluate_identification(
    runs: list[FinishedRun], refit: bool, protocol: IdentificationProtocol, folder: RunFolder
) -> None:
    """Search random galleries of the test people, with one image each, for another image of each person.

    Write ``cmc.csv`` and, with strangers, ``open_set.csv``, and the keys ``identification/...`` of ``result.json``.

    Args:
        runs: one run, or the members of an ensemble.
        refit: fit back end, calibration and threshold again instead of using those of the runs.
        protocol: share of strangers, number of galleries and seed.
        folder: folder of the evaluation.

    Raises:
        DataError: there are too few people or images, a test person was seen in training, or the user's own images
            changed since the run.
    """
    people = find_test_people(runs, folder)
    images = load_test_images(runs, people)
    write_excluded(folder.excluded, images.excluded)
    rows = list(images.people.values())
    try:
        draws = [draw_gallery(rows, protocol.strangers, protocol.seed, draw) for draw in range(protocol.draws)]
    except ValueError as error:
        raise DataError(f"{image_root(runs[0].config.data)}: {error}") from None
    enrolled = int(draws[0].enrolled.sum())
    if protocol.strangers and enrolled == len(rows):
        log.warning("protocol.strangers=%g of %d people: no strangers, so no open set", protocol.strangers, len(rows))
    members = [load_member(run, refit, pixels, folder) for run, pixels in zip(runs, images.pixels, strict=True)]
    found = search_all(members, draws)
    curve = cumulative_matches(found, len(rows))
    write_csv_atomically(folder.path / "cmc.csv", CMC_COLUMNS, curve)
    figures = {
        "draws": protocol.draws,
        "searched": len(np.unique(found.person[found.has_mate])),
        "enrolled": enrolled,
        **_closed_set(curve),
    }
    decision = members[0].decision if len(members) == 1 else None
    if enrolled < len(rows):
        roc = open_set_curve(found)
        at = [("", ""), *zip(roc.thresholds[1:], sigmoid(roc.thresholds[1:]), strict=True)]
        open_set = ((*threshold, x, y) for threshold, x, y in zip(at, roc.fpr, roc.tpr, strict=True))
        write_csv_atomically(folder.path / "open_set.csv", OPEN_SET_COLUMNS, open_set)
        figures |= _open_set(found, len(rows) - enrolled, None if decision is None else decision.threshold)
    result = folder.record(
        n_test_people=len(rows),
        n_test_images=len(images.pixels[0]),
        n_excluded=len(images.excluded),
        **({} if decision is None else decision.recorded()),
        **{f"identification/{name}": value for name, value in figures.items()},
    )
    _log(result)


def search_all(members: list[Member], draws: list[Draw]) -> Searches:
    """Search every gallery for all images to find in it."""
    parts = []
    for draw in draws:
        galleries = [gallery_of(member, torch.from_numpy(draw.gallery)) for member in members]
        for first in range(0, len(draw.probe), BLOCK):
            rows = slice(first, first + BLOCK)
            parts.append(search(gallery_logits(members, galleries, torch.from_numpy(draw.probe[rows])), draw, rows))
    return joined(parts)


def _closed_set(curve: list[CmcPoint]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for point in curve:
        if point.rank in RANKS:
            figures |= {f"rank{point.rank}": point.rate, f"rank{point.rank}_ci": _ends(point.low, point.high)}
    return figures


def _open_set(found: Searches, strangers: int, threshold: float | None) -> dict[str, Any]:
    """The rates of the open set; at ``threshold`` on the probability too, unless it is None."""
    scores, labels = as_verification(found)
    known = NumberedPeople(twice(found.person))
    figures: dict[str, Any] = {}
    for far in FPIRS:
        if strangers * far >= 1:
            ends = tar_interval(scores, labels, far, known, over_people=True)
            figures |= {f"tpir@fpir={far:g}": tar_at_far(scores, labels, far), f"tpir@fpir={far:g}_ci": _ends(*ends)}
    if threshold is not None:
        accepted = sigmoid(found.top) >= threshold
        for name, of, right in (
            ("fpir", found.is_stranger, accepted), ("tpir", ~found.is_stranger, accepted & found.is_right),
        ):  # fmt: skip
            ends = share_interval(right[of], known.part(of), over_people=True)
            figures |= {name: float(right[of].mean()), f"{name}_ci": _ends(*ends)}
    return figures


def _ends(low: float, high: float) -> list[float] | None:
    return None if math.isnan(low) else [low, high]


def _log(result: Result) -> None:
    people, enrolled = result.n_test_people or 0, result.identification_enrolled or 0
    log.info(
        "closed set, %s: rank 1 %.1f %% (%s searched for)",
        count(people, "person", "people"), 100 * (result.figure("identification/rank1") or 0),
        count(result.identification_searched or 0, "person", "people"),
    )  # fmt: skip
    for far in FPIRS:
        if (tpir := result.figure(f"identification/tpir@fpir={far:g}")) is not None:
            strangers = count(people - enrolled, "stranger")
            log.info(
                "open set, gallery of %d, %s: TPIR %.1f %% at FPIR %g %%", enrolled, strangers, 100 * tpir, 100 * far
            )


def gallery_of(member: Member, images: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of the gallery, and what its scores need of each (`siamese.scoring.search.image_terms`)."""
    z_PD = member.embeddings[images.to(member.embeddings.device)].float()
    return z_PD, image_terms(member.head, z_PD)


def gallery_logits(
    members: list[Member], galleries: list[tuple[Tensor, Tensor]], probes: Tensor
) -> NDArray[np.float64]:
    """The mean over the members of their calibrated logits, of each probe with each image of the gallery [Q, P]."""
    logits = []
    for member, (z_PD, terms) in zip(members, galleries, strict=True):
        queries = prepare_queries(member.head, member.embeddings[probes.to(z_PD.device)].float())
        score_QP = score_queries(member.head, queries, z_PD, terms).T.cpu().numpy()
        logits.append(member.decision.calibration.logits(score_QP))
    mean: NDArray[np.float64] = np.mean(logits, axis=0)
    return mean
