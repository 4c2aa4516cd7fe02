"""Draw the figures of the pages with matplotlib, from plain arrays; no pyplot, no global state."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from siamese.data.lists import people_of_each
from siamese.evaluation.calibration import brier, ece
from siamese.evaluation.intervals import auc_interval
from siamese.evaluation.metrics import Confusion, auc, confusion, corners, eer, roc_curve
from siamese.evaluation.people import PairPeople
from siamese.report.curves import reliability_points
from siamese.report.examples import PHOTO_HEIGHT, Examples
from siamese.report.text import fixed, interval, percent, photo_title, probability
from siamese.runs.tables import Prediction
from siamese.text import count

# The palette of Okabe and Ito (2008), distinguishable with all common kinds of colour blindness.
BLUE, ORANGE, GREEN, INK, GREY = "#0072b2", "#d55e00", "#009e73", "#222222", "#767676"
OKABE_ITO = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", INK)
WHITE, GRID = "#ffffff", "#e6e6e6"

DARK = {
    WHITE: "#1f2226", INK: "#e7e6e3", GREY: "#9aa0a6", GRID: "#363a40", BLUE: "#4b9bdb", ORANGE: "#f0935c",
    GREEN: "#4cc9a0",
}  # fmt: skip
"""Colours of the figures -> those on a page in dark mode. Other colours are visible on both backgrounds."""

MAX_SHADE = 0.45
"""Opacity of the darkest cell of the confusion matrix."""

SQUARE = (5.2, 4.6)
PERCENT_TICKS = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g} %")
OUTCOME_TITLES = {
    "tp": ("True positives", "same person, predicted same"),
    "fp": ("False positives", "different people, predicted same"),
    "tn": ("True negatives", "different people, predicted different"),
    "fn": ("False negatives", "same person, predicted different"),
}


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Encode a figure as PNG; the same figure gives the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


def to_svg(figure: Figure, label: str) -> str:
    """Encode a figure as an ``<svg>`` element with its text as text; the same figure gives the same string.

    Its background is transparent, and its colours follow the page (see `themed`).

    Args:
        figure: the figure.
        label: description for screen readers, plain text.
    """
    content = io.StringIO()
    # The figures of a page have different labels and so different ids.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.family": "sans-serif"}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    # Except those that matplotlib counts from 1 in each figure.
    text = re.sub(r'<g id="[\w.]+_\d+">', "<g>", text)
    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", lambda color: themed(color[0]), text)


def themed(color: str) -> str:
    """A colour of the figures as a CSS value that base.html.j2 changes in dark mode."""
    return f"var(--c{color[1:]}, {color})" if color in DARK else color


def palette(number: int) -> list[str]:
    """``number`` colours: up to seven from the palette of Okabe and Ito, more from a rainbow colour map."""
    if number <= len(OKABE_ITO):
        return list(OKABE_ITO[:number])
    return [_visible(to_hex(color)) for color in matplotlib.colormaps["turbo"](np.linspace(0.04, 0.96, number))]


def curves_figure(
    history: Sequence[Mapping[str, float]], best_epoch: int | None, names: Sequence[str] = ("loss", "acc")
) -> Figure:
    """Plot training and validation loss and accuracy by epoch, side by side, and mark the best epoch.

    Args:
        history: rows with ``epoch``, ``train/loss``, ``train/acc``, ``val/loss``, ``val/acc``; nan is a gap.
        best_epoch: counted from 1; None: no mark.
        names: what to plot, one panel each: ``loss``, ``acc``.
    """
    figure, panels = _panels(len(names), (5.2 * len(names), 3.8))
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) <= 40 else ""
    for axes, name in zip(panels, names, strict=True):
        lines = (("train", "training", ORANGE, "--"), ("val", "validation", BLUE, "-"))
        for split, label, color, style in lines:
            values = np.array([row[f"{split}/{name}"] for row in history], float)
            values[~np.isfinite(values)] = np.nan
            if np.isnan(values).all() and split == "train":
                continue  # objectives on embeddings have no training accuracy
            axes.plot(epochs, values, style, color=color, marker=marker, markersize=4, label=label)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linestyle=":", linewidth=1.4, label=f"best epoch: {best_epoch}")
        axes.set_title({"loss": "Loss", "acc": "Accuracy"}[name], loc="left", fontweight="bold", color=INK)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        if name == "acc":
            axes.yaxis.set_major_formatter(PERCENT_TICKS)
    _legend(panels[0], "best")
    return figure


class Overlaid(NamedTuple):
    """One run of a figure that overlays many runs.

    Attributes:
        group: index of its configuration, which decides the colour; the ids of its lines start with ``g<group>-``.
        history: rows as in `curves_figure`.
        best_epoch: the epoch to mark; None: no mark.
        tpr: float [K], true positive rates at K equidistant false positive rates from 0 to 1; nan without an ROC.
    """

    group: int
    history: Sequence[Mapping[str, float]]
    best_epoch: int | None
    tpr: NDArray[np.float64]


def overlaid_curves_figure(runs: Sequence[Overlaid], colors: Sequence[str]) -> Figure:
    """Plot loss and accuracy by epoch of many runs: validation in the upper row, training in the lower.

    Args:
        runs: the runs, in any order.
        colors: the colour of each configuration.
    """
    figure, panels = _panels(2, (10.4, 7.0), rows=2)
    figures = (("val/loss", "Validation loss"), ("val/acc", "Validation accuracy"), ("train/loss", "Training loss"),
               ("train/acc", "Training accuracy"))  # fmt: skip
    for i, (axes, (name, title)) in enumerate(zip(panels, figures, strict=True)):
        for j, run in enumerate(runs):
            epochs = [row["epoch"] for row in run.history]
            values = np.array([row[name] for row in run.history], float)
            values[~np.isfinite(values)] = np.nan
            shown = [k for k, epoch in enumerate(epochs) if len(epochs) == 1 or (i < 2 and epoch == run.best_epoch)]
            axes.plot(
                epochs, values, color=colors[run.group], linewidth=1.4, marker="o", markevery=shown, markersize=5,
                gid=f"g{run.group}-{i}-{j}",
            )  # fmt: skip
        axes.set_title(title, loc="left", fontweight="bold", color=INK)
        if all(math.isnan(row[name]) for run in runs for row in run.history):
            axes.text(0.5, 0.5, "not defined for this objective", ha="center", color=INK, transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
            continue
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        if name.endswith("acc"):
            axes.yaxis.set_major_formatter(PERCENT_TICKS)
        if i >= 2:
            axes.set_xlabel("epoch")
    return figure


def overlaid_roc_figure(runs: Sequence[Overlaid], colors: Sequence[str]) -> Figure:
    """Plot the ROC of many runs; runs without one are skipped."""
    figure, (axes,) = _panels(1, (6.4, 6.0))
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT_TICKS)
    axes.plot([0, 1], [0, 1], ":", color=GREY)
    for j, run in enumerate(runs):
        if not np.isnan(run.tpr).any():
            fpr = np.linspace(0, 1, len(run.tpr))
            axes.plot(fpr, run.tpr, color=colors[run.group], linewidth=1.3, gid=f"g{run.group}-roc-{j}")
    return figure


def shade(share: float) -> tuple[str, str]:
    """Background and text colour of a table cell; a larger ``share`` in [0, 1] is darker."""
    background = matplotlib.colormaps["Blues"](0.08 + 0.8 * share)
    return to_hex(background), max(("#ffffff", INK), key=lambda ink: contrast(ink, to_hex(background)))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2), from 1 to 21."""
    low, high = sorted((_luminance(_linear(one)), _luminance(_linear(other))))
    return (high + 0.05) / (low + 0.05)


