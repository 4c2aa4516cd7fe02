"""Numbers with their nouns, and JSON for the terminal."""

from __future__ import annotations

import io
import json
import os

import pytest

from siamese.text import count, to_json


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
