"""The command line of ``siamese``: which arguments it takes, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

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
