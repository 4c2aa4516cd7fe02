"""Draw hair, and objects that hide part of a face in one photo: hats, sunglasses, scarves, microphones, passers-by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from siamese.data.synthetic.parts import CROWN, Canvas, Floats, face_outline, mix, moved, oval, smooth, surface, tint

if TYPE_CHECKING:
    from siamese.data.synthetic.traits import Person, Shot

STRANDS = 40
COLUMNS = 40  # steps of the grid of the hair from ear to ear


@dataclass(frozen=True)
class Cut:
    """A hair style. Lengths are in head units, x of `line` in half widths of the person's face."""

    line: tuple[tuple[float, float], ...]  # hairline from the left ear to the middle or the right ear
    top: float = 0.15  # distance from the skull at the crown
    side: float = 0.08  # distance from the skull at the temples
    ear: float = -0.05  # y of its end at the sides
    comb: float = 0.1  # how far strands lean between hairline and outside, as a fraction of the way from ear to ear
    curl: float = 0.0  # radius of the curls; 0 is straight
    behind: tuple[float, float] | None = None  # hair behind the face: how much wider than the face, y of its end
    wave: float = 0.0  # amplitude of waves in the hair behind
    knots: tuple[tuple[float, float, float], ...] = ()  # buns and bunches: x, y, radius
    jagged: float = 0.0  # amplitude of the teeth of a fringe
    density: float = 1.0  # below 1 the skin is visible


_CROP = ((-0.98, -0.08), (-0.9, -0.42), (-0.72, -0.74), (-0.3, -0.85), (0.0, -0.83))
CUTS: dict[str, Cut] = {
    "bald": Cut(line=()),
    "buzz": Cut(line=_CROP, top=0.03, side=0.015, ear=-0.1, density=0.55),
    "crop": Cut(line=_CROP, top=0.2, side=0.07, comb=0.12),
    "quiff": Cut(
        line=((-0.98, -0.1), (-0.92, -0.5), (-0.7, -0.86), (0.0, -0.98)), top=0.52, side=0.03, comb=0.2
    ),
    "parted": Cut(
        line=(
            (-0.98, 0.0), (-0.92, -0.4), (-0.72, -0.72), (-0.5, -1.02), (-0.2, -0.78), (0.35, -0.62),
            (0.78, -0.5), (0.94, -0.3), (0.98, 0.0),
        ),
        top=0.27, side=0.1, ear=0.0, comb=0.35,
    ),
    "receding": Cut(
        line=((-1.0, 0.08), (-0.96, -0.3), (-0.88, -0.66), (-0.62, -1.02), (0.0, -1.2)),
        top=0.03, side=0.13, ear=0.1, comb=0.05,
    ),
    "fringe": Cut(
        line=((-0.99, 0.1), (-0.95, -0.22), (-0.8, -0.4), (-0.3, -0.44), (0.0, -0.43)),
        top=0.24, side=0.15, ear=0.12, comb=0.06, jagged=0.035,
    ),
    "bob": Cut(
        line=((-0.9, 0.98), (-0.86, 0.4), (-0.86, -0.2), (-0.76, -0.44), (-0.3, -0.5), (0.0, -0.49)),
        top=0.22, side=0.27, ear=1.0, comb=0.05, behind=(0.24, 0.98), jagged=0.02,
    ),
    "long": Cut(
        line=((-1.0, 1.95), (-0.93, 1.2), (-0.88, 0.5), (-0.84, -0.1), (-0.6, -0.62), (-0.2, -0.92), (0.0, -1.06)),
        top=0.17, side=0.17, ear=1.95, comb=0.04, behind=(0.26, 2.15),
    ),
    "wavy": Cut(
        line=(
            (-1.05, 1.7), (-0.97, 1.2), (-0.9, 0.3), (-0.86, -0.3), (-0.6, -0.8), (-0.42, -1.05),
            (0.1, -0.72), (0.66, -0.42), (0.86, 0.0), (0.92, 0.5), (0.97, 1.2), (1.05, 1.7),
        ),
        top=0.3, side=0.3, ear=1.7, comb=0.1, behind=(0.48, 1.95), wave=0.1,
    ),
    "curls": Cut(line=_CROP, top=0.28, side=0.16, ear=0.0, curl=0.15),
    "afro": Cut(
        line=((-0.98, 0.2), (-0.9, -0.35), (-0.7, -0.68), (0.0, -0.78)),
        top=0.6, side=0.55, ear=0.3, curl=0.19, behind=(0.5, 0.55),
    ),
    "bun": Cut(
        line=((-0.98, -0.06), (-0.9, -0.45), (-0.68, -0.78), (0.0, -0.92)),
        top=0.1, side=0.035, comb=-0.25, knots=((0.0, CROWN - 0.34, 0.36),),
    ),
    "bunches": Cut(
        line=((-0.99, 0.0), (-0.92, -0.36), (-0.66, -0.7), (-0.2, -0.9), (0.0, -1.0)),
        top=0.14, side=0.07, ear=0.0, comb=0.05,
        knots=((-1.36, 0.42, 0.3), (1.36, 0.42, 0.3)),
    ),
}  # fmt: skip