def _visible(color: str, low: float = 0.16, high: float = 0.29) -> str:
    """The colour with a luminance that has a contrast of 3 with white and with the background of dark mode."""
    linear = _linear(color)
    luminance = _luminance(linear)
    if luminance < low:
        linear = linear + (1 - linear) * (low - luminance) / (1 - luminance)
    elif luminance > high:
        linear = linear * high / luminance
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return to_hex((red, green, blue))


def _linear(color: str) -> NDArray[np.float64]:
    """A colour as linear sRGB, float64 [3]."""
    rgb = np.array(to_rgb(color))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _luminance(linear: NDArray[np.float64]) -> float:
    return float(linear @ (0.2126, 0.7152, 0.0722))


def roc_figure(
    scores: ArrayLike, labels: ArrayLike, predicted: ArrayLike, people: PairPeople, threshold: float | None
) -> Figure:
    """Plot the ROC with its area, the equal error rate and the operating point.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N]. If all are equal there is no ROC, and the figure says so.
        predicted: 0 or 1 [N].
        people: both people of each pair, [N], for the interval of the AUC.
        threshold: the threshold on the probability, for the legend; None if it is unknown.
    """
    figure, (axes,) = _panels(1, SQUARE)
    fpr, tpr, _ = roc_curve(scores, labels)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT_TICKS)
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        axes.text(0.5, 0.5, "no ROC: all pairs have the same label", ha="center", color=INK)
        return figure
    ends = interval(auc_interval(scores, labels, people), fixed(3))
    label = f"AUC {auc(scores, labels):.3f}" + (f" (95 % CI: {ends})" if ends else "")
    axes.plot(fpr, tpr, color=BLUE, linewidth=1.8, label=label)
    rate = eer(scores, labels)
    axes.plot([rate], [1 - rate], "D", color=GREEN, markersize=6, label=f"equal error rate {percent(rate)}")
    counts = confusion(predicted, labels)
    x, y = counts.fp / (counts.fp + counts.tn), counts.tp / (counts.tp + counts.fn)
    at = "operating point" if threshold is None else f"threshold {threshold:g}"
    label = f"{at}: TPR {percent(y)}, FPR {percent(x)}"
    axes.plot([x], [y], "o", color=ORANGE, markersize=7, label=label, zorder=3)
    axes.plot([0, 1], [0, 1], ":", color=GREY, label="chance")
    _legend(axes, "lower right")
    return figure


