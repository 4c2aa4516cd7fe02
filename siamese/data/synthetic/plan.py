"""The people and pairs of the synthetic data set: everything but the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from siamese.errors import ConfigError

FOLDS = 10

LISTS_STREAM = 2**31
"""Key of the random stream (seed, LISTS_STREAM) of names, numbers of photos and pairs."""

_PHOTO_COUNTS, _PHOTO_SHARES = (2, 3, 4, 5, 6), (0.35, 0.3, 0.2, 0.1, 0.05)

_FIRST_NAMES = (
    "Ada Alma Anton Arno Aylin Bela Bruno Carla Cem Chloe Dario Demi Edda Eino Elif Emil Enzo Esra Fabio Femi "
    "Finn Flora Gita Goran Greta Hana Hugo Ida Igor Ines Ivo Jana Joao Jonas Jun Kaia Kenji Kofi Lara Leon Lina "
    "Luca Maja Malik Mara Mateo Mila Nadia Nils Noor Olga Omar Otto Paula Pia Quinn Rafa Rhea Rosa Samir Selma "
    "Sven Tara Teo Thea Umar Vera Viktor Wanda Xenia Yara Yusuf Zeno Zoe"
)
_LAST_NAMES = (
    "Abel Adler Akin Alder Baran Becker Bello Berg Bianco Blum Braga Castell Cedar Corvin Dahl Demir Dorn "
    "Duarte Eklund Ender Falk Farrow Ferro Fonte Garnet Glade Haas Hale Halden Ibsen Ilves Jansa Juno Kaplan "
    "Keller Kimura Kline Lago Lenz Lindgren Lopes Maro Meridian Mori Nagel Nakata Norden Okoro Olsen Orel "
    "Palmer Pavic Quist Rask Reyes Rowan Sabo Santoro Sato Stark Tamm Tanaka Teller Toivo Ueda Ulrich Varga "
    "Vidal Wahl Weber Yilmaz Young Zeman Zhou"
)
_FIRST, _LAST = _FIRST_NAMES.split(), _LAST_NAMES.split()

SamePair: TypeAlias = tuple[str, int, int]
DifferentPair: TypeAlias = tuple[str, int, str, int]
People: TypeAlias = dict[str, int]  # name -> number of photos, which are numbered from 1


@dataclass(frozen=True)
class SyntheticSpec:
    """What determines the content of the data set.

    Numbers of pairs include same and different pairs, half of each; ``view2_pairs`` is the sum over the ten folds.

    Raises:
        ConfigError: a number is invalid; the message names the key.
    """

    train_people: int = 240
    test_people: int = 160
    train_pairs: int = 800
    test_pairs: int = 400
    view2_pairs: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        for key, step in (("train_pairs", 2), ("test_pairs", 2), ("view2_pairs", 2 * FOLDS)):
            value = getattr(self, key)
            if value < step or value % step:
                raise ConfigError(f"{key}={value}: must be a positive multiple of {step}")
        for key in ("train_people", "test_people"):
            if getattr(self, key) < 2:
                raise ConfigError(f"{key}={getattr(self, key)}: must be at least 2")
        people, most = self.train_people + self.test_people, len(_FIRST) * len(_LAST)
        if not 2 * FOLDS <= people <= most:
            raise ConfigError(
                f"train_people + test_people = {people}: must be from {2 * FOLDS} (two in each fold) to {most}"
            )
        if self.seed < 0:
            raise ConfigError(f"seed={self.seed}: must be at least 0")


@dataclass(frozen=True)
class Plan:
    """The people, subsets and pairs of the data set."""

    people: People  # in the order of their random streams
    train: People
    test: People
    folds: list[People]
    train_pairs: tuple[list[SamePair], list[DifferentPair]]
    test_pairs: tuple[list[SamePair], list[DifferentPair]]
    fold_pairs: list[tuple[list[SamePair], list[DifferentPair]]]


def _has_room(counts: Iterable[int], pairs: int) -> bool:
    """Whether people with these numbers of photos give `pairs` same pairs and, without long search, different pairs."""
    n = np.array(list(counts))
    return bool((n * (n - 1) // 2).sum() >= pairs and (n.sum() ** 2 - (n**2).sum()) // 2 >= 2 * pairs)


def _same_pairs(people: People, number: int, rng: np.random.Generator) -> list[SamePair]:
    """Draw same pairs, spread over the people and, for each person, over the photos used least so far."""
    pools = {name: list(combinations(range(1, count + 1), 2)) for name, count in people.items()}
    used: Counter[tuple[str, int]] = Counter()
    pairs: list[SamePair] = []
    while len(pairs) < number:
        for k in rng.permutation(len(people)):
            name = list(people)[k]
            if pools[name] and len(pairs) < number:
                i, j = min(pools[name], key=lambda pair: used[name, pair[0]] + used[name, pair[1]])
                pools[name].remove((i, j))
                used.update([(name, i), (name, j)])
                pairs.append((name, i, j))
    return sorted(pairs)


def _different_pairs(people: People, number: int, rng: np.random.Generator) -> list[DifferentPair]:
    """Draw different pairs from shuffled decks of all photos, so that all photos are used about equally often."""
    photos = [(name, k) for name, count in people.items() for k in range(1, count + 1)]
    found: set[DifferentPair] = set()
    while len(found) < number:
        deck = [photos[k] for k in rng.permutation(len(photos))]
        for first, second in zip(deck[::2], deck[1::2], strict=False):
            a, b = sorted([first, second])
            if a[0] != b[0] and len(found) < number:
                found.add((*a, *b))
    return sorted(found)


def make_plan(spec: SyntheticSpec) -> Plan:
    """Draw names, numbers of photos, subsets and pairs for a specification."""
    rng = np.random.default_rng([spec.seed, LISTS_STREAM])
    total = spec.train_people + spec.test_people
    picks = rng.choice(len(_FIRST) * len(_LAST), size=total, replace=False)
    names = [f"{_FIRST[k % len(_FIRST)]}_{_LAST[k // len(_FIRST)]}" for k in picks]
    counts = rng.choice(_PHOTO_COUNTS, size=total, p=_PHOTO_SHARES)
    fold_of = rng.permutation(np.arange(total) % FOLDS)
    is_train = np.arange(total) < spec.train_people
    groups = [(is_train, spec.train_pairs // 2), (~is_train, spec.test_pairs // 2)]
    groups += [(fold_of == fold, spec.view2_pairs // 2 // FOLDS) for fold in range(FOLDS)]
    for members, pairs in groups:
        while not _has_room(counts[members], pairs):
            counts[np.flatnonzero(members)[counts[members].argmin()]] += 1
    subsets: list[People] = []
    drawn = []
    for members, pairs in groups:
        subset = {names[k]: int(counts[k]) for k in np.flatnonzero(members)}
        subsets.append(dict(sorted(subset.items())))
        drawn.append((_same_pairs(subsets[-1], pairs, rng), _different_pairs(subsets[-1], pairs, rng)))
    people = dict(zip(names, counts.tolist(), strict=True))
    return Plan(people, subsets[0], subsets[1], subsets[2:], drawn[0], drawn[1], drawn[2:])