def _resample(curve: Floats, n: int) -> Floats:
    """Return `n` points at equal distances along a curve."""
    steps = np.hypot(*np.diff(curve, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0, way[-1], n)
    return np.stack([np.interp(at, way, curve[:, 0]), np.interp(at, way, curve[:, 1])], axis=1)


def _edges(person: Person, cut: Cut) -> tuple[Floats, Floats]:
    """Return the hairline and the outside of the hair from the left to the right ear, (COLUMNS + 1, 2) each."""
    line = list(cut.line)
    if line[-1][0] == 0.0:
        line += [(-x, y) for x, y in reversed(line[:-1])]
    if person.parting > 0:
        line = [(-x, y) for x, y in reversed(line)]
    inner = smooth(line, 6) * [person.face_width, 1.0]
    inner[:, 1] += person.hairline * (inner[:, 1] < -0.3)
    wide, high = person.face_width + cut.side * person.volume, -CROWN + cut.top * person.volume
    angle = np.linspace(math.pi, 2 * math.pi, 41)
    arc = np.stack([wide * np.cos(angle), high * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.92], 1)
    arc[:, 1] += 0.1 * cut.top * person.parting * arc[:, 0]
    arc = arc[arc[:, 1] <= cut.ear + 1e-6]
    foot = np.array([[wide * (1.0 if cut.ear < 0.5 else 1.03), cut.ear]])
    outer = np.concatenate([foot * [-1, 1], arc, foot])
    inner, outer = _resample(inner, COLUMNS + 1), _resample(outer, COLUMNS + 1)
    if cut.jagged:
        front = inner[:, 1] < -0.25
        inner[front, 1] += cut.jagged * np.where(np.arange(COLUMNS + 1) % 2, 1.0, -1.0)[front]
    return inner, outer


def _between(inner: Floats, outer: Floats, s: Floats, t: Floats) -> tuple[Floats, Floats]:
    """Return points (n, 2) and depths (n,) of the hair: `s` in 0..1 from ear to ear, `t` from hairline to outside."""
    columns = np.arange(COLUMNS + 1)
    at = np.clip(s, 0, 1) * COLUMNS
    low = np.stack([np.interp(at, columns, inner[:, k]) for k in (0, 1)], 1)
    high = np.stack([np.interp(at, columns, outer[:, k]) for k in (0, 1)], 1)
    xy = low + (high - low) * t[:, None]
    return xy, (1 - t) * (surface(low) + 0.06) - 0.1 * t + 0.25 * t * (1 - t)


def _draw_knot(canvas: Canvas, person: Person, x: float, y: float, radius: float) -> None:
    """Draw a bun above the head, or a bunch that hangs beside it."""
    hanging = 1.9 if x else 1.0
    angle = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    # A bunch has the shape of a drop, narrow at the top.
    narrow = 0.75 + 0.25 * np.sin(angle) if x else 1.0
    shape = np.stack([radius * np.cos(angle) * narrow, hanging * radius * np.sin(angle)], 1)
    canvas.fill(moved(shape, x, y), tint(person.hair_colour, 0.86), -0.2)
    shrink = np.linspace(-0.8, 0.8, 9)[:, None]
    along = np.linspace(-0.86, 0.86, 7)[None, :]
    width = np.sqrt(1 - along**2) * ((0.75 + 0.25 * along) if x else 1.0)
    hairs = np.stack([x + radius * shrink * width, np.broadcast_to(y + hanging * radius * along, (9, 7))], 2)
    tones = [tint(person.hair_colour, tone) for tone in (0.68, 1.15, 0.9, 1.3)]
    canvas.strokes(hairs, tones, 0.03, np.full((9, 7), -0.2))
    if x:
        tie = moved(np.array([[-0.09, 0.0], [0.09, 0.0]]), x, y - hanging * radius)
        canvas.stroke(tie, person.band_colour, 0.13, -0.15)


def draw_hair_behind(canvas: Canvas, person: Person) -> None:
    """Draw the hair behind the face, buns and bunches; call it before the head is drawn."""
    cut = CUTS[person.hair]
    for x, y, radius in cut.knots:
        _draw_knot(canvas, person, x * person.face_width, y, radius * (0.64 + 0.3 * person.volume))
    if cut.behind is None:
        return
    wide, end = person.face_width + cut.behind[0] * person.volume, cut.behind[1] * person.hair_length
    turn = np.linspace(-0.5 * math.pi, 0, 8)
    top = np.stack([wide * np.cos(turn), -0.1 - (CROWN + 0.1) * np.sin(turn)], 1)
    down = np.linspace(0.0, end, 20)
    out = wide * (1 - 0.14 * (down / end) ** 2) + cut.wave * np.sin(5.5 * down)
    right = np.stack([out, down], 1)
    tail = smooth([(out[-1], end), (0.7 * wide, end + 0.1), (0.35 * wide, end - 0.02)], 4)
    half = np.concatenate([top, right, tail])
    shape = np.concatenate([half, half[::-1] * [-1, 1]])
    canvas.fill(shape, tint(person.hair_colour, 0.74), -0.35)
    inward = 1 - 0.055 * np.arange(1, 9)[:, None]
    locks = np.stack([out * inward, down + 0.2 * (1 - inward)], 2)
    both = np.concatenate([locks, locks * [-1, 1]])
    tones = [tint(person.hair_colour, tone) for tone in (0.6, 0.95, 1.15, 0.8)]
    canvas.strokes(both, tones, 0.035, np.full(both.shape[:2], -0.34))


def _draw_curls(canvas: Canvas, person: Person, cut: Cut, inner: Floats, outer: Floats) -> None:
    """Draw overlapping curls from the outside of the hair to the hairline."""
    n = 17 if cut.curl > 0.17 else 15
    rows = (1.0, 0.72, 0.42, 0.14)
    s = np.concatenate([np.linspace(0.02, 0.98, n) + (0.5 / n if k % 2 else 0) for k in range(len(rows))])
    t = np.repeat(rows, n) + 0.05 * np.sin(7.1 * np.arange(n * len(rows)))
    xy, z = _between(inner, outer, s, t)
    for k, (x, y) in enumerate(canvas.place(xy, z)):
        radius = cut.curl * canvas.unit * (0.85 + 0.3 * ((k * 0.618) % 1))
        colour = tint(person.hair_colour, 0.78 + 0.4 * ((k * 0.381) % 1))
        canvas.draw.circle((x, y), radius, fill=colour)
        box = [x - 0.6 * radius, y - 0.6 * radius, x + 0.6 * radius, y + 0.6 * radius]
        canvas.draw.arc(box, 150 + 40 * (k % 5), 330 + 40 * (k % 5), tint(colour, 1.35), 2)


def draw_hair(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the hair on the skull and around the forehead, with strands and shine."""
    if person.hair == "bald":
        canvas.shade(oval(0.3 * shot.light_x, -1.0, 0.3, 0.14), 1.25)
        return
    cut = CUTS[person.hair]
    inner, outer = _edges(person, cut)
    s = np.linspace(0, 1, COLUMNS + 1)
    colour = mix(person.skin, person.hair_colour, cut.density)
    low, low_z = _between(inner, outer, s, np.zeros_like(s))
    high, high_z = _between(inner, outer, s, np.ones_like(s))
    shape = np.concatenate([low, high[::-1]])
    canvas.shade_line(moved(low, 0.0, 0.04), 0.74, 0.1)  # shadow on the forehead
    canvas.fill(shape, colour, np.concatenate([low_z, high_z[::-1]]))
    if cut.curl:
        _draw_curls(canvas, person, cut, inner, outer)
    elif cut.density == 1.0:
        root, t = np.arange(STRANDS)[:, None] * 0.618 % 1, np.linspace(0.02, 0.97, 7)
        # Hair that is combed to one side leans in one direction; other hair falls to both sides.
        way = -person.parting if cut.comb > 0.2 else np.sign(root - 0.5)
        at = root + cut.comb * way * (t - 0.3)
        path, depth = _between(inner, outer, at.ravel(), np.tile(t, STRANDS))
        tones = [tint(colour, tone) for tone in (0.72, 1.18, 0.86, 1.32, 0.62)]
        canvas.strokes(path.reshape(STRANDS, -1, 2), tones, 0.022, depth)
    middle = 0.5 + 0.2 * shot.light_x
    gleam, _ = _between(inner, outer, np.linspace(middle - 0.18, middle + 0.18, 9), np.full(9, 0.55))
    canvas.shade_line(gleam, 1.0 + 0.3 * cut.density, 0.16)
    if person.headband:
        # The headband goes from ear to ear over the top of the hair.
        arch = _circle_arc(person.face_width + 0.9 * cut.side * person.volume, -CROWN + 0.6 * cut.top * person.volume)
        canvas.stroke(arch, person.band_colour, 0.17, 0.25)
        canvas.stroke(moved(arch, 0.0, -0.05), tint(person.band_colour, 1.2), 0.04, 0.25)


def _circle_arc(wide: float, high: float) -> Floats:
    """Return the upper arc of an ellipse from ear to ear, (20, 2)."""
    angle = np.linspace(1.06 * math.pi, 1.94 * math.pi, 20)
    return np.stack([wide * np.cos(angle), 0.88 * high * np.sin(angle)], 1)


def draw_hat(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw a woollen hat down to the brows."""
    wide = person.face_width + 0.2
    crown = [(-wide, -0.52), (-wide * 0.98, -1.0), (-wide * 0.6, -1.52), (0.0, -1.68)]
    crown += [(-x, y) for x, y in reversed(crown[:-1])]
    brim = [(wide, -0.5), (0.0, -0.6), (-wide, -0.5)]
    shape = np.concatenate([smooth(crown, 5), smooth(brim, 5)])
    canvas.fill(shape, shot.prop, 0.1)
    for k in range(-4, 5):
        rib = np.array([[0.25 * k, -0.8], [0.17 * k, -1.5 + 0.03 * k * k]])
        canvas.stroke(rib, tint(shot.prop, 0.8), 0.03, 0.2)
    band = smooth([(-wide * 1.02, -0.62), (0.0, -0.76), (wide * 1.02, -0.62)], 6)
    canvas.stroke(band, tint(shot.prop, 1.15), 0.3, 0.25)


def draw_sunglasses(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw dark glasses over both eyes."""
    y, gap = person.eye_y + 0.03, max(person.eye_gap, 0.42)
    for side in (-1, 1):
        lens = smooth([(-0.36, -0.2), (0, -0.23), (0.36, -0.2), (0.3, 0.16), (0, 0.25), (-0.3, 0.16), (-0.36, -0.2)], 4)
        placed = moved(lens, side * gap, y)
        canvas.fill(placed, tint(shot.prop, 0.22), surface(placed) + 0.12)
        canvas.shade(oval(side * gap - 0.1, y - 0.08, 0.12, 0.06), 1.5)
        temple = np.array([[side * (gap + 0.3), y - 0.12], [side * person.face_width * 1.04, y - 0.1]])
        canvas.stroke(temple, tint(shot.prop, 0.25), 0.07)
    canvas.stroke(np.array([[-0.15, y - 0.12], [0.15, y - 0.12]]), tint(shot.prop, 0.25), 0.07)


def draw_scarf(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw a thick scarf up to the lower lip."""
    top = person.mouth_y + person.lower_lip + 0.06
    wide = person.face_width + 0.12
    upper = smooth(
        [
            (-wide, top - 0.22),
            (-0.5 * wide, top + 0.06),
            (0.0, top + 0.1),
            (0.5 * wide, top + 0.06),
            (wide, top - 0.22),
        ],
        4,
    )
    lower = smooth([(wide + 0.2, 1.75), (0.0, 2.1), (-wide - 0.2, 1.75)], 6)
    canvas.fill(np.concatenate([upper, lower]), shot.prop, 0.35)
    for k in range(1, 5):
        fold = upper * (1 + 0.05 * k, 1.0) + (0.0, 0.2 * k)
        canvas.stroke(fold, tint(shot.prop, 0.7 if k % 2 else 1.2), 0.05, 0.35)


def draw_microphone(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw a microphone that is held up from below."""
    x, y = 0.35 * shot.light_x, person.mouth_y + 0.5
    canvas.stroke(np.array([[x * 2, y + 3.0], [x, y]]), tint(shot.prop, 0.3), 0.24, 0.9)
    canvas.fill(oval(x, y, 0.27, 0.33), (46, 46, 50), 0.9)
    for k in range(-2, 3):
        arc = np.array([[x - 0.24, y + 0.11 * k + 0.02], [x + 0.24, y + 0.11 * k - 0.04]])
        canvas.stroke(arc, (86, 86, 92), 0.02, 0.9)
    canvas.stroke(np.array([[x - 0.24, y + 0.2], [x + 0.24, y + 0.2]]), tint(shot.prop, 0.9), 0.08, 0.9)


def draw_passer_by(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the shoulder of a passer-by in a lower corner of the foreground."""
    side = 1.0 if shot.light_x < 0 else -1.0
    outline = face_outline(person) * [0.9, 1.0]
    canvas.fill(outline * 1.05 + [side * 2.15, 1.9], tint(shot.prop, 0.55), 0.5)
    canvas.fill(oval(side * 2.2, 3.6, 1.5, 1.3), tint(shot.prop, 0.8), 0.5)