def det_figure(scores: ArrayLike, labels: ArrayLike, predicted: ArrayLike, threshold: float | None) -> Figure:
    """Plot the detection error trade-off (DET; Martin et al. 1997) with the operating point.

    Both error rates have the scale of the normal distribution's quantiles, on which low rates are spread out. Rates of
    0 and 1, which would be at infinity, are outside the limits of the axes.

    Args:
        scores: float [N], finite.
        labels: 0 or 1 [N]. If all are equal there is no curve, and the figure says so.
        predicted: 0 or 1 [N].
        threshold: the threshold on the probability, for the legend; None if it is unknown.
    """
    figure, (axes,) = _panels(1, SQUARE)
    fpr, tpr, _ = corners(roc_curve(scores, labels))
    axes.set(xlabel="false positive rate", ylabel="false negative rate")
    if np.isnan(fpr).any() or np.isnan(tpr).any():
        axes.text(0.5, 0.5, "no curve: all pairs have the same label", ha="center", color=INK)
        return figure
    from scipy.special import ndtri

    def quantile(rate: ArrayLike) -> NDArray[np.float64]:
        return np.asarray(ndtri(np.clip(rate, 1e-9, 1 - 1e-9)))

    axes.plot(quantile(fpr), quantile(1 - tpr), color=BLUE, linewidth=1.8)
    counts, rate = confusion(predicted, labels), eer(scores, labels)
    x, y = counts.fp / (counts.fp + counts.tn), counts.fn / (counts.tp + counts.fn)
    at = "operating point" if threshold is None else f"threshold {threshold:g}"
    marks = (
        ("D", GREEN, rate, rate, f"equal error rate {percent(rate)}"),
        ("o", ORANGE, x, y, f"{at}: FPR {percent(x)}, FNR {percent(y)}"),
    )
    for marker, color, x, y, label in marks:
        axes.plot([quantile(x)], [quantile(y)], marker, color=color, markersize=7, label=label, zorder=3)
    # From the lowest rate that the pairs can show, to a rate above chance where the two errors meet.
    different, same = counts.fp + counts.tn, counts.tp + counts.fn
    lowest = max(0.0001, min(0.01, 1 / different, 1 / same))
    limits = quantile([lowest / 1.3, 0.9])
    axes.plot(limits, limits, ":", color=GREY)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    ticks = [tick for tick in (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8) if tick >= lowest]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(quantile(ticks), [f"{100 * tick:g} %" for tick in ticks])
    _legend(axes, "upper right")
    return figure


def identification_figure(cmc: Sequence[Mapping[str, float]], open_set: Sequence[Mapping[str, float]] = ()) -> Figure:
    """Plot the cumulative match curve of the closed set and the curve of the open set, side by side.

    Args:
        cmc: rows of ``cmc.csv``.
        open_set: rows of ``open_set.csv``; without any, only the closed set is plotted.
    """
    number = 2 if open_set else 1
    figure, panels = _panels(number, (5.2 * number, 4.6))
    rank, rate, low, high = (np.array([row[key] for row in cmc]) for key in ("rank", "rate", "low", "high"))
    panels[0].fill_between(rank, low, high, color=BLUE, alpha=0.22, linewidth=0)
    panels[0].plot(rank, rate, color=BLUE, linewidth=1.8)
    panels[0].set(xscale="log", xlabel="rank", ylabel="searches with the right person up to this rank")
    ranks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= rank[-1]]
    panels[0].set_xticks(ranks, map(str, ranks))
    panels[0].set_xticks([], minor=True)
    if open_set:
        fpir, tpir = (np.array([row[key] for row in open_set]) for key in ("fpir", "tpir"))
        least = fpir[fpir > 0].min() / 2  # a rate of 0 has no place on a logarithmic axis
        panels[1].plot(np.maximum(fpir, least), tpir, color=BLUE, linewidth=1.8)
        panels[1].set(xscale="log", xlim=(least, 1.2), xlabel="FPIR", ylabel="TPIR")
        panels[1].xaxis.set_major_formatter(PERCENT_TICKS)
    for axes, title in zip(panels, ("Closed set", "Open set"), strict=False):
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PERCENT_TICKS)
        axes.set_title(title, loc="left", fontweight="bold", color=INK)
    return figure


