"""The page of one run, ``report.html``, and the pictures beside it, built from files alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.evaluation.intervals import wilson
from siamese.evaluation.metrics import confusion
from siamese.files import write_bytes_atomically, write_text_atomically
from siamese.report.examples import PHOTO_HEIGHT, as_data_uri, explanation_file, load_photo, pick_examples
from siamese.report.figures import OUTCOME_TITLES, curves_figure, gallery_figure, predictions_figures, to_png
from siamese.report.html import render_page
from siamese.report.load import Run, read_run
from siamese.report.text import count, duration, fixed, interval, number, percent
from siamese.runs.records import Prediction

PICTURES = ("curves", "roc", "scores", "reliability", "confusion", "gallery")
MAX_EXCLUDED = 500
"""Rows of the table of excluded images; the file holds them all."""


class Headline(NamedTuple):
    """One of the large figures: what, how much, and its interval."""

    title: str
    value: str
    interval: str


class Rate(NamedTuple):
    """A share of the pairs at the threshold, with its interval."""

    title: str
    counts: str
    value: str
    interval: str


def write_run_page(folder: Path) -> Path:
    """Write ``report.html`` and its PNGs into a run folder, whatever the run has got to; returns the page.

    The page is one file that needs no other and no network. A picture for which there is no data any more is
    removed, so that those in the folder always belong to the page.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    run = read_run(folder)
    # Pairs share photos, and the page and the gallery's picture show the same ones.
    photo = cache(partial(_photo, Path(str(run.result.get("image_root", folder)))))
    pictures = draw(run, photo)
    for name in PICTURES:
        if name in pictures:
            write_bytes_atomically(folder / f"{name}.png", pictures[name])
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)
    page = folder / "report.html"
    write_text_atomically(page, render(run, pictures, photo))
    return page


def draw(run: Run, photo: Callable[[str], Image.Image | None]) -> dict[str, bytes]:
    """The pictures that there is data for, as PNG, by their names among `PICTURES`."""
    figures = {}
    if run.history:
        figures["curves"] = curves_figure(run.history, _best_epoch(run))
    if shown := _shown(run):
        figures |= predictions_figures(shown, run.threshold)
        figures["gallery"] = gallery_figure(pick_examples(shown), photo)
    # The gallery's photos have no more to show at a finer resolution, and would take megabytes.
    return {name: to_png(figure, dpi=90 if name == "gallery" else 150) for name, figure in figures.items()}


def render(run: Run, pictures: Mapping[str, bytes], photo: Callable[[str], Image.Image | None]) -> str:
    """The page as HTML; everything that comes from files is escaped."""

    @cache
    def embedded(name: str) -> str | None:
        picture = photo(name)
        return None if picture is None else as_data_uri(picture)

    def explanation(pair: Prediction) -> str | None:
        picture = load_photo(explanation_file(run.folder, pair), 2 * PHOTO_HEIGHT)
        return None if picture is None else as_data_uri(picture)

    shown = _shown(run)
    return render_page(
        "run.html.j2",
        run=run,
        name=run.result.get("name") or run.config.get("name") or run.folder.name,
        context=_context(run),
        reason=_reason(run),
        headlines=_headlines(run.result),
        facts=_facts(run),
        splits=_splits(run),
        rates=_rates(shown),
        trials=_trials(run),
        folds=run.folds,
        shown=shown[0].split if shown else "test",
        best_epoch=_best_epoch(run),
        pictures={name: _data_uri(png) for name, png in pictures.items()},
        examples=pick_examples(shown),
        outcome_titles=OUTCOME_TITLES,
        photo=embedded,
        explanation=explanation,
        excluded=run.excluded[:MAX_EXCLUDED],
        notes=_notes(run),
    )


def _photo(root: Path, name: str) -> Image.Image | None:
    return load_photo(root / name)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _shown(run: Run) -> list[Prediction]:
    """The pairs that the pictures show: the test set's, or the validation set's when it is all there is."""
    return run.split("test") or run.split("val")


def _best_epoch(run: Run) -> int | None:
    best = run.result.get("best_epoch")
    return best if isinstance(best, int) else None


def _context(run: Run) -> str:
    """What the figures were measured on: data set, protocol, outside data, number of pairs."""
    result = run.result
    parts = []
    for key, titles in (("dataset", DATASETS), ("protocol", PROTOCOLS)):
        if result.get(key) is not None:
            parts.append(titled(result[key], titles))
    if "outside_data" in result:
        parts.append("with outside data" if result["outside_data"] else "no outside data")
    if "setting" in result and result.get("protocol") != "oneshot":
        parts.append(str(result["setting"]))
    if isinstance(result.get("n_test"), int):
        parts.append(count(result["n_test"], "test pair"))
    if isinstance(result.get("n_test_people"), int):
        parts.append(f"{result['n_test_people']:,} test people, {count(result['n_test_images'], 'image')}")
    return " · ".join(parts)


