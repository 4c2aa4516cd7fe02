"""Portraits of people who do not exist: what a person is, what one photo of them adds, and the picture of both.

A `Person` holds all that stays the same. A `Shot` holds all that one photo varies: pose, light, expression,
background, clothes, things in the way and the camera. Verification has to see the first through the second. Heads are
as small in the picture as in LFW, and backgrounds and clothes are as often very dark as very bright, so distances
between raw pixels are mostly about them; light varies less, because a small network learns to ignore it only slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from siamese.data.synthetic import hair, parts
from siamese.data.synthetic.parts import NEUTRAL, SOFT, SUPERSAMPLE, Canvas, Colour, mix, tint

Point = tuple[float, float]

_SKINS: tuple[Colour, ...] = (
    (246, 208, 184), (234, 190, 160), (216, 168, 134), (190, 138, 100), (150, 100, 68), (106, 68, 48), (74, 47, 37),
)  # fmt: skip
_HAIRS: dict[str, Colour] = {
    "black": (30, 25, 27), "dark brown": (58, 38, 30), "brown": (104, 68, 44), "auburn": (122, 54, 32),
    "ginger": (188, 98, 44), "dark blond": (164, 124, 76), "blond": (228, 192, 122), "platinum": (244, 231, 200),
    "grey": (150, 148, 148), "white": (226, 224, 222),
}  # fmt: skip
_HAIR_SHARES = (0.2, 0.11, 0.11, 0.07, 0.1, 0.08, 0.13, 0.07, 0.06, 0.07)
_IRISES: tuple[Colour, ...] = (
    (74, 44, 26), (112, 72, 36), (98, 118, 62), (76, 122, 106), (82, 126, 172), (118, 136, 150),
)  # fmt: skip
_BEARDS = ("none", "stubble", "moustache", "goatee", "full")
_MALE_CUTS = ("bald", "buzz", "crop", "quiff", "parted", "receding", "fringe", "curls", "long", "afro", "bun")
_MALE_SHARES = (0.14, 0.1, 0.13, 0.12, 0.13, 0.12, 0.07, 0.08, 0.04, 0.04, 0.03)
_FEMALE_CUTS = ("long", "wavy", "bob", "bun", "bunches", "fringe", "afro", "curls", "parted", "crop")
_FEMALE_SHARES = (0.17, 0.16, 0.16, 0.12, 0.09, 0.08, 0.09, 0.05, 0.05, 0.03)


@dataclass(frozen=True)
class Person:
    """All that stays the same in every photo of a person; lengths in half widths of an average face."""

    skin: Colour
    face_width: float
    chin: float  # y of the chin
    jaw: float  # exponent of the lower contour: 1.7 is pointed, 2 an ellipse, 3 square
    neck: float  # half width
    ear: float
    eye_y: float
    eye_gap: float  # half the distance between the pupils
    eye_width: float
    eye_height: float
    eye_slant: float
    iris: Colour
    lashes: float
    brow_gap: float
    brow_thickness: float
    brow_arch: float
    brow_angle: float
    brow_colour: Colour
    nose_y: float  # y of the tip
    nose_width: float
    nose_tip: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    lips: Colour
    hair: str  # a key of face_hair.CUTS
    hair_colour: Colour
    hairline: float
    hair_length: float
    volume: float
    parting: float  # -1 or 1, the side
    beard: str  # none, stubble, moustache, goatee or full
    beard_colour: Colour
    glasses: str  # none, thin, thick or round: the pair they own
    glasses_habit: float  # share of the photos in which they wear it
    frame: Colour
    earrings: float  # radius; 0 is none
    jewel: Colour
    headband: bool
    band_colour: Colour
    wrinkles: float
    freckles: tuple[Point, ...]
    moles: tuple[Point, ...]
    scar: tuple[Point, ...]


@dataclass(frozen=True)
class Shot:
    """All that one photo adds to a person; angles in radians, shifts and scale in shares of the picture's side."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift_x: float
    shift_y: float
    light_x: float  # where the light comes from, -1 left to 1 right
    light_y: float
    light: float  # how uneven the light is
    gain: float
    gamma: float
    cast: tuple[float, float, float]  # factors of the channels
    contrast: float
    offset: float  # grey levels added to all: a flash, a fog, a faded print
    smile: float
    mouth_open: float
    lids: float  # 1 is open
    gaze_x: float
    gaze_y: float
    brow: float
    glasses: bool
    cloth: Colour
    cloth_accent: Colour
    stripes: bool
    neckline: float
    backdrop: str
    prop_kind: str
    prop: Colour
    blur: float  # pixels of a 250-pixel photo
    noise: float  # standard deviation in grey levels


