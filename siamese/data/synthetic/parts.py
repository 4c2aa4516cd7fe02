"""Draw the parts of a face: the drawing surface `Canvas`, and a function for each part.

Coordinates are relative to the head: x to the right, y down, z towards the viewer, the origin between the eyes; 1.0 is
half the width of an average face. `Canvas` rotates them by the pose of the head and places them on the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from siamese.data.synthetic.traits import Person, Shot

Floats: TypeAlias = NDArray[np.float64]
Colour: TypeAlias = tuple[int, int, int]

SUPERSAMPLE = 2  # sharp parts are drawn this much larger than the photo and reduced later, to smooth their edges
NEUTRAL = 128  # value of the soft layer that stands for the factor 1: 64 is 0.5 and 192 is 1.5
SOFT = 4  # soft parts are drawn this much smaller than the photo
CROWN = -1.27  # y of the top of the skull
NECK_Y = 1.75  # y where the neck meets the clothes


def mix(a: Sequence[float], b: Sequence[float], t: float) -> Colour:
    """Interpolate from colour `a` (t = 0) to `b` (t = 1); clipped to 0..255."""
    u = 1 - t
    red, green, blue = a[0] * u + b[0] * t + 0.5, a[1] * u + b[1] * t + 0.5, a[2] * u + b[2] * t + 0.5
    return int(min(255, max(0, red))), int(min(255, max(0, green))), int(min(255, max(0, blue)))


def tint(colour: Sequence[float], factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter (above 1); clipped to 255."""
    red, green, blue = colour
    return (
        int(min(255, red * factor + 0.5)),
        int(min(255, green * factor + 0.5)),
        int(min(255, blue * factor + 0.5)),
    )


@cache
def _spline_weights(n: int) -> Floats:
    """Catmull-Rom weights (n, 4) of four neighbouring knots, for `n` steps between the middle two."""
    t = np.linspace(0, 1, n, endpoint=False)
    return np.stack(
        [
            t * (t * (2 - t) - 1) / 2,
            (t * t * (3 * t - 5) + 2) / 2,
            t * (t * (4 - 3 * t) + 1) / 2,
            t * t * (t - 1) / 2,
        ],
        1,
    )


def smooth(points: Sequence[tuple[float, float]], n: int = 8) -> Floats:
    """Return a Catmull-Rom curve through `points` with `n` steps between neighbours, shape (n * (len - 1) + 1, 2)."""
    knots = np.array([points[0], *points, points[-1]])
    spans = len(points) - 1
    curve = np.empty((n * spans + 1, 2))
    weights = _spline_weights(n)
    for k in range(spans):
        curve[k * n : (k + 1) * n] = weights @ knots[k : k + 4]
    curve[-1] = knots[-1]
    return curve


@cache
def _circle(n: int) -> Floats:
    angle = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def oval(x: float, y: float, rx: float, ry: float, n: int = 20) -> Floats:
    """Return `n` points on an axis-aligned ellipse, shape (n, 2)."""
    return moved(_circle(n) * np.array((rx, ry)), x, y)


def moved(points: Floats, x: float, y: float) -> Floats:
    """Shift points of shape (n, 2) by (x, y)."""
    shifted: Floats = points + np.array((x, y))
    return shifted


def surface(xy: Floats) -> Floats:
    """Return the depth z of the face at points of shape (n, 2): an ellipsoid, 0 outside it."""
    x, y = xy[:, 0] / 1.08, (xy[:, 1] + 0.05) / 1.4
    return 0.85 * np.sqrt(np.maximum(0.0, 1 - x * x - y * y))


