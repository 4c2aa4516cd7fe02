"""Identification of the test people in galleries, with one run and with an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import eval_config
from conftest import TINY, read_rows, without_times

from siamese.errors import DataError
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision
from siamese.models.siamese import CosineHead, L1Head
from siamese.protocols.evaluate import evaluate
from siamese.protocols.identification import gallery_logits, gallery_of
from siamese.protocols.people import Member
from siamese.report.run_page import write_run_page
from siamese.runs.folder import RunFolder
from siamese.scoring.scores import score_embeddings

PROTOCOL = {"name": "identification", "draws": 3}


def evaluation(runs: list[Path], folder: Path, **protocol: Any) -> dict[str, Any]:
    config = eval_config(run=[str(path) for path in runs], protocol={**PROTOCOL, **protocol})
    return evaluate(config, RunFolder(folder)).as_dict()


@pytest.mark.integration
def test_identification_with_one_run_and_with_two(
    embedding_run: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    runs = [embedding_run(seed)[0] for seed in (0, 1)]
    one = evaluation(runs[:1], tmp_path / "one")
    again = evaluation(runs[:1], tmp_path / "again")
    two = evaluation(runs, tmp_path / "two")
    assert without_times(one) == without_times(again)
    numbers = [one["n_test_people"], *(one[f"identification/{key}"] for key in ("enrolled", "searched", "draws"))]
    assert numbers == [TINY.test_people, TINY.test_people // 2, TINY.test_people, 3]
    assert one["protocol"] == "identification"

    cmc = read_rows(tmp_path / "one/cmc.csv")
    assert [int(row["rank"]) for row in cmc] == list(range(1, TINY.test_people + 1))
    for rank in (1, 5, 10):
        row, low_high = cmc[rank - 1], one[f"identification/rank{rank}_ci"]
        assert one[f"identification/rank{rank}"] == float(row["rate"])
        assert low_high == [float(row["low"]), float(row["high"])]
    assert float(cmc[-1]["rate"]) == 1
    # The rates at the run's threshold lie between two corners of the curve.
    threshold = embedding_run(0)[1]["threshold"]
    rows = read_rows(tmp_path / "one/open_set.csv")
    below = sum(float(row["probability"] or 1) >= threshold for row in rows)
    for rate in ("fpir", "tpir"):
        ends = [float(row[rate]) for row in rows[below - 1 : below + 1]]
        assert ends[0] <= one[f"identification/{rate}"] <= ends[-1]
    kept = ("threshold", "calibration/slope", "calibration/intercept")
    assert {key: one[key] for key in kept} == {key: embedding_run(0)[1][key] for key in kept}
    # An ensemble has no threshold without scoring the validation pairs.
    assert not {"threshold", "identification/fpir", "identification/tpir"} & two.keys()
    other = evaluation(runs[1:], tmp_path / "other")
    assert len({tuple(result[f"identification/rank{k}"] for k in (1, 5, 10)) for result in (one, other, two)}) == 3

    page = (tmp_path / "one/report.html").read_text()
    for text in ("<h2>Identification</h2>", "TPIR at the run’s threshold", "are chosen as strangers"):
        assert text in page
    (tmp_path / "one/cmc.csv").unlink()
    (tmp_path / "one/open_set.csv").write_text("logit,probability,fpir,tpir\n1,x,0.5,0.5\n")
    write_run_page(tmp_path / "one")
    page = (tmp_path / "one/report.html").read_text()
    assert "cmc.csv is missing" in page
    assert "open_set.csv: 1 damaged row was ignored" in page

    closed = evaluation(runs[:1], tmp_path / "closed", strangers=0)
    assert closed["identification/enrolled"] == TINY.test_people
    assert not [key for key in closed if "tpir" in key or "fpir" in key]
    assert not (tmp_path / "closed/open_set.csv").exists()
    assert "Rank 5" in (tmp_path / "closed/report.html").read_text()


@pytest.mark.integration
def test_too_many_strangers_are_refused_before_images_are_embedded(
    embedding_run: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siamese.protocols.identification.load_member", lambda *_: pytest.fail("too late"))
    with pytest.raises(DataError, match=r"strangers=0\.99 of \d+ people leaves fewer than two for the gallery"):
        evaluation([embedding_run(0)[0]], tmp_path / "few", strangers=0.99)


def test_scores_are_the_mean_of_the_calibrated_logits_of_pairs() -> None:
    rng = np.random.default_rng(0)
    embeddings = [torch.from_numpy(rng.normal(size=(9, 4)).astype(np.float32)) for _ in range(2)]
    heads, calibrations = [CosineHead(), L1Head(4, "torch")], [Calibration(2.0, 0.5), Calibration(3.0, -1.0)]
    members = [
        Member(head, z_ND, Decision(calibration, 0.5), False)
        for head, z_ND, calibration in zip(heads, embeddings, calibrations, strict=True)
    ]
    gallery, probes = torch.tensor([0, 2, 4]), torch.tensor([1, 3])
    found = gallery_logits(members, [gallery_of(member, gallery) for member in members], probes)
    for q, probe in enumerate(probes):
        pairs = torch.stack([probe.expand(3), gallery], 1)
        logits = [m.decision.calibration.logits(score_embeddings(m.head, m.embeddings, pairs)) for m in members]
        np.testing.assert_allclose(found[q], np.mean(logits, axis=0), atol=1e-5)
