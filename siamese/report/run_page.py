"""Write the run page, ``report.html``, with its figures and curves, from the files of the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from siamese.config.protocol import OF_PEOPLE
from siamese.config.titles import DATASETS, PROTOCOLS, titled
from siamese.data.lists import people_of_each
from siamese.evaluation.identification import FPIRS
from siamese.evaluation.intervals import share_interval
from siamese.evaluation.people import are_few
from siamese.evaluation.subgroups import LEAST
from siamese.evaluation.summary import FARS
from siamese.files import write_bytes_atomically, write_text_atomically
from siamese.report.curves import CURVES, write_curves
from siamese.report.drawn import Drawn
from siamese.report.error_rates import attribute_tables, how_certain
from siamese.report.examples import PHOTO_HEIGHT, as_data_uri, load_photo, occlusion_map_file, pick_examples
from siamese.report.figures import (
    OUTCOME_TITLES,
    curves_figure,
    gallery_figure,
    identification_figure,
    predictions_figures,
    to_png,
)
from siamese.report.html import render_page
from siamese.report.identification import identification_figures
from siamese.report.load import Run, read_run, run_files
from siamese.report.run_notes import notes
from siamese.report.run_summary import summary
from siamese.report.text import fixed, interval, number, percent
from siamese.runs.records import Result
from siamese.runs.tables import Prediction
from siamese.text import count, duration

PICTURES = ("curves", "identification", "roc", "det", "scores", "reliability", "confusion", "gallery")
MAX_EXCLUDED = 500
"""Most rows in the table of excluded images; ``excluded.csv`` lists all."""


class Headline(NamedTuple):
    """A result in large type, with its 95 % confidence interval."""

    title: str
    value: str
    interval: str


class Rate(NamedTuple):
    """A row of the table of decisions: a share of the pairs, with its 95 % confidence interval."""

    title: str
    counts: str
    value: str
    interval: str


def write_run_page(folder: Path) -> Path:
    """Write ``report.html``, its PNG figures and its curves into a run folder, and return the path of the page.

    The run need not be finished. A record of the files that the page is drawn from is written beside it, see
    `siamese.report.drawn`. The page is one file that needs neither the PNGs nor the network. Figures and
    curves of an earlier page that no longer apply are deleted.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    drawn = Drawn(folder)
    for file in run_files(folder):
        drawn.note(file)
    run = read_run(folder)
    # Cached: pairs share photos, and gallery.png and the page show the same ones.
    photo = cache(partial(_photo, Path(run.result.image_root or folder), drawn))
    figures = draw(run, photo)
    for name in PICTURES:
        if name in figures:
            # At 90 dpi, because the photos of the gallery are small: more would add megabytes and no detail.
            png = to_png(figures[name], dpi=90 if name == "gallery" else 150)
            write_bytes_atomically(folder / f"{name}.png", png)
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)
        drawn.note(folder / f"{name}.png")
    write_curves(folder, _shown(run), run.result.folds is not None)
    for name in CURVES:
        drawn.note(folder / name)
    for pair in _gallery(run):
        drawn.note(occlusion_map_file(folder, pair))
    page = folder / "report.html"
    write_text_atomically(page, render(run, figures, photo))
    drawn.note(page)
    drawn.save()
    return page


def _gallery(run: Run) -> list[Prediction]:
    """The pairs of the gallery."""
    return [pair for group in pick_examples(_shown(run)) for pair in (*group.confident, *group.uncertain)]


def draw(run: Run, photo: Callable[[str], Image.Image | None]) -> dict[str, Figure]:
    """Draw those of `PICTURES` that the run has data for."""
    figures = {}
    if run.history:
        figures["curves"] = curves_figure(run.history, run.result.best_epoch)
    if run.cmc:
        figures["identification"] = identification_figure(run.cmc, run.open_set)
    if shown := _shown(run):
        figures |= predictions_figures(shown, run.threshold)
        figures["gallery"] = gallery_figure(pick_examples(shown), photo)
    return figures


