"""The curves of a run page as tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from siamese.evaluation.metrics import auc, tar_at_far
from siamese.report.curves import CURVES, write_curves
from siamese.runs.tables import Prediction


def scored(labels: np.ndarray, seed: int = 0) -> list[Prediction]:
    scores = np.random.default_rng(seed).normal(labels * 1.5).round(1)  # with ties
    probabilities = 1 / (1 + np.exp(-scores))
    return [
        Prediction("test", f"P{n}/a.jpg", f"P{n if label else n + 0.5}/b.jpg", int(label), score, probability, 0)
        for n, (label, score, probability) in enumerate(zip(labels, scores, probabilities, strict=True))
    ]


def rows(file: Path) -> list[dict[str, float]]:
    with file.open(newline="") as lines:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(lines)]


def test_roc_has_the_rates_of_each_of_its_thresholds(tmp_path: Path) -> None:
    pairs = scored(np.arange(300) % 2)
    write_curves(tmp_path, pairs, of_view2=False)
    labels, scores = np.array([one.label for one in pairs]), np.array([one.score for one in pairs])
    probability = {one.score: one.probability for one in pairs}
    none, *points = rows(tmp_path / "roc.csv")
    assert np.isnan([none.pop("score"), none.pop("probability")]).all()
    assert none == {"fpr": 0, "tpr": 0, "fnr": 1}
    for point in points:
        accepted = scores >= point["score"]
        assert point["probability"] == probability[point["score"]]
        assert point["fpr"] == accepted[labels == 0].mean()
        assert point["tpr"] == accepted[labels == 1].mean()
        assert point["fnr"] == 1 - point["tpr"]
    x, y = ([0, *(point[rate] for point in points)] for rate in ("fpr", "tpr"))
    assert np.trapezoid(y, x) == pytest.approx(auc(scores, labels))
    assert max(tpr for fpr, tpr in zip(x, y, strict=True) if fpr <= 0.1) == tar_at_far(scores, labels, 0.1)


def test_reliability_counts_every_pair(tmp_path: Path) -> None:
    pairs = scored(np.arange(300) % 2)
    write_curves(tmp_path, pairs, of_view2=False)
    bins = rows(tmp_path / "reliability.csv")
    for one in bins:
        inside = [pair for pair in pairs if one["low"] <= pair.probability < one["high"]]
        assert one["pairs"] == len(inside)
        assert one["same"] == np.mean([pair.label for pair in inside])
        assert one["low"] <= one["probability"] < one["high"]
        assert one["same_low"] <= one["same"] <= one["same_high"]
    assert sum(one["pairs"] for one in bins) == 300


def test_files_that_no_longer_apply_are_deleted(tmp_path: Path) -> None:
    pairs = scored(np.arange(40) % 2)

    def written() -> list[str]:
        return sorted(file.name for file in tmp_path.iterdir())

    write_curves(tmp_path, pairs, of_view2=True)
    assert written() == sorted(CURVES)
    write_curves(tmp_path, pairs, of_view2=False)
    assert written() == ["reliability.csv", "roc.csv"]
    write_curves(tmp_path, [pair for pair in pairs if pair.label], of_view2=False)  # has no ROC
    assert written() == ["reliability.csv"]
    write_curves(tmp_path, [], of_view2=False)
    assert written() == []