def score_figure(
    probabilities: ArrayLike, labels: ArrayLike, threshold: float | None, mark: float | None = None
) -> Figure:
    """Plot a histogram of the probabilities of each class, with the threshold.

    Args:
        probabilities: float [N] in [0, 1].
        labels: 0 or 1 [N].
        threshold: the threshold on the probability; None: not drawn.
        mark: a further probability to mark as "these photos"; None: not drawn.
    """
    figure, (axes,) = _panels(1, SQUARE)
    values, same = np.asarray(probabilities, float), np.asarray(labels) == 1
    bins = np.linspace(0, 1, 26)
    for kind, label, color, style in (
        (~same, "different people", ORANGE, "--"),
        (same, "same person", BLUE, "-"),
    ):
        heights, _ = np.histogram(values[kind], bins)
        axes.stairs(heights, bins, fill=True, color=color, alpha=0.22)
        axes.stairs(heights, bins, color=color, linewidth=1.6, linestyle=style, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:g}")
    if mark is not None:
        # Below the axis, where no bar hides it.
        axes.plot([mark], [0], "^", color=INK, markersize=11, clip_on=False, zorder=5, label="these photos")
    axes.set(xlabel="probability of “same person”", ylabel="pairs", xlim=(0, 1))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)  # room for the legend above the bars
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _legend(axes, "upper center")
    return figure


def reliability_figure(probabilities: ArrayLike, labels: ArrayLike, people: PairPeople) -> Figure:
    """Plot a reliability diagram: the share of same pairs by predicted probability, with 95 % confidence intervals.

    Args:
        probabilities: float [N] in [0, 1].
        labels: 0 or 1 [N].
        people: both people of each pair, [N].
    """
    figure, (axes,) = _panels(1, SQUARE)
    axes.plot([0, 1], [0, 1], ":", color=GREY, label="perfectly calibrated")
    points = reliability_points(probabilities, labels, people)
    middle = np.array([one.probability for one in points])
    found = np.array([one.same for one in points])
    ends = np.array([(one.same_low, one.same_high) for one in points])
    label = f"ECE {percent(ece(probabilities, labels))}, Brier score {brier(probabilities, labels):.3f}"
    axes.errorbar(
        middle, found, yerr=np.abs(ends.T - found), color=BLUE, marker="o", markersize=5, linewidth=1.4, capsize=3,
        elinewidth=1, label=label,
    )  # fmt: skip
    axes.set(
        xlabel="probability of “same person”", ylabel="share of same pairs", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PERCENT_TICKS)
    _legend(axes, "lower right")
    return figure


