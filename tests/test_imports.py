"""What importing a part of the package loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.integration

TRAINING = ["lightning", "tensorboard", "hydra", "omegaconf", "siamese.training", "siamese.command"]
PAGES = ["matplotlib", "jinja2", "siamese.report"]
NETWORKS = ["torch", "siamese.models", "siamese.scoring"]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import siamese", ["torch", "numpy", "pydantic", *TRAINING, *PAGES]),
        (
            "from siamese import Verifier",
            [*TRAINING, *PAGES, "captum", "scipy", "pytorch_metric_learning", "torchmetrics", "torchvision"],
        ),
        ("import siamese.evaluation.compare, siamese.evaluation.summary", [*NETWORKS, *TRAINING, *PAGES]),
        ("import siamese.report.run_page, siamese.report.sweep_page", [*NETWORKS, *TRAINING, "matplotlib.pyplot"]),
        ("import siamese.config.load", [*NETWORKS, *PAGES, "lightning", "tensorboard"]),
        ("import siamese.training.train", ["hydra", "omegaconf", "captum"]),
    ],
)
def test_an_import_does_not_load(statement: str, absent: list[str]) -> None:
    code = f"import sys; {statement}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
