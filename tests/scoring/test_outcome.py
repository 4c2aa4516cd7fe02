from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamese.data.dataset import PairSet
from siamese.data.lists import Pair
from siamese.evaluation.calibration import Calibration
from siamese.evaluation.decision import Decision
from siamese.runs.folder import RunFolder
from siamese.scoring.outcome import record_predictions


@pytest.mark.parametrize(
    ("same", "different", "n", "message"),
    [
        (0.0, 0.0, 99, "50.0 % is chance level: the network has not learned to tell these pairs apart"),
        (0.0, 0.0, 30, "50.0 % is not clearly above chance level: there are too few pairs or people to tell"),
        (2.0, 1.0, 99, "50.0 % is chance level: the scores separate the pairs, but not at this threshold"),
        (-2.0, 2.0, 30, "0.0 % is below chance level: the network has not learned to tell these pairs apart"),
        (2.0, -2.0, 30, None),
    ],
)
def test_an_accuracy_at_chance_is_called_that(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, same: float, different: float, n: int, message: str | None
) -> None:
    pairs = [Pair(f"{k}/a", f"{k if label else -k}/b", label) for k, label in enumerate([1] * n + [0] * n)]
    row = {image: k for k, image in enumerate(image for pair in pairs for image in pair[:2])}
    data: Any = SimpleNamespace(val=PairSet.of([], {}), test=PairSet.of(pairs, row))
    scores = {"val": np.zeros(0, np.float32), "test": np.float32([same] * n + [different] * n)}
    with caplog.at_level(logging.WARNING):
        record_predictions(scores, data, Decision(Calibration(), 0.5), 0.5, RunFolder(tmp_path))
    assert caplog.messages == ([] if message is None else [f"test accuracy {message}"])


@pytest.mark.parametrize(
    ("rule", "warned"), [("far:0.01", True), ("far:0", True), ("far:0.034", False), ("eer", False)]
)
def test_a_rate_that_the_validation_pairs_cannot_measure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rule: str, warned: bool
) -> None:
    pairs = [Pair(f"{k}/a", f"{k if label else -k}/b", label) for k, label in enumerate([1] * 30 + [0] * 30)]
    row = {image: k for k, image in enumerate(image for pair in pairs for image in pair[:2])}
    data: Any = SimpleNamespace(val=PairSet.of(pairs, row), test=PairSet.of(pairs, row))
    scores = np.float32([2.0] * 30 + [-2.0] * 30)
    record_predictions({"val": scores, "test": scores}, data, Decision(Calibration(), 0.5), rule, RunFolder(tmp_path))
    message = (
        f"threshold={rule}: the validation pairs show 30 pairs of different people, too few to measure so low a rate"
    )
    assert any(line.startswith(message) for line in caplog.messages) == warned