def _reason(run: Run) -> str:
    """Why the page is not that of a finished run; nothing when it is."""
    error = run.result.get("error")
    match run.status:
        case "done":
            return ""
        case "running":
            return "Recorded as running: it still is, or it was killed without a chance to say so."
        case "interrupted":
            return str(error or "The run was interrupted; resume=true and the same folder go on with it.")
        case "failed":
            return str(error or "The run failed; no reason is recorded, its log may tell more.")
        case _:
            return "Nothing tells whether the run finished."


def _headlines(result: Mapping[str, Any]) -> list[Headline]:
    """The test figures that are recorded."""
    figures = [
        *((f"{n}-way one-shot", f"oneshot/{n}/acc", percent) for n in _ways(result)),
        ("Accuracy", "test/acc", percent),
        ("AUC", "test/auc", fixed(3)),
        ("Equal error rate", "test/eer", percent),
        ("Loss", "test/loss", fixed(4)),
    ]
    return [
        Headline(title, number(result[key], write), interval(result.get(f"{key}_ci"), write))
        for title, key, write in figures
        if result.get(key) is not None
    ]


def _ways(result: Mapping[str, Any]) -> list[int]:
    """The numbers of people that one-shot identification was tried with."""
    return sorted(int(key.split("/")[1]) for key in result if re.fullmatch(r"oneshot/\d+/acc", key))


