"""The sentence at the top of a run page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siamese.report.load import Run
from siamese.report.run_summary import summary
from siamese.runs.records import Result
from siamese.runs.tables import HISTORY_COLUMNS, Prediction

TESTED = {
    "status": "done", "dataset": "synthetic", "protocol": "view1", "setting": "restricted", "n_test": 400,
    "test/acc": 0.868, "test/acc_ci": [0.831, 0.897], "test/auc": 0.93, "test/auc_ci": [0.9, 0.96],
}  # fmt: skip


def text(
    same: int = 200, different: int = 200, split: str = "test", epochs: list[float] | None = None, **keys: Any
) -> str:
    """The summary of `TESTED` with other keys (None: absent), labels, and validation accuracies of its epochs."""
    result = {name: value for name, value in (TESTED | keys).items() if value is not None}
    pairs = [
        Prediction(split, f"{k}/1", f"{k}/2" if label else f"not {k}/1", label, 0.0, 0.5, label if k % 5 else 1 - label)
        for k, label in enumerate([1] * same + [0] * different)
    ]
    blank = dict.fromkeys(HISTORY_COLUMNS, float("nan"))
    history = [{**blank, "epoch": i, "val/acc": acc} for i, acc in enumerate(epochs or [], start=1)]
    config = {"max_epochs": 20}
    return summary(Run(Path(), Result.model_validate(result), config, history=tuple(history), predictions=tuple(pairs)))


UNTESTED = {
    "n_test": None,
    "test/acc": None,
    "test/acc_ci": None,
    "test/auc": None,
    "test/auc_ci": None,
    "same": 0,
    "different": 0,
}


def test_tested_run():
    assert text() == (
        "On 400 test pairs of synthetic faces (View 1, restricted), the network decides 86.8 % correctly "
        "(95 % confidence interval 83.1 – 89.7 %); guessing gives 50 %."
    )


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"folds": 10, "protocol": "view2"}, "one network per fold decides 86.8 % correctly (mean over 10 folds, 95"),
        ({"run": ["/a", "/b"]}, "the ensemble of 2 networks decides"),
        ({"run": "/a", "trained_on": "lfw"}, "the network, trained on LFW, original images, decides"),
        ({"run": "/a", "trained_on": "synthetic"}, "the network decides"),
        ({"dataset": "lfw_a", "outside_data": True}, "of LFW-a, aligned (View 1, restricted, with outside data), the"),
        (
            {"dataset": "folder friends", "protocol": "holdout", "setting": "unrestricted"},
            "test pairs of photos in the folder friends (people held out, unrestricted), the network",
        ),
        ({"dataset": "list pairs.csv", "protocol": "holdout"}, "of photos in the list pairs.csv (people held out,"),
        ({"test/acc_ci": None}, "86.8 % correctly; guessing"),
        ({"same": 80, "different": 320}, "; always answering “different” gives 80 %."),
        ({"same": 2, "different": 1}, "; always answering “same” gives 66.7 %."),
        ({"same": 0}, "83.1 – 89.7 %)."),
    ],
)  # fmt: skip
def test_other_results(keys, part):
    assert part in text(**keys)
    assert "chance level" not in text(**keys)


CHANCE = {"test/acc": 0.51, "test/acc_ci": [0.46, 0.56], "test/auc_ci": [0.45, 0.55]}


@pytest.mark.parametrize(
    ("keys", "end"),
    [
        ({}, "guessing gives 50 %. This is chance level: the network has not learned."),
        ({"test/acc": 0.3, "test/acc_ci": [0.25, 0.35]}, "This is below chance level: the network has not learned."),
        ({"same": 100, "different": 110}, "gives 52.4 %. This is chance level: the network has not learned."),
        ({"test/auc_ci": [0.9, 0.96]}, "this is chance level, but the scores separate the pairs (AUC 0.930)."),
        ({"run": "/a", "trained_on": "lfw"}, "chance level: what was learned does not help on these images."),
        (
            {"test/acc": 0.746, "test/acc_ci": [0.483, 0.902], "test/auc_ci": [0.45, 0.95]},
            "This is not clearly above chance level: there are too few pairs or people to tell.",
        ),
        ({"run": ["/a", "/b"]}, "This is chance level: the networks have not learned."),
        ({"same": 0}, "correctly (95 % confidence interval 46.0 – 56.0 %)."),
    ],
)  # fmt: skip
def test_result_at_chance(keys, end):
    assert text(**(CHANCE | keys)).endswith(end)


def test_one_shot():
    trials = {
        f"oneshot/{ways}/{key}": value for ways in (2, 20) for key, value in (("acc", 0.34), ("acc_ci", [0.31, 0.37]))
    }
    keys = UNTESTED | {"protocol": "oneshot", "run": "/a", "trained_on": "synthetic", "n_test_people": 160}
    assert text(**keys, **trials) == (
        "On 160 test people of synthetic faces (20-way one-shot), the network finds the right one of 20 people in 34.0 "
        "% of the trials (95 % confidence interval 31.0 – 37.0 %); guessing gives 5 %."
    )
    trials["oneshot/20/acc_ci"] = [0.04, 0.07]
    assert "This is chance level" in text(**keys, **trials)


def test_validation_pairs_are_summarised_without_test_pairs():
    keys = UNTESTED | {"same": 50, "different": 50, "split": "val", "val/acc": 0.8, "n_val": 100, "n_test": 0}
    assert text(**keys) == (
        "On 100 validation pairs of synthetic faces (View 1, restricted), the network decides 80.0 % correctly (95 % "
        "confidence interval 71.1 – 86.7 %); guessing gives 50 %. There are no test pairs. The weights were chosen "
        "on these pairs, so the result is optimistic."
    )


@pytest.mark.parametrize("status", ["running", "interrupted", "failed"])
def test_unfinished_run(status):
    keys = UNTESTED | {"status": status}
    assert text(**keys, epochs=[0.6, 0.8, 0.7]) == (
        "This run on synthetic faces (View 1, restricted) has trained 3 of at most 20 epochs and has not been tested. "
        "The highest validation accuracy so far is 80.0 % (epoch 2)."
    )
    assert text(**keys, epochs=[float("nan")]).endswith("trained 1 of at most 20 epochs and has not been tested.")
    assert text(**keys) == "This run on synthetic faces (View 1, restricted) has no result yet."
    assert text(**keys, run="/a").startswith("This evaluation on synthetic faces")


def test_nothing_recorded():
    assert summary(Run(Path())) == ""
    assert text(**UNTESTED, dataset=None, protocol=None, setting=None) == "This run has no result yet."