def render(run: Run, figures: Mapping[str, Figure], photo: Callable[[str], Image.Image | None]) -> str:
    """The page as HTML; values that come from files are escaped.

    Args:
        run: the run.
        figures: from `draw`.
        photo: loads the photo of an image name; returns None if it is not found.
    """

    @cache
    def embedded(name: str) -> str | None:
        picture = photo(name)
        return None if picture is None else as_data_uri(picture)

    def occlusion_map(pair: Prediction) -> str | None:
        picture = load_photo(occlusion_map_file(run.folder, pair), 2 * PHOTO_HEIGHT)
        return None if picture is None else as_data_uri(picture)

    shown = _shown(run)
    curves = ("loss", "acc") if run.history else ()
    return render_page(
        "run.html.j2",
        run=run,
        name=run.result.name or run.config.get("name") or run.folder.name,
        summary=summary(run),
        reason=_reason(run),
        headlines=_headlines(run.result),
        facts=_facts(run),
        splits=_splits(run),
        rates=_rates(shown),
        intervals_over=_intervals_over(run.result),
        trials=_trials(run),
        identification=identification_figures(run.result),
        folds=run.folds,
        groups=attribute_tables(run.groups),
        least=LEAST,
        how_certain=how_certain(run.groups),
        shown=shown[0].split if shown else "test",
        best_epoch=run.result.best_epoch,
        # The two curves one by one, so that they can stand below each other on a narrow screen.
        figures={**figures, **{name: curves_figure(run.history, run.result.best_epoch, [name]) for name in curves}},
        examples=pick_examples(shown),
        outcome_titles=OUTCOME_TITLES,
        photo=embedded,
        occlusion_map=occlusion_map,
        excluded=run.excluded[:MAX_EXCLUDED],
        notes=notes(run),
    )


def _photo(root: Path, drawn: Drawn, name: str) -> Image.Image | None:
    return load_photo(drawn.note(root / name))


def _shown(run: Run) -> list[Prediction]:
    """The pairs shown on the page: the test pairs, or the validation pairs if there are no test pairs."""
    return run.split("test") or run.split("val")


def _reason(run: Run) -> str:
    """Why the run is not finished; empty if it is."""
    error = run.result.error
    match run.status:
        case "done":
            return ""
        case "running":
            return (
                "Recorded as running: it is still running, or it was killed before it could record that it had ended."
            )
        case "interrupted":
            how = "To resume it, start it with the same output folder and resume=true."
            return error or f"The run was interrupted. {how}"
        case "failed":
            return error or "The run failed, and no reason was recorded. See its log."
        case _:
            return "It is not recorded whether the run finished."


def _headlines(result: Result) -> list[Headline]:
    """The recorded test results, for the cards at the top of the page."""
    recorded = result.as_dict()
    figures = [
        *((f"{n}-way one-shot", f"oneshot/{n}/acc", percent) for n in result.ways),
        ("Rank-1 identification", "identification/rank1", percent),
        *((f"TPIR at FPIR {100 * far:g} %", f"identification/tpir@fpir={far:g}", percent) for far in FPIRS),
        ("Accuracy", "test/acc", percent),
        ("AUC", "test/auc", fixed(3)),
        ("Equal error rate", "test/eer", percent),
        *((f"TAR at FAR {far:.4g}", f"test/tar@far={far:g}", percent) for far in FARS),
        ("Loss", "test/loss", fixed(4)),
    ]
    return [
        Headline(title, number(recorded[key], write), interval(recorded.get(f"{key}_ci"), write))
        for title, key, write in figures
        if recorded.get(key) is not None
    ]


def _intervals_over(result: Result) -> str:
    """What the confidence intervals of the test results are over."""
    if result.ways:
        return "test people" if result.oneshot_ci_over == "people" else "trials"
    return "test people" if result.protocol == "identification" else f"test {result.test_ci_over or 'pairs'}"


def _trials(run: Run) -> list[dict[str, Any]]:
    """The rows of the table of one-shot results."""
    rows = []
    for ways in run.result.ways:
        ends = interval(run.result.oneshot(ways, "acc_ci"), percent)
        acc, pixels = run.result.oneshot(ways, "acc"), run.result.oneshot(ways, "pixels")
        rows.append({"ways": ways, "interval": ends, "acc": acc, "pixels": pixels, "chance": 1 / ways})
    return rows