def _trials(run: Run) -> list[dict[str, Any]]:
    """The rows of the table of one-shot identification."""
    rows = []
    for ways in _ways(run.result):
        key = f"oneshot/{ways}"
        ends = interval(run.result.get(f"{key}/acc_ci"), percent)
        shares = {"acc": run.result[f"{key}/acc"], "pixels": run.result.get(f"{key}/pixels"), "chance": 1 / ways}
        rows.append({"ways": ways, "interval": ends, **shares})
    return rows


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the run was, as (term, description); only what is recorded."""
    result, config = run.result, run.config
    best, epochs = _best_epoch(run), result.get("epochs", len(run.history) or None)
    monitor, dataset = config.get("monitor"), result.get("dataset")
    best_text = "" if best is None else f"{best} of {epochs}" if epochs else str(best)
    commit = str(result.get("git_commit") or "")[:12]
    versions = {key.removeprefix("version/"): value for key, value in result.items() if key.startswith("version/")}
    sizes = {"training": result.get("n_train"), "validation": result.get("n_val"), "test": result.get("n_test")}
    people, images = result.get("n_train_people"), result.get("n_train_images")
    slope, intercept = (result.get(f"calibration/{name}") for name in ("slope", "intercept"))
    is_calibrated = isinstance(slope, float) and (slope, intercept) != (1.0, 0.0)
    facts = [
        ("Data set", dataset and f"{titled(dataset, DATASETS)} (data={dataset})"),
        (
            "Scored run",
            result.get("run") if isinstance(result.get("run"), str) else " · ".join(result.get("run") or ()),
        ),
        ("Trained on", titled(result["trained_on"], DATASETS) if "trained_on" in result else None),
        ("Pairs", " · ".join(f"{size:,} {name}" for name, size in sizes.items() if isinstance(size, int))),
        ("Training people", f"{people:,}, {images:,} images" if people and images else None),
        ("Best epoch", best_text + (f", by {monitor}" if best_text and monitor else "")),
        ("Epochs", epochs if best is None else None),
        ("Training time", _if_number(result.get("train_seconds"), duration)),
        ("Total time", _if_number(result.get("total_seconds"), duration)),
        ("Parameters", _if_number(result.get("parameters"), "{:,}".format)),
        ("Probability", f"sigmoid({slope:.4g} · score {intercept:+.4g})" if is_calibrated else None),
        ("Threshold", _if_number(run.threshold, "{:.4g} on the probability".format)),
        ("Seed", result.get("seed")),
        ("Precision", result.get("precision")),
        ("Convolution", result.get("convolution")),
        ("Device", result.get("device")),
        ("Commit", commit + (" with uncommitted changes" if commit and result.get("git_dirty") else "")),
        ("Versions", " · ".join(f"{name} {value}" for name, value in versions.items())),
        ("Command", run.command if run.overrides else None),
    ]
    return [(term, str(text)) for term, text in facts if text is not None and str(text) != ""]


def _if_number(value: Any, write: Callable[[float], str]) -> str | None:
    return write(value) if isinstance(value, int | float) else None


def _splits(run: Run) -> list[dict[str, Any]]:
    """The rows of the table that compares training, validation and test."""
    result, best = run.result, _best_epoch(run)
    rows = []
    for epoch in run.history:
        if epoch["epoch"] == best:
            figures = {"loss": epoch["train/loss"], "acc": epoch["train/acc"], "auc": None}
            title = f"Training, during epoch {best}"
            rows.append({"title": title, "pairs": result.get("n_train"), **figures})
    for split, title in (("val", "Validation"), ("test", "Test")):
        figures = {name: result.get(f"{split}/{name}") for name in ("loss", "acc", "auc")}
        if any(value is not None for value in figures.values()):
            rows.append({"title": title, "pairs": result.get(f"n_{split}"), **figures})
    return rows


def _rates(predictions: list[Prediction]) -> list[Rate]:
    """How the pairs of each class were decided."""
    if not predictions:
        return []
    counts = confusion([p.predicted for p in predictions], [p.label for p in predictions])
    rates = [
        ("All pairs decided rightly", counts.tp + counts.tn, sum(counts)),
        ("Same person, called same", counts.tp, counts.tp + counts.fn),
        ("Different people, called different", counts.tn, counts.tn + counts.fp),
        ("Called same, and the same person", counts.tp, counts.tp + counts.fp),
        ("Called different, and different people", counts.tn, counts.tn + counts.fn),
    ]
    return [
        Rate(title, f"{k:,} of {n:,}", percent(k / n), interval(wilson(k, n), percent)) for title, k, n in rates if n
    ]


def _notes(run: Run) -> list[str]:
    """What a reader must know to take the figures for what they are."""
    result, config = run.result, run.config
    dataset, protocol = str(result.get("dataset", "")), result.get("protocol")
    notes: list[str] = []
    if _ways(result):
        notes.append(
            "A trial shows one photo, another of the same person, and one of each of N - 1 other test people, all "
            "drawn at random; it is won when the photo of the same person has the highest score. The intervals are "
            "Wilson's and treat the trials as independent, though they share photos. Nearest pixels compares the same "
            "photos by the distance of their pixels."
        )
    if not any(key.startswith(("val/", "test/")) for key in result):
        return notes
    if any(key.startswith("test/") for key in result):
        over = "Student's, over the folds" if "folds" in result else "Wilson's"
        notes.append(
            "The intervals treat the pairs as independent draws. They are not quite, since a person or a "
            f"photo can be in several pairs, so the true uncertainty is somewhat larger. Accuracy: {over}; "
            "AUC: DeLong's; loss: Student's; equal error rate: bootstrap over pairs, 1,000 resamples."
        )
        members = result.get("run")
        if isinstance(members, list):
            notes.append(
                f"An ensemble of {len(members)} runs: the intervals are about these networks, and do not say how far "
                "the figures of others would be. Configuration and seed on this page are those of the first."
            )
        else:
            notes.append(
                f"One run with one seed{_seed(result)}: another seed trains another network, and the intervals "
                "do not say how far its figures would be from these. Runs with several seeds do."
            )
    if protocol == "view1" and dataset.startswith("lfw"):
        notes.append(
            "View 1 of LFW is meant for development. Figures on it are development figures, not to be "
            "compared with published results on View 2."
        )
    if dataset == "synthetic":
        notes.append("These faces were drawn by a program: the figures say nothing about real faces.")
    if result.get("outside_data"):
        notes.append(
            "Outside data was used: the images were aligned by, or the weights started from, what was trained on other "
            "images than LFW's own; compare only with results that use it too."
        )
    if result.get("setting") == "unrestricted":
        notes.append(
            "Unrestricted: the names of the training people formed further pairs; compare with results of that setting."
        )
    if "folds" in result:
        notes.append(
            f"Accuracy is the mean over {result['folds']} folds, each scored by a network trained on the others and "
            f"with the threshold chosen without it; its standard error is {percent(result['test/acc_se'])}. Folds "
            "share most of what they are trained on, so they vary a little less than networks of new data would. All "
            "other figures are of the pairs of all folds together: each fold's own calibration makes scores comparable."
        )
    objective = config.get("objective")
    if run.history and isinstance(objective, dict) and objective.get("name") != "bce":
        notes.append(
            f"The training loss is that of the objective ({objective.get('name')}), validation and test loss the "
            "cross-entropy of the calibrated probabilities: their sizes are not to be compared."
        )
    if run.threshold is not None:
        notes.append(_origin_of_threshold(run))
    if config.get("monitor") and _best_epoch(run) is not None:
        notes.append(
            f"The tested weights are those of the epoch with the best {config['monitor']}: chosen on the "
            "validation pairs, whose own figures are a little flattered by it. The test pairs chose nothing."
        )
    return notes


def _seed(result: Mapping[str, Any]) -> str:
    return f" ({result['seed']})" if "seed" in result else ""


def _origin_of_threshold(run: Run) -> str:
    """Where the threshold comes from; a run that chooses one records how as ``threshold_origin``."""
    if origin := run.result.get("threshold_origin"):
        return f"Threshold {run.threshold:.4g} on the probability: {origin}."
    if run.config.get("threshold") == run.threshold:
        if (run.result.get("calibration/slope", 1.0), run.result.get("calibration/intercept", 0.0)) != (1.0, 0.0):
            return (
                f"Threshold {run.threshold:g}: fixed before training, on probabilities that were calibrated on the "
                "validation pairs."
            )
        return (
            f"Threshold {run.threshold:g} on the probability: fixed by the configuration before training, "
            "not tuned on any pairs."
        )
    return f"Threshold {run.threshold:g} on the probability: its origin is not recorded."