def _any_colour(rng: np.random.Generator, dark: float = 12, light: float = 248) -> Colour:
    """A colour of low saturation and any brightness, more often dark or light than in between."""
    level = dark + (light - dark) * rng.beta(0.65, 0.65)
    return mix((level,) * 3, tuple(rng.uniform(0, 255, 3)), float(rng.uniform(0.05, 0.45)))


def _skin(rng: np.random.Generator) -> Colour:
    at = rng.beta(0.75, 0.75) * (len(_SKINS) - 1.001)  # more at both ends than a uniform choice
    base = mix(_SKINS[int(at)], _SKINS[int(at) + 1], at % 1)
    red, green, blue = np.clip(np.array(base) * rng.uniform(0.97, 1.03, 3), 0, 255)
    return round(red), round(green), round(blue)


def sample_person(rng: np.random.Generator) -> Person:
    """A new person. Traits go together as far as faces stay plausible, and vary as widely as that allows."""
    male = rng.random() < 0.55
    old = float(np.clip(rng.beta(1.2, 2.2), 0, 1))
    skin = _skin(rng)
    dark_skin = sum(skin) < 400
    names = tuple(_HAIRS)
    shares = np.array(_HAIR_SHARES) * [
        3 if dark_skin and k < 2 else 0.5 if dark_skin and k < 8 else 1 for k in range(10)
    ]
    shares[8:] *= 0.3 + 3.5 * old
    hair_colour = tint(_HAIRS[str(rng.choice(names, p=shares / shares.sum()))], rng.uniform(0.88, 1.12))
    cuts, weights = (_MALE_CUTS, _MALE_SHARES) if male else (_FEMALE_CUTS, _FEMALE_SHARES)
    cut = str(rng.choice(cuts, p=np.array(weights) / sum(weights)))
    beard = str(rng.choice(_BEARDS, p=(0.3, 0.1, 0.16, 0.16, 0.28))) if male else "none"
    chin = rng.uniform(1.04, 1.44)
    eye_y = rng.uniform(-0.2, -0.06)
    nose_y = eye_y + rng.uniform(0.4, 0.6)
    freckled = not dark_skin and rng.random() < 0.16
    spots = rng.uniform((-0.6, 0.02), (0.6, 0.45), (26, 2)) if freckled else np.empty((0, 2))
    moles = rng.uniform((-0.65, 0.05), (0.65, 0.6), (int(rng.choice(3, p=(0.55, 0.3, 0.15))), 2))
    scar: tuple[Point, ...] = ()
    if rng.random() < 0.07:
        x, y = rng.choice((-0.5, 0.5)), rng.uniform(0.1, 0.5)
        scar = ((float(x), float(y)), (float(x + rng.uniform(-0.2, 0.2)), float(y + 0.3)))
    lip_red = rng.uniform(0.3, 0.55) if male else rng.uniform(0.45, 0.95)
    return Person(
        skin=skin,
        face_width=rng.uniform(0.8, 1.13),
        chin=chin,
        jaw=rng.uniform(2.0, 3.0) if male else rng.uniform(1.72, 2.4),
        neck=rng.uniform(0.52, 0.7) if male else rng.uniform(0.4, 0.54),
        ear=rng.uniform(0.1, 0.18),
        eye_y=eye_y,
        eye_gap=rng.uniform(0.36, 0.48),
        eye_width=rng.uniform(0.16, 0.23),
        eye_height=rng.uniform(0.07, 0.135),
        eye_slant=rng.uniform(-0.03, 0.055),
        iris=tint(_IRISES[int(rng.integers(2 if dark_skin else len(_IRISES)))], rng.uniform(0.85, 1.15)),
        lashes=rng.uniform(0.0, 0.015) if male else rng.uniform(0.02, 0.06),
        brow_gap=rng.uniform(0.24, 0.34),
        brow_thickness=rng.uniform(0.07, 0.2) if male else rng.uniform(0.04, 0.13),
        brow_arch=rng.uniform(0.01, 0.13),
        brow_angle=rng.uniform(-0.09, 0.08),
        brow_colour=tint(mix(hair_colour, (60, 42, 34), 0.35), rng.uniform(0.7, 0.9)),
        nose_y=nose_y,
        nose_width=rng.uniform(0.14, 0.27),
        nose_tip=rng.uniform(0, 1),
        mouth_y=nose_y + (chin - nose_y) * rng.uniform(0.4, 0.5),
        mouth_width=rng.uniform(0.26, 0.45),
        upper_lip=rng.uniform(0.03, 0.075) if male else rng.uniform(0.04, 0.11),
        lower_lip=rng.uniform(0.05, 0.11) if male else rng.uniform(0.07, 0.14),
        lips=tint(
            mix(tint(skin, 0.78), (188, 62, 72), lip_red), rng.uniform(0.85, 1.0) if male else rng.uniform(0.45, 1.1)
        ),
        hair=cut,
        hair_colour=hair_colour,
        hairline=rng.uniform(-0.05, 0.06),
        hair_length=rng.uniform(0.85, 1.15),
        volume=rng.uniform(0.6, 1.5),
        parting=float(rng.choice((-1.0, 1.0))),
        beard=beard,
        beard_colour=tint(hair_colour, rng.uniform(0.75, 1.0)),
        glasses=str(rng.choice(("none", "thin", "thick", "round"), p=(0.52, 0.06, 0.24, 0.18))),
        glasses_habit=rng.uniform(0.97, 1.0),
        frame=_any_colour(rng, 8, 110),
        earrings=rng.uniform(0.09, 0.17) if rng.random() < (0.1 if male else 0.5) else 0.0,
        jewel=_any_colour(rng),
        headband=not male and rng.random() < 0.3,
        band_colour=_any_colour(rng),
        wrinkles=old,
        freckles=tuple((float(x), float(y)) for x, y in spots),
        moles=tuple((float(x), float(y)) for x, y in moles),
        scar=scar,
    )


