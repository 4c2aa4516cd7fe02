"""The run page, from run folders that the tests write."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from siamese.data.lists import Pair, people_of_each
from siamese.evaluation.intervals import wilson
from siamese.evaluation.metrics import sigmoid
from siamese.evaluation.summary import summarise
from siamese.report import figures
from siamese.report.examples import pick_examples
from siamese.report.load import read_run
from siamese.report.run_page import PICTURES, _rates, write_run_page
from siamese.runs.tables import Prediction

EVIL = "<script>alert('$x^$')</script>"
SOURCES = ("src", "href", "xlink:href", "srcset", "action", "data")
HISTORY = [
    [1, 0.6874, 0.604, 0.6493, 0.6727, 1e-4, 7.1],
    [2, 0.2839, 0.9062, 0.6224, 0.6909, 1e-4, 6.9],
    [3, 0.101, 0.9943, 0.6182, 0.6909, 1e-4, 6.8],
]
RESULT = {
    "status": "done", "name": "koch-adam", "val/loss": 0.6182, "val/acc": 0.6909, "val/auc": 0.76543,
    "threshold": 0.5, "best_epoch": 3, "epochs": 8, "train_seconds": 437.7, "total_seconds": 7500.0, "n_train": 1760,
    "n_val": 440, "n_test": 40, "n_excluded": 2, "dataset": "lfw", "protocol": "view1", "setting": "restricted",
    "outside_data": False,
    "seed": 0, "precision": "32", "device": "cpu: two cores", "parameters": 38959553, "version/torch": "2.15.0",
    "version/lightning": "2.6.6", "git_commit": "50b15e7aaaabbbbcccc", "git_dirty": True,
}  # fmt: skip
CONFIG = {
    "name": "koch-adam", "threshold": 0.5, "monitor": "val/loss", "model": {"name": "koch", "batchnorm": True},
    "backend": {"name": "plda"},
}  # fmt: skip


class FakeRun:
    """Writes the files of a finished run; tests then change or remove some of them."""

    def __init__(self, folder: Path, images: Path, seed: int = 0) -> None:
        self.folder, self.images = folder, images
        rng = np.random.default_rng(seed)
        labels = np.arange(40) % 2
        logits = rng.normal(2 * labels - 1, 1.5)
        self.pairs = []
        for i, (label, logit) in enumerate(zip(labels, logits, strict=True)):
            first, second = f"Ann_{i % 5}", f"Ann_{i % 5}" if label else "Bob_Lee"
            names = f"{first}/{first}_0001.jpg", f"{second}/{second}_0002.jpg"
            self.pairs.append((*names, int(label), float(logit)))
        self.result = {**RESULT, "image_root": str(images)}
        self.config = dict(CONFIG)
        self.excluded = [("No_One/No_One_0001.jpg", "truncated"), ("No_One/No_One_0002.jpg", "no such file")]

    def write(self, test_figures: bool = True) -> Path:
        self.folder.mkdir(exist_ok=True)
        if test_figures:
            self._add_figures()
        rows = []
        for image1, image2, label, logit in self.pairs:
            probability = float(sigmoid(logit))
            predicted = int(probability >= 0.5)
            outcome = ("t" if predicted == label else "f") + ("p" if predicted else "n")
            rows.append(["test", image1, image2, label, logit, probability, predicted, outcome])
        columns = ["split", "image1", "image2", "label", "score", "probability", "predicted", "outcome"]
        self._csv("predictions.csv", columns, rows)
        epochs = ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr", "seconds"]
        self._csv("history.csv", epochs, HISTORY)
        self._csv("excluded.csv", ["file", "reason"], self.excluded)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        (self.folder / "result.json").write_text(json.dumps(self.result))
        return self.folder

    def _add_figures(self) -> None:
        people = people_of_each([Pair(*pair[:3]) for pair in self.pairs])
        figures = summarise([pair[3] for pair in self.pairs], [pair[2] for pair in self.pairs], people)
        for name, value in figures.items():
            self.result[name if name in ("tp", "fp", "tn", "fn") else f"test/{name}"] = value

    def _csv(self, name: str, columns, rows) -> None:
        with (self.folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])


class Page(HTMLParser):
    """What a page shows: its text, its tags and their attributes."""

    VOID = frozenset({"meta", "img", "br"})
    INLINE = frozenset({"a"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.tags, self.texts, self.open = html, [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._end_word(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        self._end_word(tag)

    def _end_word(self, tag):
        if tag not in self.INLINE:
            self.texts.append(" ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def build(folder: Path) -> Page:
    path = write_run_page(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open, "every tag is closed"
    return page


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for i, name in enumerate([*(f"Ann_{i}" for i in range(5)), "Bob_Lee"]):
        (root / name).mkdir()
        for number in (1, 2):
            color = (40 * i, 90 * number, 120)
            Image.new("RGB", (250, 250), color).save(root / name / f"{name}_{number:04d}.jpg")
    return root


@pytest.fixture(scope="module")
def done(tmp_path_factory, images) -> FakeRun:
    """A finished run, written once; not to be changed."""
    run = FakeRun(tmp_path_factory.mktemp("done"), images)
    run.write()
    return run


@pytest.fixture(scope="module")
def page(done) -> Page:
    return build(done.folder)


@pytest.fixture
def run(tmp_path, images, monkeypatch) -> FakeRun:
    """A run to be changed before it is written; its figures are made, but not drawn, which takes a second."""
    blank = io.BytesIO()
    Image.new("L", (1, 1)).save(blank, "PNG")
    monkeypatch.setattr("siamese.report.run_page.to_png", lambda figure, dpi: blank.getvalue())
    monkeypatch.setattr("siamese.report.html.to_svg", lambda figure, label: "<svg></svg>")
    return FakeRun(tmp_path / "run", images)


class TestFinishedRun:
    def test_headline_results_have_intervals_and_context(self, page, done):
        result = done.result
        low, high = result["test/acc_ci"]
        assert f"Test accuracy {100 * result['test/acc']:.1f} %" in page.text
        assert f"95 % CI: {100 * low:.1f} – {100 * high:.1f} %" in page.text
        low, high = result["test/auc_ci"]
        assert f"Test AUC {result['test/auc']:.3f} 95 % CI: {low:.3f} – {high:.3f}" in page.text
        low, high = result["test/loss_ci"]
        assert f"Test loss {result['test/loss']:.4f} 95 % CI: {low:.4f} – {high:.4f}" in page.text
        assert "Test equal error rate" in page.text

    def test_result_comes_first_and_metadata_last(self, page):
        headings = ["40 test pairs of LFW", "Test accuracy", "Learning", "The four outcomes", "Decisions on the test"]
        headings += [
            "Excluded images",
            "How to read the results",
            "Protocol View 1",
            "All settings of the run",
            "Terms",
        ]
        places = [page.text.index(heading) for heading in headings]
        assert places == sorted(places)

    @pytest.mark.parametrize(
        "fact",
        [
            "koch-adam", "done", "Model koch Back end plda",
            "3 of 8, by val/loss", "7 min 18 s", "2 h 5 min", "38,959,553", "cpu: two cores",
            "Seed 0", "View 1, restricted, no outside data", "torch 2.15.0 · lightning 2.6.6",
            "50b15e7aaaab with uncommitted changes",
            "1,760 training · 440 validation · 40 test", "Training, during epoch 3 1,760 99.4 % 0.1010 –",
            "Validation 440 69.1 % 0.6182 0.765", "No_One/No_One_0001.jpg truncated", "Excluded images: 2",
            "batchnorm: true", "View 1 of LFW is meant for development",
            "Many test pairs come from few people", "confidence intervals (CI) over the test people",
            "One run with one seed (0)",
            "Threshold 0.5 on the probability: fixed by the configuration before training",
        ],
    )  # fmt: skip
    def test_facts_about_the_run(self, page, fact):
        assert fact in page.text

    def test_needs_no_network_and_no_other_file(self, page):
        sources = [a[key] for _, a in page.tags for key in SOURCES if key in a]
        assert sources
        assert all(source.startswith(("data:image/", "#")) for source in sources)
        assert "@import" not in page.html
        assert not re.search(r"url\s*\((?!#)", page.html)
        assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
        assert len(page.html) < 1_000_000

    def test_every_picture_opens_and_is_described(self, page):
        pictures = page.all("img")
        for picture in pictures:
            assert len(picture["alt"]) > 3
            kind, _, content = picture["src"].partition(";base64,")
            with Image.open(io.BytesIO(base64.b64decode(content, validate=True))) as image:
                image.load()
                assert kind == f"data:image/{image.format.lower()}"

    def test_every_figure_is_described_and_follows_dark_mode(self, page):
        drawn = page.all("svg")
        assert len(drawn) == len({a["aria-label"] for a in drawn}) == 7
        colors = set(re.findall(r"(?:fill|stroke): ([^;\"]*)", page.html)) - {"none"}
        dark = page.html.partition("prefers-color-scheme: dark")[2].partition("}")[0]
        assert colors
        for color in colors:
            assert re.fullmatch(r"var\((--c\w{6}), #\w{6}\)", color)
            assert f"{color[4:13]}: #" in dark

    def test_ids_are_unique(self, page):
        ids = [a["id"] for _, a in page.tags if "id" in a]
        assert len(ids) == len(set(ids))
        assert {href[1:] for _, a in page.tags if (href := a.get("href", "")).startswith("#")} <= set(ids)

    def test_figures_are_saved_beside_the_page(self, page, done):
        for name in (name for name in PICTURES if name != "identification"):
            with Image.open(done.folder / f"{name}.png") as image:
                image.load()
                assert image.format == "PNG"
                assert min(image.size) > 300
                assert len(set(image.convert("L").tobytes())) > 20, f"{name}.png is blank"

    def test_gallery_shows_both_photos_of_the_extreme_pairs(self, page, done):
        shown = pick_examples(read_run(done.folder).split("test"))
        pairs = [pair for group in shown for pair in (*group.confident, *group.uncertain)]
        assert (
            sum(a.get("class") == "pair" for a in page.all("figure"))
            == len(pairs)
            == sum(min(group.count, 6) for group in shown)
        )
        titles = [a["title"] for a in page.all("img") if "title" in a]
        assert titles == [name for pair in pairs for name in (pair.image1, pair.image2)]
        for group in shown:
            assert f"{figures.OUTCOME_TITLES[group.outcome][0]}: {group.count}" in page.text
        best = shown[0].confident[0]
        assert f"p = {best.probability:.3f} · label same" in page.text

    def test_tables_have_headers(self, page):
        assert page.all("th")
        assert all(a.get("scope") in ("col", "row") for a in page.all("th"))

    def test_building_again_changes_nothing(self, page, done):
        def files() -> dict[str, bytes]:
            # The record of the page's files has their times.
            return {path.name: path.read_bytes() for path in done.folder.iterdir() if path.name != ".report.json"}

        before = files()
        build(done.folder)
        assert files() == before


def test_all_decisions_are_over_people_if_all_pairs_come_from_few():
    """In the rows of one class, 20 people have 4 pairs each, but 12 in all."""
    pairs = []
    for k in range(80):
        own, other = f"{k % 20}/a.jpg", f"{(k + 1 + k // 20) % 20}/a.jpg"
        right = k % 20 < 15
        pairs.append(Prediction("test", own, f"{k % 20}/b.jpg", 1, 0.0, 0.5, int(right)))
        pairs.append(Prediction("test", own, other, 0, 0.0, 0.5, int(not right)))
    rates = {rate.title: rate for rate in _rates(pairs)}
    same = rates["Same pairs: predicted same"]
    low, high = (float(end) for end in same.interval.removesuffix(" %").split(" – "))
    assert same.counts == "60 of 80"
    assert (low, high) == pytest.approx([100 * end for end in wilson(15, 20)], abs=4)  # as if each person were one pair


class TestEscaping:
    def test_nothing_from_the_files_becomes_markup(self, run):
        image1 = f"{EVIL}/{EVIL}_0001.jpg"
        run.pairs[1] = (image1, *run.pairs[1][1:3], 99.0)  # the most confident true positive
        run.excluded = [(EVIL, EVIL)]
        run.config["name"] = EVIL
        for key in ("name", "dataset", "protocol", "device", "status", "version/torch", "error", "git_commit"):
            run.result[key] = EVIL
        page = build(run.write())
        assert "script" not in {tag for tag, _ in page.tags}
        assert page.text.count(EVIL) >= 9
        assert any(a.get("title") == image1 for a in page.all("div"))


class TestPhotos:
    def test_missing_and_broken_photos_become_placeholders(self, run, images, tmp_path):
        root = tmp_path / "some"
        shutil.copytree(images, root)
        (root / "Ann_1" / "Ann_1_0001.jpg").unlink()
        (root / "Ann_3" / "Ann_3_0001.jpg").write_bytes(b"no picture")
        run.result["image_root"] = str(root)
        page = build(run.write())
        gone = {a["title"] for a in page.all("div") if a.get("class") == "gone"}
        assert gone == {"Ann_1/Ann_1_0001.jpg", "Ann_3/Ann_3_0001.jpg"}
        assert "photo not found" in page.text

    def test_no_image_folder_at_all(self, run):
        del run.result["image_root"]
        page = build(run.write())
        assert not any("title" in a for a in page.all("img"))
        assert "photo not found" in page.text


class TestUnfinishedRuns:
    def test_failed_run_shows_its_reason_and_curves(self, run):
        run.result |= {"status": "failed", "error": "RuntimeError: out of memory"}
        for key in ("best_epoch", "epochs", "val/loss", "val/acc", "val/auc", "train_seconds"):
            del run.result[key]
        run.write(test_figures=False)
        (run.folder / "predictions.csv").unlink()
        (run.folder / "roc.png").write_bytes(b"of an earlier page")
        page = build(run.folder)
        assert "RuntimeError: out of memory" in page.text
        assert (
            "has trained 3 epochs and has not been tested. The highest validation accuracy so far is 69.1 %"
            in page.text
        )
        assert "predictions.csv" not in page.text
        assert "treat the pairs as independent" not in page.text
        assert [path.name for path in run.folder.glob("*.png")] == ["curves.png"]

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            ("running", "it is still running, or it was killed"),
            ("interrupted", "resume=true"),
            ("failed", "See its log."),
        ],
    )
    def test_status_alone(self, status, reason, tmp_path):
        (tmp_path / "result.json").write_text(json.dumps({"status": status}))
        page = build(tmp_path)
        assert reason in page.text
        assert "history.csv is missing." in page.text

    def test_empty_folder(self, tmp_path):
        page = build(tmp_path)
        for name in ("result.json", "config.yaml", "history.csv", "predictions.csv", "excluded.csv"):
            assert f"{name} is missing." in page.text
        assert tmp_path.name in page.text

    def test_damaged_files_are_listed_and_the_rest_is_shown(self, run):
        folder = run.write()
        (folder / "config.yaml").write_text("a: [1,\n")
        with (folder / "history.csv").open("a") as file:
            file.write("inf,1,1,1,1,1,1\n4,0.1,0.9")  # cut off: a row with gaps is still an epoch
        with (folder / "predictions.csv").open("a") as file:
            file.write("test,a.jpg,b.jpg,1,nan,nan,1,tp\ntest,a.jpg,b.jpg,7,0.1,0.5,1,tp\ntest,a.jp")
        (folder / "excluded.csv").write_bytes(b"\xff\xfe\x00")
        page = build(folder)
        assert "config.yaml cannot be read" in page.text
        assert "history.csv: 1 damaged row was ignored." in page.text
        assert "predictions.csv: 3 damaged rows were ignored." in page.text
        assert "excluded.csv cannot be read" in page.text
        assert "Test accuracy" in page.text
        assert "4 0.1000 90.0 % – – – –" in page.text

    @pytest.mark.parametrize("content", ["{", "[1, 2]", "", '"text"'])
    def test_unusable_result(self, content, tmp_path):
        (tmp_path / "result.json").write_text(content)
        assert "unknown" in build(tmp_path).text

    def test_predictions_of_another_run_are_a_problem(self, run):
        run.write()
        run.result["tp"] += 1
        (run.folder / "result.json").write_text(json.dumps(run.result))
        assert "the files belong to different runs" in build(run.folder).text


class TestOneSidedResults:
    def test_no_errors_at_all(self, run):
        run.pairs = [(*pair[:3], 3.0 + i / 9 if pair[2] else -3.0 - i / 9) for i, pair in enumerate(run.pairs)]
        page = build(run.write())
        assert "False positives: 0" in page.text
        assert "False negatives: 0" in page.text
        assert "Test accuracy 100.0 %" in page.text
        assert "95 % CI: 1.000 – 1.000" not in page.text, "no certainty from 40 pairs"

    def test_few_pairs_are_shown_once(self, run):
        run.pairs = run.pairs[:4]
        page = build(run.write())
        assert sum(a.get("class") == "pair" for a in page.all("figure")) == 4
        assert "Most uncertain" not in page.text

    def test_one_class(self, run):
        run.pairs = [pair for pair in run.pairs if pair[2]]
        page = build(run.write())
        assert "Test AUC" not in page.text
        assert "Same pairs: predicted same" in page.text
        assert (run.folder / "roc.png").exists()

    def test_validation_pairs_when_there_are_no_others(self, run):
        folder = run.write(test_figures=False)
        file = folder / "predictions.csv"
        file.write_text(file.read_text().replace("test,", "val,"))
        assert "Decisions on the validation pairs" in build(folder).text

    def test_long_list_of_excluded_images_is_folded(self, run):
        run.excluded = [(f"Eve/Eve_{i:04d}.jpg", "truncated") for i in range(501)]
        page = build(run.write())
        assert "Excluded images: 501" in page.text
        assert "The first 500; excluded.csv lists all." in page.text
        assert page.html.rindex("<details>", 0, page.html.index("Eve_0000")) > page.html.index("Excluded images")


class TestNotes:
    @pytest.mark.parametrize(
        ("changes", "note"),
        [
            ({"dataset": "lfw_a", "outside_data": True}, "Outside data was used"),
            ({"dataset": "synthetic"}, "drawn by a program"),
            ({"threshold": 0.4}, "Threshold 0.4 on the probability: its origin is not recorded"),
            ({"threshold_origin": "best on validation"}, "Threshold 0.5 on the probability: best on validation."),
            ({"calibration/slope": 3.0, "calibration/intercept": -1.0}, "The probabilities were calibrated on"),
            ({"run": ["/runs/7", "/runs/8"]}, "An ensemble of 2 runs"),
            ({"folds": 10, "test/acc_se": 0.01}, "The interval of the accuracy is Student’s (over the folds)"),
            ({"folds": 10, "test/ci_over": "people"}, "The interval of the accuracy is Student’s (over the folds)"),
            ({"test/ci_over": "people"}, "The interval of the accuracy is Wilson’s, those of AUC"),
        ],
    )
    def test_follow_the_result(self, changes, note, tmp_path):
        (tmp_path / "result.json").write_text(json.dumps({**RESULT, "test/acc": 0.7, **changes}))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        page = build(tmp_path)
        assert note in page.text
        assert ("View 1 of LFW" in page.text) == ("synthetic" not in changes.values())

    @pytest.mark.parametrize(
        ("over", "texts"),
        [
            ("people", ["(CI) over the test people.", "Many trials are of few people"]),
            ("trials", ["(CI) over the trials.", "treat the trials as independent"]),
        ],
    )
    def test_one_shot_intervals_are_over_what_is_recorded(self, over, texts, tmp_path):
        result = {"status": "done", "oneshot/5/acc": 0.7, "oneshot/5/acc_ci": [0.6, 0.8], "oneshot/ci_over": over}
        (tmp_path / "result.json").write_text(json.dumps(result))
        page = build(tmp_path)
        assert [text for text in texts if text not in page.text] == []

    @pytest.mark.parametrize("name", ["cosine", "step"])
    def test_a_cosine_that_was_made_longer_is_named(self, tmp_path, name):
        result = {**RESULT, "test/acc": 0.7, "continued_after": [20]}
        (tmp_path / "result.json").write_text(json.dumps(result))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "scheduler": {"name": name}}))
        assert ("max_epochs was raised after epoch 20" in build(tmp_path).text) == (name == "cosine")

    @pytest.mark.parametrize("run", ["/runs/7", ["/runs/7", "/runs/8"]])
    def test_model_and_back_end_of_an_ensemble_are_not_those_of_its_first_run(self, tmp_path, run):
        (tmp_path / "result.json").write_text(json.dumps({"status": "done", "run": run, "test/acc": 0.7}))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        assert ("Model koch Back end plda" in build(tmp_path).text) == isinstance(run, str)

    def test_evaluation_has_no_history_and_names_the_run(self, tmp_path):
        (tmp_path / "result.json").write_text(json.dumps({"status": "done", "run": "/runs/7", "test/acc": 0.7}))
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "overrides.yaml").write_text("- run=/runs/7\n- 'name=a b'\n")
        page = build(tmp_path)
        assert "evaluation page" in page.text
        assert "Evaluated run /runs/7" in page.text
        assert "python eval.py run=/runs/7 'name=a b'" in page.text
        assert "history.csv" not in page.text

    def test_unfinished_view_2_has_no_missing_files(self, tmp_path):
        """The folds have the files that are missing in the folder of the whole run."""
        (tmp_path / "result.json").write_text(json.dumps({"status": "interrupted", "protocol": "view2"}))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (tmp_path / "fold_01").mkdir()
        assert "missing" not in build(tmp_path).text
