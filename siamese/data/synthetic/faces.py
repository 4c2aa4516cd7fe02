"""Draw photos of people who do not exist.

A `siamese.data.synthetic.traits.Person` is what stays the same, a `Shot` is what one photo varies: pose, light,
expression, background, clothes, objects in front of the face, and the camera. Verification has to recognise the first
despite the second. Heads are as small in the image as in LFW, and backgrounds and clothes are often very dark or very
bright, so distances between raw pixels mostly depend on them. Light varies less, because a small network is slow to
learn to ignore it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from siamese.data.synthetic import hair, parts
from siamese.data.synthetic.parts import NEUTRAL, SOFT, SUPERSAMPLE, Canvas, mix
from siamese.data.synthetic.traits import Person, Shot, any_colour, sample_shot

PROP_DRAWERS = {
    "hat": hair.draw_hat,
    "sunglasses": hair.draw_sunglasses,
    "scarf": hair.draw_scarf,
    "microphone": hair.draw_microphone,
    "passer-by": hair.draw_passer_by,
}
"""Functions that draw each of `siamese.data.synthetic.traits.PROPS`."""


def _backdrop(shot: Shot, rng: np.random.Generator, side: int) -> Image.Image:
    """Draw the background, `side` pixels square: a soft gradient, in most styles with shapes on it."""
    base, other = any_colour(rng), any_colour(rng)
    n = 7 if shot.backdrop == "clouds" else 2
    weights = rng.uniform(0, 1 if n == 7 else 0.5, (n, n, 1))
    field = np.array(base) + weights * (np.array(other) - base)
    # Interpolated to half the side, then pixels are doubled: twice as fast, and the photo is reduced later anyway.
    image = Image.fromarray(field.astype(np.uint8)).resize((side // 2, side // 2), Image.Resampling.BILINEAR)
    image = image.resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    if shot.backdrop == "lights":
        for x, y, r in rng.uniform((0, 0, 0.03), (1, 1, 0.13), (14, 3)) * side:
            draw.circle((x, y), r, fill=mix(base, any_colour(rng), 0.6))
    elif shot.backdrop == "stripes":
        pitch, lean = rng.uniform(0.07, 0.2) * side, rng.uniform(-0.5, 0.5) * side
        for k in range(-8, int(side / pitch) + 8):
            line = (k * pitch, 0, k * pitch + lean, side)
            draw.line(line, fill=mix(base, other, 0.7), width=round(pitch * 0.45))
    elif shot.backdrop == "room":
        for x, y, w, h in rng.uniform((-0.2, -0.2, 0.1, 0.1), (0.95, 0.7, 0.45, 0.7), (9, 4)) * side:
            draw.rectangle((x, y, x + w, y + h), fill=mix(base, any_colour(rng), 0.8))
    return image


def _shadows(canvas: Canvas, shot: Shot) -> Image.Image:
    """Blur the soft layer and apply the light, which varies linearly over the head: RGB factors in units of NEUTRAL."""
    soft = canvas.soft.filter(ImageFilter.GaussianBlur(0.045 * canvas.unit / (SOFT / 2 * SUPERSAMPLE)))
    n = soft.width
    centre = canvas.centre / (SUPERSAMPLE * canvas.size)
    at = (np.arange(n, dtype=np.float32) + 0.5) / n
    x = np.clip((at - centre[0]) / (shot.scale * 1.2), -1.2, 1.2)
    y = np.clip((at - centre[1]) / (shot.scale * 1.5), -1.2, 1.2)
    ramp = (1 + shot.light * (shot.light_x * x[None, :] + shot.light_y * y[:, None])).astype(np.float32)
    factors = np.minimum(np.asarray(soft) * ramp[:, :, None], 255).astype(np.uint8)
    return Image.fromarray(factors).resize((canvas.size,) * 2, Image.Resampling.BILINEAR)


def _tone_curves(shot: Shot) -> list[int]:
    """Build the lookup table (3 * 256) from the product of canvas and shadows (`ImageChops.multiply`) to the photo."""
    level = np.arange(256) / NEUTRAL  # 1 is white in neutral light
    tables = []
    for factor in shot.cast:
        exposed = (level * shot.gain * factor) ** shot.gamma
        # The exponential compresses highlights.
        tone = 255 * (1 - np.exp(-1.5 * exposed)) / (1 - np.exp(-1.5))
        tone = (tone - 128) * shot.contrast + 122 + shot.offset
        tables.append(np.clip(tone, 0, 255).astype(int))
    table: list[int] = np.concatenate(tables).tolist()
    return table


@cache
def _grain(size: int) -> Image.Image:
    """Normal noise with mean 128 and standard deviation 32, twice as wide and high as a photo."""
    noise = np.random.default_rng(0).standard_normal((2 * size, 2 * size)) * 32 + 128
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))


def _develop(canvas: Canvas, shot: Shot, rng: np.random.Generator) -> Image.Image:
    """Turn the canvas into the photo: shadows and light, tones, blur, noise."""
    size = canvas.size
    photo = ImageChops.multiply(canvas.image.reduce(SUPERSAMPLE), _shadows(canvas, shot))
    photo = photo.point(_tone_curves(shot))
    if shot.blur:
        photo = photo.filter(ImageFilter.GaussianBlur(shot.blur * size / 250))
    # Noise is cut out of one large field at a random position: new noise would take as long as drawing the face.
    left, top = (int(k) for k in rng.integers(0, size, 2))
    grain = _grain(size).crop((left, top, left + size, top + size))
    grain = grain.point([min(255, max(0, round(128 + (k - 128) * shot.noise / 32))) for k in range(256)])
    return ImageChops.add(photo, Image.merge("RGB", (grain,) * 3), 1, -128)


def render(person: Person, rng: np.random.Generator, size: int = 250) -> Image.Image:
    """Draw a new photo of `person`, RGB, `size` pixels square; `rng` decides everything but the person."""
    shot = sample_shot(person, rng)
    canvas = Canvas(shot, size, _backdrop(shot, rng, size * SUPERSAMPLE))
    hair.draw_hair_behind(canvas, person)
    parts.draw_body(canvas, person, shot)
    parts.draw_head(canvas, person, shot)
    parts.draw_marks(canvas, person)
    parts.draw_beard(canvas, person)
    parts.draw_mouth(canvas, person, shot)
    parts.draw_moustache(canvas, person, shot)
    for side in (-1, 1):
        parts.draw_eye(canvas, person, shot, side)
        parts.draw_brow(canvas, person, shot, side)
    parts.draw_nose(canvas, person, shot)
    parts.draw_earrings(canvas, person)
    hair.draw_hair(canvas, person, shot)
    if shot.glasses and shot.prop_kind != "sunglasses":
        parts.draw_glasses(canvas, person)
    if shot.prop_kind != "none":
        PROP_DRAWERS[shot.prop_kind](canvas, person, shot)
    return _develop(canvas, shot, rng)
