"""Handwritten characters of invented alphabets, as a stand-in for Omniglot: folders ``ALPHABET_CHARACTER`` of drawings.

    python tests/strokes.py FOLDER --alphabets 20 --characters 20 --drawings 12

An alphabet has a few strokes of its own, from which all of its characters are composed: characters of one alphabet are
harder to tell apart than those of two. Each drawing moves the points of the strokes, and turns, shears and scales it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 105
Stroke = NDArray[np.float64]
"""Control points of a Bezier curve, [4, 2], in units of the image side."""


def write_alphabets(root: Path, alphabets: int, characters: int, drawings: int, seed: int = 0) -> None:
    """Write ``root/alphabetSEED-A_characterC/D.png``, black on white."""
    for a in range(alphabets):
        rng = np.random.default_rng([seed, a])
        strokes = np.cumsum(rng.normal(0, 0.16, (6, 4, 2)), axis=1)
        strokes -= strokes.mean(1, keepdims=True)
        for c in range(characters):
            chosen = rng.choice(6, rng.integers(2, 5), replace=False)
            places = rng.uniform(-0.22, 0.22, (len(chosen), 1, 2))
            folder = root / f"alphabet{seed}-{a:02d}_character{c:02d}"
            folder.mkdir(parents=True, exist_ok=True)
            for d in range(drawings):
                _draw(strokes[chosen] + places, rng).save(folder / f"{d:02d}.png")


def _draw(strokes: Stroke, rng: np.random.Generator) -> Image.Image:
    """Draw the strokes [S, 4, 2] as one person would, another time."""
    turn, shear = rng.normal(0, 0.12), rng.normal(0, 0.15)
    stretch = np.exp(rng.normal(0, 0.1, 2))
    change = np.array([[np.cos(turn), -np.sin(turn) + shear], [np.sin(turn), np.cos(turn)]]) * stretch
    points = strokes + rng.normal(0, 0.03, strokes.shape) + rng.normal(0, 0.04, (len(strokes), 1, 2))
    points = points @ change.T + 0.5 + rng.normal(0, 0.02, 2)
    t = np.linspace(0, 1, 24)[:, None]
    curves = [(1 - t) ** 3 * p + 3 * t * (1 - t) ** 2 * q + 3 * t**2 * (1 - t) * r + t**3 * s for p, q, r, s in points]
    image = Image.new("L", (2 * SIDE, 2 * SIDE), 255)
    for curve in curves:
        ImageDraw.Draw(image).line([tuple(xy) for xy in 2 * SIDE * curve], fill=0, width=5, joint="curve")
    return image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("1").convert("L")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alphabets", type=int, default=20)
    parser.add_argument("--characters", type=int, default=20)
    parser.add_argument("--drawings", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_alphabets(given.folder, given.alphabets, given.characters, given.drawings, given.seed)
