"""The command line of ``siamese``: which arguments it takes, and in which order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from siamese.command.main import parse


@pytest.mark.parametrize("place", range(4))
def test_options_may_stand_between_the_other_arguments(place: int) -> None:
    def placed(words: list[str], option: list[str]) -> list[str]:
        return [*words[:place], *option, *words[place:]]

    verify = parse(["verify", *placed(["RUN", "A", "B"], ["--explain", "F"])])
    assert (verify.run, verify.photo, verify.explain) == (Path("RUN"), [Path("A"), Path("B")], Path("F"))
    search = parse(["search", *placed(["quick", "out", "seed=1", "batch_size=8"], ["--trials", "3"])])
    assert (search.folder, search.override, search.trials) == (Path("out"), ["seed=1", "batch_size=8"], 3)
    data = parse(["data", *placed(["PATH", "split_seed=1", "crop=8"], ["--json"])])
    assert (data.path, data.option, data.json) == (Path("PATH"), ["split_seed=1", "crop=8"], True)


def test_arguments_that_may_be_left_out() -> None:
    assert parse(["verify", "--pairs", "F", "RUN"]).photo == []
    assert parse(["search", "quick", "out"]).override == []
    assert parse(["verify", "RUN", "--", "-a.jpg", "b.jpg"]).photo == [Path("-a.jpg"), Path("b.jpg")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "siamese: error: the following arguments are required: command"),
        (["verfy"], "invalid choice: 'verfy'"),
        (["verify"], "siamese verify: error: the following arguments are required: run\n"),
        (["search", "quick"], "siamese search: error: the following arguments are required: folder\n"),
        (["verify", "RUN", "A", "B", "--explian", "F"], "unrecognized arguments: --explian"),
        (["verify", "RUN", "--explain"], "argument --explain: expected one argument"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("words", "shown"), [(["--help"], "identify"), (["verify", "--help"], "--explain FILE")])
def test_help(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(words)
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["cache", "."], ""),
        (["report", ".", "--all"], "; to draw the remaining pages, run the command again without --all"),
        (["search", "quick", "out"], "; run the same command again to resume"),
    ],
)
def test_a_signal_ends_a_subcommand_with_one_line(signum: signal.Signals, words: list[str], hint: str) -> None:
    code = (
        "import os, sys\nfrom siamese.command import main\n"
        f"main._call = lambda _: os.kill(os.getpid(), {int(signum)})\n"
        f"sys.argv = ['siamese', *{words}]\nmain.run()"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + signum, f"error: interrupted by {signum.name}{hint}\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["train.py"], ["eval.py"], ["-m", "siamese", "train"]])
def test_a_signal_during_imports_ends_a_command_with_one_line(
    command: list[str], signum: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "hydra.py").write_text(f"import os\nos.kill(os.getpid(), {int(signum)})\n")
    ended = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (128 + signum, f"error: interrupted by {signum.name}\n")
