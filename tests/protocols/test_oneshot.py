"""N-way one-shot identification of one run and of an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from configs import eval_config
from conftest import TINY, read_rows, without_times
from strokes import write_alphabets

from siamese.errors import DataError
from siamese.protocols import oneshot
from siamese.protocols.evaluate import evaluate
from siamese.protocols.oneshot import pixel_scores
from siamese.runs.folder import RunFolder

PROTOCOL = {"name": "oneshot", "ways": [2, 5], "trials": 60}


def evaluation(runs: list[Path], folder: Path, data: dict[str, Any] | None = None, **protocol: Any) -> dict[str, Any]:
    config = eval_config(run=[str(path) for path in runs], data=data, protocol={**PROTOCOL, **protocol})
    return evaluate(config, RunFolder(folder)).as_dict()


@pytest.mark.integration
def test_one_shot_of_one_run_and_of_two(
    embedding_run: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    runs = [embedding_run(seed)[0] for seed in (0, 1)]
    one = evaluation(runs[:1], tmp_path / "eval")
    again = evaluation(runs[:1], tmp_path / "again")
    two = evaluation(runs, tmp_path / "both")
    assert without_times(one) == without_times(again)
    assert one["oneshot/2/pixels"] == two["oneshot/2/pixels"]
    table = read_rows(tmp_path / "eval/oneshot.csv")
    assert [(row["ways"], row["trials"], float(row["chance"])) for row in table] == [("2", "60", 0.5), ("5", "60", 0.2)]
    for row in table:
        key = f"oneshot/{row['ways']}"
        assert float(row["low"]) <= one[f"{key}/acc"] == float(row["acc"]) <= float(row["high"])
    few = evaluation(runs[:1], tmp_path / "few", trials=TINY.test_people)
    assert (one["oneshot/ci_over"], few["oneshot/ci_over"]) == ("people", "trials")
    assert (one["protocol"], one["n_test_people"]) == ("oneshot", TINY.test_people)
    assert "5-way" in (tmp_path / "eval/report.html").read_text()
    with pytest.raises(DataError, match=r"ways=50.*; give other protocol\.ways"):
        evaluation(runs[:1], tmp_path / "many", ways=[50])


@pytest.mark.integration
def test_trials_within_an_alphabet(
    embedding_run: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = embedding_run(0)[0]
    write_alphabets(tmp_path / "letters", alphabets=2, characters=5, drawings=2)
    data = {"name": "folder", "root": str(tmp_path / "letters")}
    only = evaluation([run], tmp_path / "only", data, ways=[5], within="_")
    write_alphabets(tmp_path / "letters", alphabets=1, characters=3, drawings=2, seed=1)
    within = evaluation([run], tmp_path / "within", data, ways=[5], within="_")
    assert "protocol.within=_: 3 people left out, in groups of fewer than 5" in caplog.messages
    assert (within["n_test_people"], within["n_test_images"]) == (10, 20)
    assert without_times(within) == without_times(only), "the smaller alphabet is in no trial"
    anywhere = evaluation([run], tmp_path / "anywhere", data, ways=[10])
    assert (within["oneshot/within"], within["oneshot/ci_over"]) == ("_", "people")
    assert "oneshot/within" not in anywhere
    page = (tmp_path / "within/report.html").read_text()
    assert "whose names agree before the last “_”" in page
    assert " within “_”), the network" in page
    with monkeypatch.context() as patch:  # before the images are embedded, and the figures of fewer ways are lost
        patch.setattr(oneshot, "load_member", lambda *_: pytest.fail("too late"))
        with pytest.raises(
            DataError, match=r"ways=6: the largest group has 5 people; give .* or another protocol\.within"
        ):
            evaluation([run], tmp_path / "many", data, ways=[5, 6], within="_")
    next((tmp_path / "letters").glob("*/*.png")).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"ways=5: the largest group has 1 person"):
        evaluation([run], tmp_path / "none", data, ways=[5], within="@")
    assert len(read_rows(tmp_path / "none/excluded.csv")) == 1


def test_the_distance_of_pixels() -> None:
    pixels = torch.tensor([[0, 0], [3, 4], [0, 255]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    scores = pixel_scores(pixels, torch.tensor([[0, 0], [0, 1], [2, 0]]))
    np.testing.assert_allclose(scores, [0, -5, -255])
