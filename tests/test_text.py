"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from siamese.text import count


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
