"""The benchmarks compare implementations of the same thing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from networks import KOCH, make_network

from benchmarks.common import table
from benchmarks.reference import PlainNetwork
from benchmarks.worker import covered


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_plain_network_is_ours() -> None:
    torch.manual_seed(0)
    ours, plain = make_network({**KOCH, "batchnorm": True}, 1, 105, dft=True), PlainNetwork()
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    a, b = torch.rand(2, 3, 1, 105, 105)
    with torch.no_grad():
        torch.testing.assert_close(torch.sigmoid(ours(a, b)), plain(a, b), rtol=0, atol=1e-5)


def test_table() -> None:
    assert table(["a", "b"], [["x", 1.23456], ["y", 1234.5]]).splitlines()[2:] == ["| x | 1.23 |", "| y | 1234.5 |"]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10))))
def test_time_in_which_a_kernel_runs(kernels: list[tuple[int, int]]) -> None:
    spans = sorted((start, start + length) for start, length in kernels)
    assert covered(spans) == len({tick for start, end in spans for tick in range(start, end)})


@pytest.mark.integration
def test_help_names_every_benchmark() -> None:
    done = benchmark("--help")
    assert done.returncode == 0
    assert all(
        name in done.stdout
        for name in ("train", "losses", "profile", "data", "eval", "latency", "startup", "sweep", "pages")
    )


@pytest.mark.slow
def test_float32_losses_are_those_of_a_plain_loop(lfw_root: Path, tmp_path: Path) -> None:
    """Twenty steps on real faces differ from the plain loop as little as that loop with another memory layout.

    Rounding separates float32 runs; `test_dft_conv` shows that they are equal in float64.
    """
    file = tmp_path / "losses.json"
    done = benchmark(
        "losses", "--data", "lfw_a", "--root", str(lfw_root), "--batch", "16", "--precision", "32",
        "--optimizer", "sgd", "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert figures["arithmetic"] == "32 dft"
    assert len(figures["ours"]) == 20
    assert figures["ours"][0] == pytest.approx(figures["plain"][0], abs=1e-5)
    assert figures["largest_difference"]["ours"] < 4 * figures["largest_difference"]["plain_channels_last"]


@pytest.mark.slow
def test_report_of_a_recorded_sweep_draws_a_changed_job_only(tmp_path: Path) -> None:
    file = tmp_path / "pages.json"
    done = benchmark("pages", "--jobs", "3", "--pairs", "60", "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = {row[0]: row[-1] for row in json.loads(file.read_text())["rows"]}
    found = [rows[f"siamese report, {what}"] for what in ("no run page exists", "nothing changed", "one job changed")]
    assert found == ["3 drawn", "0 drawn", "1 drawn"]
