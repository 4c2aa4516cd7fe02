"""The figures of the pages."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from strategies import strangers

from siamese.evaluation.intervals import wilson
from siamese.evaluation.metrics import Confusion
from siamese.report import figures
from siamese.report.examples import pick_examples
from siamese.runs.tables import Prediction


def test_curves_mark_the_best_epoch_and_leave_gaps():
    rows = [dict.fromkeys(("train/loss", "train/acc", "val/loss", "val/acc"), v) for v in (0.5, np.nan, np.inf)]
    history = [{"epoch": i + 1, **row} for i, row in enumerate(rows)]
    loss = figures.curves_figure(history, best_epoch=1).axes[0]
    assert [line.get_label() for line in loss.lines] == ["training", "validation", "best epoch: 1"]
    assert np.isnan(loss.lines[0].get_ydata()[1:]).all()


def test_roc_legend_has_area_interval_and_operating_point():
    labels = np.arange(100) % 2
    scores = np.where(np.arange(100) < 80, labels, 1 - labels) + np.arange(100) / 1000
    axes = figures.roc_figure(scores, labels, scores >= 0.5, strangers(100), threshold=0.25).axes[0]
    legend = [entry.get_text() for entry in axes.get_legend().get_texts()]
    assert re.fullmatch(r"AUC 0\.\d{3} \(95 % CI: 0\.\d{3} – 0\.\d{3}\)", legend[0])
    assert "threshold 0.25: TPR 80.0 %, FPR 20.0 %" in legend
    assert "chance" in legend
    point = next(line for line in axes.lines if line.get_label().startswith("threshold"))
    assert [point.get_xdata()[0], point.get_ydata()[0]] == [0.2, 0.8]


def test_det_has_both_error_rates_on_the_scale_of_normal_quantiles():
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    scores = rng.normal(2.0 * labels)  # two normal distributions give a straight line from (-2, 0) to (0, -2)
    axes = figures.det_figure(scores, labels, scores >= 2, threshold=0.7).axes[0]
    x, y = axes.lines[0].get_data()
    middle = np.abs(x - y) < 2
    np.testing.assert_allclose(x[middle] + y[middle], -2, atol=0.1)
    point = next(line for line in axes.lines if line.get_label().startswith("threshold 0.7: FPR 2."))
    np.testing.assert_allclose(np.ravel(point.get_data()), [-2, 0], atol=0.05)
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
        assert f"{100 * NormalDist().cdf(tick):.4g} %" == label.get_text()


def test_det_reaches_the_edges_of_the_axes():
    """In falling order of the scores: 60 same, 20 different, 40 same, 80 different pairs."""
    labels = np.repeat([1, 0, 1, 0], [60, 20, 40, 80])
    axes = figures.det_figure(-np.arange(200), labels, labels, threshold=None).axes[0]
    rates = [[round(NormalDist().cdf(value), 3) for value in line] for line in axes.lines[0].get_data()]
    assert list(zip(*rates, strict=True)) == [(0, 1), (0, 0.4), (0.2, 0.4), (0.2, 0), (1, 0)]


def test_histogram_counts_every_pair():
    axes = figures.score_figure([0, 0.01, 0.5, 1.0], [0, 1, 1, 0], 0.5).axes[0]
    assert sum(stairs.get_data().values.sum() for stairs in axes.patches) == 2 * 4


def test_reliability_is_over_people_if_all_pairs_come_from_few():
    person = np.arange(160) % 20  # each has 4 pairs in each of two bins
    probabilities = np.repeat([0.25, 0.75], 80)
    people = list(zip(person.tolist(), person.tolist(), strict=True))
    axes = figures.reliability_figure(probabilities, person < 10, people).axes[0]
    for bar in axes.collections[0].get_segments():
        assert np.ptp(bar[:, 1]) == pytest.approx(np.ptp(wilson(10, 20)), abs=0.05)  # as if each person were one pair


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
    separated = [Prediction("test", "a", "b", label, label, label, label) for label in (0, 0, 1)]
    figures.to_png(figures.det_figure([0, 0, 1], [0, 0, 1], [0, 0, 1], 0.5), dpi=40)  # both error rates are 0
    assert figures.predictions_figures(separated, 0.5).keys() == {"roc", "det", "scores", "reliability", "confusion"}


def test_names_are_not_typeset_as_formulas():
    pair = Prediction("test", r"$\bad{$", "b", 1, 1.0, 0.7, 1)
    png = figures.to_png(figures.gallery_figure(pick_examples([pair]), lambda name: None), dpi=50)
    assert png.startswith(b"\x89PNG")


def page_colors(mode: str) -> dict[str, str]:
    """The colours of the pages, name -> hex."""
    light, dark = re.findall(
        r"^ *:root \{(.*?)^ *\}", Path(figures.__file__).with_name("base.html.j2").read_text(), re.S | re.M
    )[:2]
    return dict(re.findall(r"--([\w-]+): (#\w+)", light if mode == "light" else dark))


def in_mode(mode: str, color: str) -> str:
    return figures.DARK[color] if mode == "dark" else color


@pytest.mark.parametrize("mode", ["light", "dark"])
class TestContrast:
    """WCAG 2.2, level AA: 4.5 for text, 3 for graphics."""

    def test_text_of_the_pages(self, mode):
        colors = page_colors(mode)
        for name in ("ink", "soft", "accent", "good", "bad", "wait"):
            for background in ("page", "card", "tint"):
                assert figures.contrast(colors[name], colors[background]) >= 4.5, (name, background)

    def test_figures_are_drawn_on_cards(self, mode):
        background = in_mode(mode, figures.WHITE)
        assert background == page_colors(mode)["card"]
        assert figures.contrast(in_mode(mode, figures.INK), background) >= 4.5
        for color in (figures.BLUE, figures.ORANGE, figures.GREEN, figures.GREY):
            assert figures.contrast(in_mode(mode, color), background) >= 3

    def test_text_of_the_confusion_matrix(self, mode):
        blue, white = (np.array(to_rgb(in_mode(mode, color))) for color in (figures.BLUE, figures.WHITE))
        darkest = to_hex(figures.MAX_SHADE * blue + (1 - figures.MAX_SHADE) * white)
        assert figures.contrast(in_mode(mode, figures.INK), darkest) >= 4.5

    @pytest.mark.parametrize("number", [8, 20, 60])
    def test_many_configurations(self, mode, number):
        colors = figures.palette(number)
        assert len(set(colors)) == number
        assert min(figures.contrast(color, in_mode(mode, figures.WHITE)) for color in colors) >= 3


def test_contrast_is_that_of_wcag():
    assert figures.contrast("#000000", "#ffffff") == figures.contrast("#ffffff", "#000000") == pytest.approx(21)
    assert figures.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the best known near miss


def test_colours_without_a_dark_version_are_visible_on_dark():
    assert (
        min(
            figures.contrast(figures.DARK.get(color, color), figures.DARK[figures.WHITE]) for color in figures.OKABE_ITO
        )
        >= 3
    )