def sample_shot(person: Person, rng: np.random.Generator) -> Shot:
    """The circumstances of one photo."""
    tone = rng.uniform(0.9, 1.1, 3)
    red, green, blue = tone / tone.mean()
    kinds, shares = zip(*_PROPS.items(), strict=True)
    return Shot(
        yaw=float(np.clip(rng.normal(0, 0.12), -0.34, 0.34)),
        pitch=float(np.clip(rng.normal(0, 0.06), -0.16, 0.16)),
        roll=float(np.clip(rng.normal(0, 0.045), -0.14, 0.14)),
        scale=rng.uniform(0.18, 0.196),
        shift_x=rng.uniform(-0.022, 0.022),
        shift_y=rng.uniform(-0.014, 0.02),
        light_x=rng.uniform(-1, 1),
        light_y=rng.uniform(-0.8, 0.3),
        light=rng.uniform(0.03, 0.13),
        gain=rng.uniform(0.92, 1.05),
        gamma=rng.uniform(0.94, 1.1),
        cast=(float(red), float(green), float(blue)),
        contrast=rng.uniform(0.9, 0.98),
        offset=rng.uniform(-8, 8),
        smile=float(np.clip(rng.normal(0.45, 0.35), -0.15, 1)),
        mouth_open=float(rng.uniform(0.15, 0.6)) if rng.random() < 0.35 else 0.0,
        lids=float(rng.uniform(0.12, 0.6)) if rng.random() < 0.12 else float(rng.uniform(0.8, 1.15)),
        gaze_x=rng.uniform(-0.8, 0.8),
        gaze_y=rng.uniform(-0.5, 0.6),
        brow=rng.uniform(-0.4, 0.8),
        glasses=person.glasses != "none" and rng.random() < person.glasses_habit,
        cloth=_any_colour(rng),
        cloth_accent=_any_colour(rng),
        stripes=rng.random() < 0.3,
        neckline=rng.uniform(0.05, 0.55),
        backdrop=str(rng.choice(_BACKDROPS)),
        prop_kind=str(rng.choice(kinds, p=shares)),
        prop=_any_colour(rng),
        blur=float(rng.uniform(0.5, 1.3)) if rng.random() < 0.25 else 0.0,
        noise=rng.uniform(1.0, 7.0),
    )


_PROPS = {
    "none": 0.925, "hat": 0.01, "sunglasses": 0.01, "scarf": 0.015, "microphone": 0.02, "passer-by": 0.02,
}  # fmt: skip
_BACKDROPS = ("plain", "clouds", "lights", "stripes", "room")


