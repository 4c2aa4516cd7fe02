"""The page of one run, ``report.html``, and the pictures beside it, built from files alone."""

from __future__ import annotations

import base64
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
from siamese.runs.records import Prediction, Result

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
    photo = cache(partial(_photo, Path(run.result.image_root or folder)))
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
        figures["curves"] = curves_figure(run.history, run.result.best_epoch)
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
        name=run.result.name or run.config.get("name") or run.folder.name,
        context=_context(run),
        reason=_reason(run),
        headlines=_headlines(run.result),
        facts=_facts(run),
        splits=_splits(run),
        rates=_rates(shown),
        trials=_trials(run),
        folds=run.folds,
        shown=shown[0].split if shown else "test",
        best_epoch=run.result.best_epoch,
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


def _context(run: Run) -> str:
    """What the figures were measured on: data set, protocol, outside data, number of pairs."""
    result = run.result
    parts = []
    for value, titles in ((result.dataset, DATASETS), (result.protocol, PROTOCOLS)):
        if value is not None:
            parts.append(titled(value, titles))
    if result.outside_data is not None:
        parts.append("with outside data" if result.outside_data else "no outside data")
    if result.setting is not None and result.protocol != "oneshot":
        parts.append(result.setting)
    if result.n_test is not None:
        parts.append(count(result.n_test, "test pair"))
    if result.n_test_people is not None and result.n_test_images is not None:
        parts.append(f"{result.n_test_people:,} test people, {count(result.n_test_images, 'image')}")
    return " · ".join(parts)


def _reason(run: Run) -> str:
    """Why the page is not that of a finished run; nothing when it is."""
    error = run.result.error
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


def _headlines(result: Result) -> list[Headline]:
    """The test figures that are recorded."""
    recorded = result.as_dict()
    figures = [
        *((f"{n}-way one-shot", f"oneshot/{n}/acc", percent) for n in result.ways),
        ("Accuracy", "test/acc", percent),
        ("AUC", "test/auc", fixed(3)),
        ("Equal error rate", "test/eer", percent),
        ("Loss", "test/loss", fixed(4)),
    ]
    return [
        Headline(title, number(recorded[key], write), interval(recorded.get(f"{key}_ci"), write))
        for title, key, write in figures
        if recorded.get(key) is not None
    ]


def _trials(run: Run) -> list[dict[str, Any]]:
    """The rows of the table of one-shot identification."""
    rows = []
    for ways in run.result.ways:
        ends = interval(run.result.oneshot(ways, "acc_ci"), percent)
        acc, pixels = run.result.oneshot(ways, "acc"), run.result.oneshot(ways, "pixels")
        rows.append({"ways": ways, "interval": ends, "acc": acc, "pixels": pixels, "chance": 1 / ways})
    return rows


def _facts(run: Run) -> list[tuple[str, str]]:
    """What the run was, as (term, description); only what is recorded."""
    result, config = run.result, run.config
    best, epochs = result.best_epoch, len(run.history) or None if result.epochs is None else result.epochs
    monitor, dataset = config.get("monitor"), result.dataset
    best_text = "" if best is None else f"{best} of {epochs}" if epochs else str(best)
    commit = (result.git_commit or "")[:12]
    sizes = {"training": result.n_train, "validation": result.n_val, "test": result.n_test}
    people, images = result.n_train_people, result.n_train_images
    slope, intercept = result.calibration_slope, result.calibration_intercept
    is_calibrated = slope is not None and (slope, intercept) != (1.0, 0.0)
    facts = [
        ("Data set", dataset and f"{titled(dataset, DATASETS)} (data={dataset})"),
        ("Scored run", result.run if isinstance(result.run, str) else " · ".join(result.run or ())),
        ("Trained on", result.trained_on and titled(result.trained_on, DATASETS)),
        ("Pairs", " · ".join(f"{size:,} {name}" for name, size in sizes.items() if size is not None)),
        ("Training people", f"{people:,}, {images:,} images" if people and images else None),
        ("Best epoch", best_text + (f", by {monitor}" if best_text and monitor else "")),
        ("Epochs", epochs if best is None else None),
        ("Training time", _if_number(result.train_seconds, duration)),
        ("Total time", _if_number(result.total_seconds, duration)),
        ("Parameters", _if_number(result.parameters, "{:,}".format)),
        ("Probability", f"sigmoid({slope:.4g} · score {intercept:+.4g})" if is_calibrated else None),
        ("Threshold", _if_number(run.threshold, "{:.4g} on the probability".format)),
        ("Seed", result.seed),
        ("Precision", result.precision),
        ("Convolution", result.convolution),
        ("Device", result.device),
        ("Commit", commit + (" with uncommitted changes" if commit and result.git_dirty else "")),
        ("Versions", " · ".join(f"{name} {value}" for name, value in result.versions.items())),
        ("Command", run.command if run.overrides else None),
    ]
    return [(term, str(text)) for term, text in facts if text is not None and str(text) != ""]


