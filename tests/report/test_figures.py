"""The figures of the pages."""

from __future__ import annotations

import re

import numpy as np
import pytest

from siamese.evaluation.metrics import Confusion
from siamese.report import figures
from siamese.report.examples import pick_examples
from siamese.runs.records import Prediction


def test_curves_mark_the_best_epoch_and_leave_gaps():
    rows = [dict.fromkeys(("train/loss", "train/acc", "val/loss", "val/acc"), v) for v in (0.5, np.nan, np.inf)]
    history = [{"epoch": i + 1, **row} for i, row in enumerate(rows)]
    loss = figures.curves_figure(history, best_epoch=1).axes[0]
    assert [line.get_label() for line in loss.lines] == ["training", "validation", "best epoch: 1"]
    assert np.isnan(loss.lines[0].get_ydata()[1:]).all()


def test_roc_legend_has_area_interval_and_operating_point():
    labels = np.arange(100) % 2
    scores = np.where(np.arange(100) < 80, labels, 1 - labels) + np.arange(100) / 1000
    axes = figures.roc_figure(scores, labels, scores >= 0.5, threshold=0.25).axes[0]
    legend = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert re.fullmatch(r"AUC 0\.\d{3} \(95 % CI: 0\.\d{3} – 0\.\d{3}\)", legend[0])
    assert "threshold 0.25: TPR 80.0 %, FPR 20.0 %" in legend
    assert "chance" in legend
    point = next(line for line in axes.lines if line.get_label().startswith("threshold"))
    assert [point.get_xdata()[0], point.get_ydata()[0]] == [0.2, 0.8]


def test_histogram_counts_every_pair():
    axes = figures.score_figure([0, 0.01, 0.5, 1.0], [0, 1, 1, 0], 0.5).axes[0]
    assert sum(stairs.get_data().values.sum() for stairs in axes.patches) == 2 * 4


def test_confusion_without_a_class():
    shown = [t.get_text() for t in figures.confusion_figure(Confusion(3, 0, 0, 1)).axes[0].texts]
    assert "true positives\n75.0 %" in shown
    assert "false positives\nno such pairs" in shown


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_can_be_drawn(label):
    pairs = [Prediction("test", "a", "b", label, score, 0.5, 1) for score in (-1.0, 0.0, 0.0)]
    for figure in figures.predictions_figures(pairs, None).values():
        assert figures.to_png(figure, dpi=40).startswith(b"\x89PNG")
    texts = [t.get_text() for t in figures.predictions_figures(pairs, None)["roc"].axes[0].texts]
    assert texts == ["no ROC: all pairs have the same label"]


def test_names_are_not_typeset_as_formulas():
    pair = Prediction("test", r"$\bad{$", "b", 1, 1.0, 0.7, 1)
    png = figures.to_png(figures.gallery_figure(pick_examples([pair]), lambda name: None), dpi=50)
    assert png.startswith(b"\x89PNG")