class Canvas:
    """A drawing surface for a photo of `size` pixels on each side, in head coordinates with the pose of one shot.

    It has two layers. `image` (RGB, SUPERSAMPLE times the size) has sharp shapes. `soft` (RGB, a quarter of the size)
    has shadows, blush and highlights as factors around NEUTRAL; it is blurred and then multiplied with the image.
    """

    def __init__(self, shot: Shot, size: int, background: Image.Image) -> None:
        self.size = size
        self.image = background
        self.draw = ImageDraw.Draw(self.image)
        self.soft = Image.new("RGB", (size // SOFT, size // SOFT), (NEUTRAL,) * 3)
        self.soft_draw = ImageDraw.Draw(self.soft)
        self.unit = size * SUPERSAMPLE * shot.scale  # pixels of `image` in one head unit
        self.centre = np.array([0.5 + shot.shift_x, 0.47 + shot.shift_y]) * size * SUPERSAMPLE
        yaw, pitch, roll = shot.yaw, shot.pitch, shot.roll
        turn_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
        turn_x = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
        turn_z = np.array([[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0]])
        self.turn: Floats = turn_z @ turn_x @ turn_y
        self.upright: Floats = np.array([[1.0, 0, 0], [0, 1, 0]])

    def place(self, xy: Floats, z: Floats | float | None = None, *, body: bool = False) -> Floats:
        """Convert head coordinates (n, 2) to pixels of `image`; z defaults to the depth of the face.

        Points of the `body` do not rotate with the head.
        """
        depth = surface(xy) if z is None else z
        points = np.empty((len(xy), 3))
        points[:, :2], points[:, 2] = xy, depth
        placed: Floats = points @ (self.upright if body else self.turn).T * self.unit + self.centre
        return placed

    def fill(self, xy: Floats, colour: Colour, z: Floats | float | None = None, *, body: bool = False) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.place(xy, z, body=body).ravel().tolist(), fill=colour)

    def stroke(
        self,
        xy: Floats,
        colour: Colour,
        width: float,
        z: Floats | float | None = None,
        *,
        round_ends: bool = False,
    ) -> None:
        """Draw a line through the points; `width` is in head units (at least one pixel)."""
        pixels = max(1, round(width * self.unit))
        placed = self.place(xy, z)
        self.draw.line(placed.ravel().tolist(), fill=colour, width=pixels, joint="curve" if pixels > 3 else None)
        if round_ends:
            for x, y in (placed[0], placed[-1]):
                self.draw.circle((x, y), pixels / 2, fill=colour)

    def strokes(self, xy: Floats, colours: Sequence[Colour], width: float, z: Floats) -> None:
        """Draw many lines: points (lines, n, 2), depths (lines, n); colours are used in turn."""
        pixels = max(1, round(width * self.unit))
        lines = self.place(xy.reshape(-1, 2), z.ravel()).reshape(len(xy), -1).tolist()
        for k, line in enumerate(lines):
            self.draw.line(line, fill=colours[k % len(colours)], width=pixels)

    def shade(self, xy: Floats, factor: float | tuple[float, float, float], z: float | None = None) -> None:
        """Multiply a polygon of the photo softly by `factor` (one, or one per channel)."""
        factors = factor if isinstance(factor, tuple) else (factor,) * 3
        placed = self.place(xy, z) / (SOFT * SUPERSAMPLE)
        self.soft_draw.polygon(placed.ravel().tolist(), fill=tint(factors, NEUTRAL))

    def shade_line(self, xy: Floats, factor: float, width: float) -> None:
        """Multiply a line of the photo softly by `factor`; `width` is in head units."""
        placed = self.place(xy) / (SOFT * SUPERSAMPLE)
        pixels = max(1, round(width * self.unit / (SOFT * SUPERSAMPLE)))
        self.soft_draw.line(placed.ravel().tolist(), fill=tint((factor,) * 3, NEUTRAL), width=pixels)


def face_outline(person: Person, grow: float = 0.0) -> Floats:
    """Return the closed contour of the face without ears, (60, 2), clockwise from the right temple via the chin."""
    angle = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    below = sin > 0
    power = np.where(below, 2 / person.jaw, 2 / 2.25)
    height = np.where(below, person.chin, -CROWN) + grow
    x = (person.face_width + grow) * np.sign(cos) * np.abs(cos) ** power
    y = height * np.sign(sin) * np.abs(sin) ** power
    return np.stack([x, y], axis=1)


def draw_body(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw shoulders, clothes and neck."""
    wide = person.neck
    half = [(wide, 0.6), (wide, 1.45), (wide + 0.12, NECK_Y - 0.12), (1.15, 1.98), (1.9, 2.25), (2.25, 2.7)]
    right = np.concatenate([smooth(half, 4), [[2.35, 4.6]]])
    outline = np.concatenate([right, right[::-1] * [-1, 1]])
    canvas.fill(outline, person.skin, 0.0, body=True)
    neckline = shot.neckline
    cut = [(-wide - 0.32, NECK_Y - 0.02), (-0.4 * wide, NECK_Y + 0.5 * neckline), (0.0, NECK_Y + neckline)]
    cut += [(-x, y) for x, y in reversed(cut[:-1])]
    sides = [(1.15, 1.95), (1.95, 2.22), (2.4, 2.75), (2.5, 4.7)]
    cloth = np.concatenate([smooth(cut, 4), sides, [(-x, y) for x, y in reversed(sides)]])
    canvas.fill(cloth, shot.cloth, 0.0, body=True)
    rim = canvas.place(smooth(cut, 4), 0.0, body=True).ravel().tolist()
    canvas.draw.line(rim, fill=tint(shot.cloth, 0.72), width=round(0.06 * canvas.unit))
    if shot.stripes:
        u = np.linspace(-0.97, 0.97, 9)
        for y in NECK_Y + neckline + 0.22 + 0.3 * np.arange(6):
            wide = np.interp(y, [side[1] for side in sides], [side[0] for side in sides])
            arc = np.stack([u * wide, y + 0.1 * u**2], 1)
            line = canvas.place(arc, 0.0, body=True).ravel().tolist()
            canvas.draw.line(line, fill=shot.cloth_accent, width=round(0.11 * canvas.unit))


def draw_head(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the ears, the skin of the face, and the shading that gives it volume."""
    outline = face_outline(person)
    for side in (-1, 1):
        ear = oval(side * person.face_width * 1.0, 0.08, person.ear, person.ear * 1.75)
        canvas.fill(ear, tint(person.skin, 0.9), -0.2)
        inner = oval(side * person.face_width * 1.03, 0.07, person.ear * 0.5, person.ear * 1.1)
        canvas.fill(inner, tint(person.skin, 0.72), -0.2)
    # The chin casts its shadow on the neck only, so the face is drawn over it.
    chin_shadow = outline * [0.86, 1.0] + [-0.12 * shot.light_x, 0.2]
    canvas.shade(chin_shadow[2:29], 0.62, 0.1)
    canvas.fill(outline, person.skin, 0.12)
    # A dark rim and a bright oval, shifted towards the light; blurring turns them into volume.
    canvas.shade(outline, 0.86, 0.12)
    middle = 0.14 * shot.light_x
    canvas.shade(oval(middle, -0.05, 0.84 * person.face_width, 0.93 * person.chin, 28), 0.95)
    canvas.shade(oval(1.4 * middle, -0.02, 0.7 * person.face_width, 0.8 * person.chin, 28), 1.02)
    cheek_y = person.nose_y - 0.03
    for side in (-1, 1):
        far = side * shot.light_x < 0
        blush = (1.05, 0.95, 0.94) if far else (1.12, 1.03, 1.01)
        canvas.shade(oval(side * 0.52 * person.face_width, cheek_y, 0.24, 0.19), blush)
        canvas.shade(oval(side * person.eye_gap, person.eye_y - 0.07, 0.3, 0.17), (0.9, 0.86, 0.85))
        if person.wrinkles > 0.35:
            bag = oval(side * person.eye_gap, person.eye_y + 0.17, 0.2, 0.045)
            canvas.shade(bag, 1 - 0.22 * person.wrinkles)
    forehead = oval(0.25 * shot.light_x, -0.68, 0.5, 0.18)
    canvas.shade(forehead, 1.08)
    canvas.shade(oval(0.0, person.mouth_y + person.lower_lip + 0.13, 0.22, 0.05), 0.86)
    canvas.shade(oval(0.06 * shot.light_x, person.chin - 0.16, 0.2, 0.09), 1.06)


def draw_marks(canvas: Canvas, person: Person) -> None:
    """Draw freckles, moles, a scar and wrinkles, which are the same in every photo of the person."""
    for x, y in person.freckles:
        canvas.fill(oval(x, y, 0.016, 0.016, 6), tint(person.skin, 0.76))
    for x, y in person.moles:
        canvas.fill(oval(x, y, 0.05, 0.05, 10), tint(person.skin, 0.34))
    if person.scar:
        (x0, y0), (x1, y1) = person.scar
        line = np.array([(x0, y0), ((x0 + x1) / 2 + 0.03, (y0 + y1) / 2), (x1, y1)])
        canvas.stroke(line, tint(mix(person.skin, (200, 120, 110), 0.4), 0.86), 0.035)
    crease = tint(person.skin, 1 - 0.26 * person.wrinkles)
    if person.wrinkles > 0.4:
        for k in range(2):
            across = np.linspace(-0.42, 0.42, 9)
            line = np.stack([across, -0.62 - 0.11 * k + 0.04 * np.cos(3 * across)], axis=1)
            canvas.stroke(line, crease, 0.015)


def draw_eye(canvas: Canvas, person: Person, shot: Shot, side: int) -> None:
    """Draw the eye on one side (-1: left side of the image, 1: right); the lids cover part of the iris."""
    x, y = side * person.eye_gap, person.eye_y
    t = np.linspace(-1, 1, 15)
    bow = np.maximum(0.0, 1 - np.abs(t) ** 2.0)
    tilt = -person.eye_slant * t * side
    xs = x + person.eye_width * t
    upper = y - person.eye_height * 1.15 * shot.lids * bow**0.8 + tilt
    lower = y + person.eye_height * 0.75 * (0.4 + 0.6 * shot.lids) * bow + tilt
    opening = np.concatenate([np.stack([xs, upper], 1), np.stack([xs, lower], 1)[::-1]])
    lid = np.stack([xs, upper - 0.4 * person.eye_height * bow], 1)
    canvas.fill(np.concatenate([lid, np.stack([xs, upper], 1)[::-1]]), tint(person.skin, 0.86))
    canvas.fill(opening, (240, 236, 230))
    radius = 0.5 * min(person.eye_width, person.eye_height * 2.2)
    gx, gy = x + shot.gaze_x * person.eye_width * 0.35, y + shot.gaze_y * person.eye_height * 0.3
    parts = [(1.0, tint(person.iris, 0.5)), (0.84, person.iris), (0.45, (16, 12, 12))]
    for share, colour in parts:
        disc = oval(gx, gy - 0.01, radius * share, radius * share, 18)
        disc[:, 1] = np.clip(disc[:, 1], np.interp(disc[:, 0], xs, upper), np.interp(disc[:, 0], xs, lower))
        canvas.fill(disc, colour)
    if shot.lids > 0.5:
        glint = oval(gx + 0.35 * radius * shot.light_x, gy - 0.4 * radius, radius * 0.25, radius * 0.25, 8)
        canvas.fill(glint, (255, 255, 255))
    lash = mix(tint(person.brow_colour, 0.45), (20, 14, 14), 0.5)
    flick = np.array([[x + side * person.eye_width * 1.18, y - person.eye_slant - person.lashes]])
    lashes = np.stack([xs, upper], 1)
    lashes = np.concatenate([flick, lashes]) if side < 0 else np.concatenate([lashes, flick])
    canvas.stroke(lashes, lash, 0.028 + 0.3 * person.lashes)
    canvas.stroke(np.stack([xs, lower], 1)[2:-2], tint(person.skin, 0.62), 0.012)
    canvas.stroke(lid[2:-2] - [0, 0.02], tint(person.skin, 0.68), 0.014)
    if person.wrinkles > 0.5:
        for dy in (-0.03, 0.05):
            corner = x + side * (person.eye_width + 0.06)
            feet = np.array([[corner, y + dy / 2], [corner + side * 0.13, y + 1.5 * dy]])
            canvas.stroke(feet, tint(person.skin, 0.78), 0.014)


def draw_brow(canvas: Canvas, person: Person, shot: Shot, side: int) -> None:
    """Draw the eyebrow on one side: a tapering arch with a few hairs at its edge."""
    u = np.linspace(0, 1, 12)
    x = side * (person.eye_gap - person.eye_width * 1.05 + u * person.eye_width * 2.35)
    arch = person.brow_arch * np.sin(np.pi * np.minimum(1.0, u * 0.9)) + person.brow_angle * (0.5 - u)
    y = person.eye_y - person.brow_gap - arch - 0.1 * shot.brow
    thick = person.brow_thickness * (1 - 0.75 * u**2) * np.minimum(1.0, 0.65 + 2 * u)
    top, bottom = np.stack([x, y - thick / 2], 1), np.stack([x, y + thick / 2], 1)
    canvas.fill(np.concatenate([top, bottom[::-1]]), person.brow_colour)
    hair = tint(person.brow_colour, 0.72)
    for k in range(1, 10, 2):
        ends = np.stack([bottom[k], top[k] + [side * 0.07, -0.012]])
        canvas.stroke(ends, hair, 0.014)


def draw_nose(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the bridge of the nose in light and shadow, tip, wings and nostrils."""
    wide, tip, top = person.nose_width, person.nose_y, person.eye_y
    away = -1.0 if shot.light_x > 0 else 1.0
    bridge = 0.42 * wide
    shadow = [(away * bridge, top), (away * bridge * 0.9, tip - 0.25), (away * wide * 0.95, tip - 0.02)]
    shadow += [(away * wide * 0.3, tip - 0.05), (away * bridge * 0.35, top)]
    canvas.shade(smooth(shadow, 3), 0.76)
    canvas.shade(smooth([(-wide, tip + 0.04), (0, tip + 0.13), (wide, tip + 0.04), (0, tip + 0.03)], 4), 0.72)
    ridge = np.array([[-away * 0.02, top + 0.1], [-away * 0.02, tip - 0.12]])
    canvas.shade_line(ridge, 1.2, 0.1)
    lift = surface(np.array([[0.0, tip]]))[0] + 0.2  # the nose stands out of the face
    canvas.shade(oval(-away * 0.04, tip - 0.06, 0.09, 0.075), 1.22, float(lift))
    line = tint(person.skin, 0.6)
    for side in (-1, 1):
        wing = [
            (side * wide * 0.82, tip - 0.11),
            (side * wide * 1.06, tip - 0.01),
            (side * wide * 0.9, tip + 0.06),
        ]
        canvas.stroke(smooth(wing, 4), line, 0.024, lift - 0.1)
        hole = oval(side * wide * 0.5, tip + 0.045, wide * 0.26, 0.032 + 0.03 * person.nose_tip, 12)
        canvas.fill(hole, tint(person.skin, 0.36), lift - 0.05)
    base = [(-wide * 0.3, tip + 0.06), (0, tip + 0.09 + 0.05 * person.nose_tip), (wide * 0.3, tip + 0.06)]
    canvas.stroke(smooth(base, 4), tint(person.skin, 0.68), 0.02, lift)
    side_line = [(away * bridge * 0.9, top + 0.02), (away * bridge * 0.75, tip - 0.32)]
    canvas.stroke(smooth(side_line, 4), tint(person.skin, 0.82), 0.016)


def draw_mouth(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the lips and, if the mouth is open, teeth."""
    t = np.linspace(-1, 1, 21)
    bow = 1 - t * t
    wide = person.mouth_width * (1 + 0.22 * shot.smile)
    xs = t * wide
    seam = person.mouth_y + 0.02 - (0.03 + 0.14 * shot.smile) * t * t
    gap = 0.24 * shot.mouth_open * bow
    inner_top, inner_low = seam - 0.25 * gap, seam + 0.75 * gap
    upper = inner_top - person.upper_lip * (bow**0.75 - 0.28 * np.exp(-((t / 0.16) ** 2)))
    lower = inner_low + person.lower_lip * bow**0.7
    rim = [np.stack([xs, y], 1) for y in (upper, inner_top, inner_low, lower)]
    canvas.fill(np.concatenate([rim[0], rim[3][::-1]]), person.lips)
    canvas.fill(np.concatenate([rim[0], rim[1][::-1]]), tint(person.lips, 0.84))
    if shot.mouth_open > 0.12:
        canvas.fill(np.concatenate([rim[1], rim[2][::-1]]), (58, 20, 22))
        teeth = np.stack([xs, np.minimum(inner_low - 0.008, inner_top + 0.11)], 1)[3:-3]
        canvas.fill(np.concatenate([rim[1][3:-3], teeth[::-1]]), (238, 234, 224))
    else:
        canvas.stroke(rim[1], tint(person.lips, 0.45), 0.022)
    shine = np.stack([xs, lower - 0.55 * person.lower_lip * bow**0.7], 1)[6:15]
    canvas.shade_line(shine, 1.2, 0.05)
    for side in (-1, 1):
        corner = (side * (wide + 0.03), float(seam[0]))
        canvas.shade(oval(*corner, 0.05, 0.05, 8), 0.82)
        depth = 0.24 * max(0.0, shot.smile) + 0.34 * person.wrinkles
        if depth > 0.1 and person.beard != "full":
            fold = [
                (side * person.nose_width * 1.25, person.nose_y),
                (side * (wide + 0.1), person.mouth_y - 0.1),
            ]
            fold.append((side * (wide + 0.13), person.mouth_y + 0.06))
            canvas.stroke(smooth(fold, 5), tint(person.skin, 1 - 0.45 * depth), 0.018)


def draw_beard(canvas: Canvas, person: Person) -> None:
    """Draw the facial hair that the mouth covers; call it before `draw_mouth`."""
    kind, colour = person.beard, person.beard_colour
    wide, mouth = person.face_width, person.mouth_y
    if kind in ("full", "stubble"):
        grow = 0.05 if kind == "full" else 0.0
        jaw = face_outline(person, grow)[0:31]
        cheek = [(-wide * 0.96, 0.0), (-wide * 0.8, 0.36), (-0.42, mouth - 0.17), (0.0, mouth - 0.19)]
        cheek += [(-x, y) for x, y in reversed(cheek[:-1])]
        shape = np.concatenate([jaw, smooth(cheek, 4)])
        if kind == "stubble":
            canvas.fill(shape, mix(person.skin, colour, 0.32))
            canvas.shade(shape, 0.94)
            return
        canvas.fill(shape, colour, surface(shape) * 0.6 + 0.12)
        tips = jaw[2:29] * 0.985
        hairs = np.stack([tips * (0.84, 0.86) - (0, 0.03), tips], 1)
        tones = [tint(colour, 0.7), tint(colour, 1.3), tint(colour, 0.85)]
        canvas.strokes(hairs, tones, 0.016, surface(hairs.reshape(-1, 2)) * 0.6 + 0.12)
    if kind in ("goatee", "full"):
        chin = oval(0, (mouth + person.chin) / 2 + 0.1, 0.33, (person.chin - mouth) / 2 + 0.06)
        canvas.fill(chin, tint(colour, 0.94))


def draw_moustache(canvas: Canvas, person: Person, shot: Shot) -> None:
    """Draw the hair on the upper lip; call it after `draw_mouth`."""
    if person.beard not in ("moustache", "goatee", "full"):
        return
    colour, span = person.beard_colour, max(0.36, person.mouth_width * 1.05)
    lip = person.mouth_y - 0.06 * shot.mouth_open
    droop = lip + 0.09 - 0.1 * max(0.0, shot.smile)
    top = [(-span, droop), (-span * 0.62, lip - 0.12), (-0.06, lip - 0.19), (0.0, lip - 0.17)]
    low = [(span, droop), (span * 0.5, lip + 0.03), (0.0, lip - 0.03)]
    outline = (
        [*top, *((-x, y) for x, y in reversed(top[:-1]))],
        [*low, *((-x, y) for x, y in reversed(low[:-1]))],
    )
    canvas.fill(np.concatenate([smooth(part, 4) for part in outline]), tint(colour, 0.88))
    x = np.linspace(-0.85, 0.85, 12) * span
    hairs = np.stack(
        [np.stack([x * 0.85, lip - 0.15 + 0.1 * (x / span) ** 2], 1), np.stack([x, lip + 0.01 + 0 * x], 1)], 1
    )
    tones = [tint(colour, 0.65), tint(colour, 1.3)]
    canvas.strokes(hairs, tones, 0.014, surface(hairs.reshape(-1, 2)))


def draw_earrings(canvas: Canvas, person: Person) -> None:
    """Draw discs that hang from both ears."""
    if person.earrings:
        for side in (-1, 1):
            x, y = side * person.face_width * 1.04, 0.08 + person.ear * 1.7 + person.earrings
            canvas.fill(oval(x, y, person.earrings, person.earrings), tint(person.jewel, 0.6), -0.1)
            inner = 0.72 * person.earrings
            canvas.fill(oval(x, y, inner, inner), person.jewel, -0.1)


def draw_glasses(canvas: Canvas, person: Person) -> None:
    """Draw the person's glasses: two rims, a bridge and the sides."""
    rx, ry = (0.31, 0.29) if person.glasses == "round" else (0.34, 0.22)
    power = 1.0 if person.glasses == "round" else 0.5
    width = {"thin": 0.035, "round": 0.06, "thick": 0.1}[person.glasses]
    y = person.eye_y + 0.03
    gap = max(person.eye_gap, rx + 0.06)
    angle = np.linspace(0, 2 * math.pi, 33)
    ring = np.stack([np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * rx,
                     np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * ry], 1)  # fmt: skip
    for side in (-1, 1):
        rim = moved(ring, side * gap, y)
        canvas.shade(rim[:-1], (1.06, 1.07, 1.09))
        if person.face_width > gap + rx + 0.05:
            temple = np.array([[side * (gap + rx), y - 0.06], [side * person.face_width, y - 0.05]])
            canvas.stroke(temple, person.frame, 0.8 * width, surface(temple) + np.array((0.12, 0.0)))
        canvas.stroke(rim, person.frame, width, surface(rim) + 0.12)
    bridge = smooth([(-gap + rx, y - 0.04), (0, y - 0.1), (gap - rx, y - 0.04)], 5)
    canvas.stroke(bridge, person.frame, width, surface(bridge) + 0.12)