def confusion_figure(counts: Confusion) -> Figure:
    """Plot the confusion matrix; colours and percentages are shares of the row, the true class."""
    figure, (axes,) = _panels(1, SQUARE)
    cells = np.array([[counts.tp, counts.fn], [counts.fp, counts.tn]])
    totals = cells.sum(axis=1, keepdims=True)
    shares = cells / np.maximum(totals, 1)
    names = [["true positives", "false negatives"], ["false positives", "true negatives"]]
    for (row, column), cell in np.ndenumerate(cells):
        # Rectangles, since an image could not follow the colours of the page; faint enough for text in INK.
        shade = MAX_SHADE * (0.1 + 0.9 * float(shares[row, column]))
        axes.add_patch(Rectangle((column - 0.49, row - 0.49), 0.98, 0.98, color=BLUE, alpha=shade, linewidth=0))
        share = percent(float(shares[row, column])) if totals[row] else "no such pairs"
        axes.text(column, row - 0.06, f"{cell:,}", ha="center", color=INK, fontsize=20, fontweight="bold")
        axes.text(column, row + 0.14, f"{names[row][column]}\n{share}", ha="center", va="center", color=INK)
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), aspect="equal")
    axes.set_xticks([0, 1], ["predicted same", "predicted different"])
    axes.set_yticks([0, 1], ["same\nperson", "different\npeople"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=10)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def gallery_figure(examples: Sequence[Examples], photo: Callable[[str], Image.Image | None]) -> Figure:
    """Draw the example pairs, one row per outcome, each with both photos, its probability and its names.

    Args:
        examples: from `siamese.report.examples.pick_examples`.
        photo: loads the photo of an image name; returns None if it is not found.
    """
    columns = max(1, *(len(group.confident) + len(group.uncertain) for group in examples))
    cell_width, cell_height, margin = 2.2, 1.65, 1.3  # inches
    width, height = margin + cell_width * columns, cell_height * len(examples)
    figure = Figure(figsize=(width, height), facecolor=WHITE)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))  # in inches
    axes.set_axis_off()
    for row, group in enumerate(examples):
        top = height - cell_height * row
        title, meaning = OUTCOME_TITLES[group.outcome]
        label = "\n".join([title, *meaning.split(", "), count(group.count, "pair")])
        axes.text(margin - 0.1, top - 0.75, label, ha="right", va="center", fontsize=8, color=INK)
        for column, pair in enumerate([*group.confident, *group.uncertain]):
            left = margin + cell_width * column
            photos = _side_by_side([photo(pair.image1), photo(pair.image2)])
            right = left + photos.shape[1] / photos.shape[0]
            axes.imshow(photos, extent=(left, right, top - 1.25, top - 0.25), aspect="auto")
            middle = (left + right) / 2
            axes.text(middle, top - 0.21, probability(pair.probability), ha="center", fontsize=8, color=INK)
            names = f"{photo_title(pair.image1)}\n{photo_title(pair.image2)}"
            axes.text(middle, top - 1.28, names, ha="center", va="top", fontsize=6.5, color=INK, parse_math=False)
    return figure


def predictions_figures(predictions: Sequence[Prediction], threshold: float | None) -> dict[str, Figure]:
    """Draw ``roc``, ``det``, ``scores``, ``reliability`` and ``confusion`` of at least one scored pair."""
    scores = [pair.score for pair in predictions]
    probabilities = [pair.probability for pair in predictions]
    labels = [pair.label for pair in predictions]
    predicted = [pair.predicted for pair in predictions]
    people = people_of_each(predictions)
    return {
        "roc": roc_figure(scores, labels, predicted, people, threshold),
        "det": det_figure(scores, labels, predicted, threshold),
        "scores": score_figure(probabilities, labels, threshold),
        "reliability": reliability_figure(probabilities, labels, people),
        "confusion": confusion_figure(confusion(predicted, labels)),
    }


def _panels(number: int, size: tuple[float, float], rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` rows of ``number`` axes, in the style of the pages."""
    figure = Figure(figsize=size, facecolor=WHITE)
    # Margins in inches, set by hand: a layout engine takes as long as the drawing itself.
    left, right, bottom, top = 0.8, 0.15, 0.55, 0.35
    grid = figure.subplots(
        rows, number, squeeze=False,
        gridspec_kw={
            "left": left / size[0], "right": 1 - right / size[0], "bottom": bottom / size[1], "top": 1 - top / size[1],
            "wspace": (left + right) * number / (size[0] - (left + right) * number),
            "hspace": (bottom + top) * rows / (size[1] - (bottom + top) * rows),
        },
    ).flat  # fmt: skip
    panels = list(grid)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY, labelcolor=INK)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, panels


def _legend(axes: Axes, where: Literal["best", "lower right", "upper center", "upper right"]) -> None:
    axes.legend(loc=where, frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, labelcolor=INK)


def _side_by_side(photos: Sequence[Image.Image | None], gap: int = 5) -> NDArray[np.uint8]:
    """Photos side by side as uint8 [H, W, 3], each centred in a square; a missing photo is a grey square."""
    side = PHOTO_HEIGHT
    canvas = Image.new("RGB", (side * len(photos) + gap * (len(photos) - 1), side), "white")
    for i, photo in enumerate(photos):
        left = i * (side + gap)
        if photo is None:
            draw = ImageDraw.Draw(canvas)
            draw.rectangle([left, 0, left + side - 1, side - 1], fill=GRID)
            draw.text((left + side // 2, side // 2), "photo not found", fill=INK, anchor="mm")
            continue
        photo = photo.copy()
        photo.thumbnail((side, side))
        canvas.paste(photo, (left + (side - photo.width) // 2, (side - photo.height) // 2))
    return np.asarray(canvas)
