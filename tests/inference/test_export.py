"""Exported runs, as ONNX and in the format of torch.export: the same results, for any number of photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

from siamese import Verifier
from siamese.command.main import main
from siamese.config.schema import TrainConfig
from siamese.inference import export
from siamese.runs.folder import RunFolder
from siamese.training.train import train

pytestmark = pytest.mark.integration

Make = Callable[..., TrainConfig]

RUNS: dict[str, dict[str, Any]] = {
    "koch": {"convolution": "dft"},
    "multicrop": {
        "model": {"name": "multicrop", "widths": [4], "blocks": [1], "embedding_dim": 8, "crops": [1.0, 0.6],
                  "crop_size": 24, "stem": "pool"},
        "objective": {"name": "ntxent"}, "augmentation": {"flip": True}, "backend": {"name": "plda", "cohort": 5},
        "flip_average": True, "crop_average": 0.9, "threshold": "accuracy",
    },
    "lbp": {
        "model": {"name": "lbp", "scales": [1.0, 0.6], "radii": [1, 2], "cell": 10, "embedding_dim": 8},
        "objective": {"name": "ntxent"}, "backend": {"name": "plda"}, "flip_average": True,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "run"),
    [
        ("onnx", "koch"),
        *(pytest.param("onnx", run, marks=pytest.mark.slow) for run in ("multicrop", "lbp")),
        ("pt2", "koch"),
    ],
)
def test_an_exported_run_gives_the_results_of_the_run(kind: str, run: str, tiny_config: Make, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="an extra")
        pytest.importorskip("onnxscript", reason="an extra")
    config = tiny_config(max_epochs=1, **RUNS[run])
    train(config, RunFolder(tmp_path / "run"))
    code = main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", kind])
    if code == 2 and kind == "pt2" and Version(torch.__version__) < Version("2.14"):
        pytest.skip(f"torch {torch.__version__} cannot save such a network, and says so")
    assert code == 0
    encoder, scorer = (export.load_graph(tmp_path / f"out/{name}.{kind}") for name in ("encoder", "scorer"))
    verifier = Verifier.load(tmp_path / "run")
    photos = sorted(Path(config.data.root).rglob("*.jpg"))[:5]
    pixels = np.stack([verifier.read(photo) for photo in photos])
    (embeddings,) = encoder(pixels)
    np.testing.assert_allclose(embeddings, verifier.embed(photos), atol=1e-4 * max(1.0, np.abs(embeddings).max()))
    for pairs in ([(0, 1), (2, 3), (3, 4)], [(1, 4)]):
        first, second = (embeddings[list(side)] for side in zip(*pairs, strict=True))
        score, probability = scorer(first, second)
        answers = verifier.compare(embeddings, pairs)
        np.testing.assert_allclose(probability, [answer.probability for answer in answers], atol=1e-4)
        np.testing.assert_allclose(score, [answer.score for answer in answers], rtol=1e-3, atol=1e-3)
    facts = json.loads((tmp_path / "out/preprocessing.json").read_text())
    assert (facts["image_size"], facts["threshold"]) == (config.data.image_size, verifier.decision.threshold)
    assert facts["embedding_dim"] == embeddings.shape[1]


def test_a_graph_that_differs_is_an_error(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(max_epochs=1), RunFolder(tmp_path / "run"))
    monkeypatch.setattr(export, "difference_from_pytorch", lambda *_: 0.5)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "pt2"]) == 1
    assert "encoder.pt2: differs from PyTorch by 5.0e-01, more than rounding can cause" in capsys.readouterr().err
    assert not (tmp_path / "out/encoder.pt2").exists()  # nobody should use it
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "exe"]) == 2
    assert "--format exe: give one of onnx, pt2" in capsys.readouterr().err