def _facts(run: Run) -> list[tuple[str, str]]:
    """The recorded facts about the run, as (term, description)."""
    result, config = run.result, run.config
    best, epochs = result.best_epoch, len(run.history) or None if result.epochs is None else result.epochs
    monitor, dataset = config.get("monitor"), result.dataset
    best_text = "" if best is None else f"{best} of {epochs}" if epochs else str(best)
    commit = ", ".join(name[:12] for name in (result.git_commit or "").split(", "))  # several: of the folds of View 2
    sizes = {"training": result.n_train, "validation": result.n_val, "test": result.n_test}
    people, images = result.n_train_people, result.n_train_images
    test_people, test_images = result.n_test_people, result.n_test_images
    slope, intercept = result.calibration_slope, result.calibration_intercept
    last_session = " (last session)" if config.get("resume") else ""
    facts = [
        ("Data set", dataset and f"{titled(dataset, DATASETS)} (data={dataset})"),
        ("Evaluated run", result.run if isinstance(result.run, str) else " · ".join(result.run or ())),
        ("Trained on", result.trained_on and titled(result.trained_on, DATASETS)),
        ("Protocol", _protocol(result)),
        ("Pairs", " · ".join(f"{size:,} {name}" for name, size in sizes.items() if size is not None)),
        ("Training people", f"{people:,}, {count(images, 'image')}" if people and images else None),
        ("Test people", f"{test_people:,}, {count(test_images, 'image')}" if test_people and test_images else None),
        ("Model", _option(run, "model")),
        ("Back end", _option(run, "backend")),
        ("Best epoch", best_text + (f", by {monitor}" if best_text and monitor else "")),
        ("Epochs", epochs if best is None else None),
        ("Training time", _if_number(result.train_seconds, duration)),
        ("Total time", _if_number(result.total_seconds, lambda total: duration(total) + last_session)),
        ("Parameters", _if_number(result.parameters, "{:,}".format)),
        ("Probability", f"sigmoid({slope:.4g} · score {intercept:+.4g})" if run.is_calibrated else None),
        ("Threshold", _if_number(run.threshold, "{:.4g} on the probability".format)),
        ("Seed", result.seed),
        ("Precision", result.precision),
        ("Convolution", "DFT" if result.convolution == "dft" else result.convolution),
        ("Device", result.device),
        ("Commit", commit + (" with uncommitted changes" if commit and result.git_dirty else "")),
        ("Versions", " · ".join(f"{name} {value}" for name, value in result.versions.items())),
        ("Command", run.command if run.overrides else None),
    ]
    return [(term, str(text)) for term, text in facts if text is not None and str(text) != ""]


def _option(run: Run, group: str) -> str | None:
    """The chosen option of a group; None for an ensemble, because its configuration is that of its first run."""
    section = run.config.get(group)
    return section.get("name") if isinstance(section, Mapping) and not isinstance(run.result.run, list) else None


def _protocol(result: Result) -> str:
    """Protocol, setting and outside data, as far as they are recorded."""
    parts = [titled(result.protocol, PROTOCOLS) if result.protocol else None]
    if result.protocol not in OF_PEOPLE:
        parts.append(result.setting)
    if result.oneshot_within:
        parts.append(f"within “{result.oneshot_within}”")
    if result.outside_data is not None:
        parts.append("with outside data" if result.outside_data else "no outside data")
    return ", ".join(part for part in parts if part)


def _if_number(value: Any, write: Callable[[float], str]) -> str | None:
    return write(value) if isinstance(value, int | float) else None


def _splits(run: Run) -> list[dict[str, Any]]:
    """The rows of the table of training, validation and test results."""
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
    """The rows of the table of decisions."""
    if not predictions:
        return []
    people = people_of_each(predictions)
    over_people = are_few(people)
    rates = [
        ("All pairs: correct", "tp fp tn fn"),
        ("Same pairs: predicted same", "tp fn"),
        ("Different pairs: predicted different", "tn fp"),
        ("Predicted same: correct", "tp fp"),
        ("Predicted different: correct", "tn fn"),
    ]
    found = []
    for title, outcomes in rates:
        rows = [row for row, one in enumerate(predictions) if one.outcome in outcomes.split()]
        right = [predictions[row].predicted == predictions[row].label for row in rows]
        if rows:
            ends = share_interval(right, [people[row] for row in rows], over_people=over_people)
            counts, share = f"{sum(right):,} of {len(rows):,}", percent(sum(right) / len(rows))
            found.append(Rate(title, counts, share, interval(ends, percent)))
    return found
