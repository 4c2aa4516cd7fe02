"""People and their photos: reproducible, different from photo to photo, and hard to recognise by raw pixels."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
from PIL import Image

from siamese.data.synthetic import faces, hair
from siamese.data.synthetic.faces import render
from siamese.data.synthetic.traits import Person, sample_person, sample_shot


def grey(person: Person, key: list[int], size: int = 105) -> np.ndarray:
    return np.asarray(
        render(person, np.random.default_rng(key), size=100).convert("L").resize((size, size)), np.float32
    )


def test_photos_of_one_person_differ_and_are_reproducible():
    person = sample_person(np.random.default_rng(1))
    assert person == sample_person(np.random.default_rng(1))
    assert person != sample_person(np.random.default_rng(2))
    first, again, second = grey(person, [1]), grey(person, [1]), grey(person, [2])
    assert (first == again).all()
    assert np.abs(first - second).mean() > 10
    assert render(person, np.random.default_rng(1), size=96).size == (96, 96)


def test_every_hair_style_and_prop_can_be_drawn():
    person = sample_person(np.random.default_rng(5))
    drawn = set()
    for style, beard in product(hair.CUTS, ("none", "full")):
        photo = render(replace(person, hair=style, beard=beard, glasses="round"), np.random.default_rng(0))
        drawn.add(photo.tobytes())
    assert len(drawn) == 2 * len(hair.CUTS)
    shot = sample_shot(person, np.random.default_rng(0))
    for draw in faces.PROP_DRAWERS.values():
        blank = Image.new("RGB", (500, 500))
        draw(faces.Canvas(shot, 250, blank), person, shot)
        assert np.asarray(blank).any()


def test_pixel_distances_hardly_distinguish_people():
    people = [sample_person(np.random.default_rng([9, k])) for k in range(100)]
    photos = np.stack([[grey(person, [9, k, j], 40) for j in (1, 2)] for k, person in enumerate(people)])
    same = photos[:, 0] - photos[:, 1]
    different = photos[:, 0] - np.roll(photos[:, 1], 1, axis=0)
    for power in (1, 2):
        a, b = ((np.abs(d) ** power).mean(axis=(1, 2)) for d in (same, different))
        best = max(((a <= t).mean() + (b > t).mean()) / 2 for t in np.concatenate([a, b]))
        assert best < 0.7
