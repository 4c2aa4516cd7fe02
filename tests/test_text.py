"""Numbers with their nouns, and JSON for the terminal."""

from __future__ import annotations

import io
import json
import os

import pytest

from siamese.text import count, duration, to_json


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        ("1 photo", (1, "photo")),
        ("0 photos", (0, "photo")),
        ("1,000 photos", (1000, "photo")),
        ("1 person has", (1, "person has", "people have")),
        ("2 people have", (2, "person has", "people have")),
    ],
)
def test_count(shown: str, words: tuple[int, str]) -> None:
    assert count(*words) == shown


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_for_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["李娜", "Zoë", "😀", os.fsdecode(b"caf\xe9")]
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    print(to_json(names))
    terminal.flush()
    shown = terminal.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert json.loads(shown) == names
    assert ("李娜" in shown) == (encoding == "utf-8")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (37.75, "37.8 s"), (59.97, "1 min 0 s"), (3599.4, "59 min 59 s"), (7381, "2 h 3 min")],
)
def test_duration(seconds, shown):
    assert duration(seconds) == shown