def _if_number(value: Any, write: Callable[[float], str]) -> str | None:
    return write(value) if isinstance(value, int | float) else None


def _splits(run: Run) -> list[dict[str, Any]]:
    """The rows of the table that compares training, validation and test."""
    result, best = run.result, run.result.best_epoch
    rows = []
    for epoch in run.history:
        if epoch["epoch"] == best:
            figures = {"loss": epoch["train/loss"], "acc": epoch["train/acc"], "auc": None}
            title = f"Training, during epoch {best}"
            rows.append({"title": title, "pairs": result.n_train, **figures})
    for split, title in (("val", "Validation"), ("test", "Test")):
        measured = {name: result.figure(f"{split}/{name}") for name in ("loss", "acc", "auc")}
        if any(value is not None for value in measured.values()):
            rows.append({"title": title, "pairs": result.n_val if split == "val" else result.n_test, **measured})
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
    dataset, keys = result.dataset or "", result.as_dict().keys()
    notes: list[str] = []
    if result.ways:
        notes.append(
            "A trial shows one photo, another of the same person, and one of each of N - 1 other test people, all "
            "drawn at random; it is won when the photo of the same person has the highest score. The intervals are "
            "Wilson's and treat the trials as independent, though they share photos. Nearest pixels compares the same "
            "photos by the distance of their pixels."
        )
    if not any(key.startswith(("val/", "test/")) for key in keys):
        return notes
    if any(key.startswith("test/") for key in keys):
        over = "Wilson's" if result.folds is None else "Student's, over the folds"
        notes.append(
            "The intervals treat the pairs as independent draws. They are not quite, since a person or a "
            f"photo can be in several pairs, so the true uncertainty is somewhat larger. Accuracy: {over}; "
            "AUC: DeLong's; loss: Student's; equal error rate: bootstrap over pairs, 1,000 resamples."
        )
        members = result.run
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
    if result.protocol == "view1" and dataset.startswith("lfw"):
        notes.append(
            "View 1 of LFW is meant for development. Figures on it are development figures, not to be "
            "compared with published results on View 2."
        )
    if dataset == "synthetic":
        notes.append("These faces were drawn by a program: the figures say nothing about real faces.")
    if result.outside_data:
        notes.append(
            "Outside data was used: the images were aligned by, or the weights started from, what was trained on other "
            "images than LFW's own; compare only with results that use it too."
        )
    if result.setting == "unrestricted":
        notes.append(
            "Unrestricted: the names of the training people formed further pairs; compare with results of that setting."
        )
    if result.folds is not None:
        notes.append(
            f"Accuracy is the mean over {result.folds} folds, each scored by a network trained on the others and "
            f"with the threshold chosen without it; its standard error is {number(result.test_acc_se, percent)}. Folds "
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
    if config.get("monitor") and run.result.best_epoch is not None:
        notes.append(
            f"The tested weights are those of the epoch with the best {config['monitor']}: chosen on the "
            "validation pairs, whose own figures are a little flattered by it. The test pairs chose nothing."
        )
    return notes


def _seed(result: Result) -> str:
    return "" if result.seed is None else f" ({result.seed})"


def _origin_of_threshold(run: Run) -> str:
    """Where the threshold comes from; a run that chooses one records how as ``threshold_origin``."""
    if origin := run.result.threshold_origin:
        return f"Threshold {run.threshold:.4g} on the probability: {origin}."
    if run.config.get("threshold") == run.threshold:
        if (run.result.calibration_slope, run.result.calibration_intercept) not in ((1.0, 0.0), (None, None)):
            return (
                f"Threshold {run.threshold:g}: fixed before training, on probabilities that were calibrated on the "
                "validation pairs."
            )
        return (
            f"Threshold {run.threshold:g} on the probability: fixed by the configuration before training, "
            "not tuned on any pairs."
        )
    return f"Threshold {run.threshold:g} on the probability: its origin is not recorded."