def _backdrop(shot: Shot, rng: np.random.Generator, side: int) -> Image.Image:
    """The background, `side` pixels square: a soft gradient and, most often, things on it."""
    base, other = _any_colour(rng), _any_colour(rng)
    n = 7 if shot.backdrop == "clouds" else 2
    weights = rng.uniform(0, 1 if n == 7 else 0.5, (n, n, 1))
    field = np.array(base) + weights * (np.array(other) - base)
    # Smoothly to half the side, then by doubling pixels: twice as fast, and the photo is reduced again later.
    image = Image.fromarray(field.astype(np.uint8)).resize((side // 2, side // 2), Image.Resampling.BILINEAR)
    image = image.resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    if shot.backdrop == "lights":
        for x, y, r in rng.uniform((0, 0, 0.03), (1, 1, 0.13), (14, 3)) * side:
            draw.circle((x, y), r, fill=mix(base, _any_colour(rng), 0.6))
    elif shot.backdrop == "stripes":
        pitch, lean = rng.uniform(0.07, 0.2) * side, rng.uniform(-0.5, 0.5) * side
        for k in range(-8, int(side / pitch) + 8):
            line = (k * pitch, 0, k * pitch + lean, side)
            draw.line(line, fill=mix(base, other, 0.7), width=round(pitch * 0.45))
    elif shot.backdrop == "room":
        for x, y, w, h in rng.uniform((-0.2, -0.2, 0.1, 0.1), (0.95, 0.7, 0.45, 0.7), (9, 4)) * side:
            draw.rectangle((x, y, x + w, y + h), fill=mix(base, _any_colour(rng), 0.8))
    return image


def _shadows(canvas: Canvas, shot: Shot) -> Image.Image:
    """The soft layer in the light of the shot: RGB factors in units of NEUTRAL, the size of the photo.

    The light is a ramp over the head, level beyond it.
    """
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
    """The lookup table (3 * 256) from canvas times shadows, as `ImageChops.multiply` gives it, to the photo."""
    level = np.arange(256) / NEUTRAL  # 1 is the canvas's white in neutral light
    tables = []
    for factor in shot.cast:
        exposed = (level * shot.gain * factor) ** shot.gamma
        # The shoulder keeps highlights from burning out.
        tone = 255 * (1 - np.exp(-1.5 * exposed)) / (1 - np.exp(-1.5))
        tone = (tone - 128) * shot.contrast + 122 + shot.offset
        tables.append(np.clip(tone, 0, 255).astype(int))
    table: list[int] = np.concatenate(tables).tolist()
    return table


@cache
def _grain(size: int) -> Image.Image:
    """A field of normal noise, mean 128 and standard deviation 32, twice as wide and high as a photo."""
    noise = np.random.default_rng(0).standard_normal((2 * size, 2 * size)) * 32 + 128
    return Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))


def _develop(canvas: Canvas, shot: Shot, rng: np.random.Generator) -> Image.Image:
    """The photo from the canvas: shadows and light, tones, lens, sensor."""
    size = canvas.size
    photo = ImageChops.multiply(canvas.image.reduce(SUPERSAMPLE), _shadows(canvas, shot))
    photo = photo.point(_tone_curves(shot))
    if shot.blur:
        photo = photo.filter(ImageFilter.GaussianBlur(shot.blur * size / 250))
    # Noise is cut out of one large field at a random place: drawing it anew would take as long as the face.
    left, top = (int(k) for k in rng.integers(0, size, 2))
    grain = _grain(size).crop((left, top, left + size, top + size))
    grain = grain.point([min(255, max(0, round(128 + (k - 128) * shot.noise / 32))) for k in range(256)])
    return ImageChops.add(photo, Image.merge("RGB", (grain,) * 3), 1, -128)


def render(person: Person, rng: np.random.Generator, size: int = 250) -> Image.Image:
    """A new photo of `person`, RGB, `size` pixels square; `rng` decides everything that is not the person."""
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
        _PROP_DRAWERS[shot.prop_kind](canvas, person, shot)
    return _develop(canvas, shot, rng)


_PROP_DRAWERS = {
    "hat": hair.draw_hat,
    "sunglasses": hair.draw_sunglasses,
    "scarf": hair.draw_scarf,
    "microphone": hair.draw_microphone,
    "passer-by": hair.draw_passer_by,
}
