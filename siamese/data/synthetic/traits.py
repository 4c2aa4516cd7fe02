"""The traits of synthetic people (`Person`) and what varies between their photos (`Shot`), drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from siamese.data.synthetic.parts import Colour, mix, tint

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

PROPS = {
    "none": 0.925, "hat": 0.01, "sunglasses": 0.01, "scarf": 0.015, "microphone": 0.02, "passer-by": 0.02,
}  # fmt: skip
"""Objects in front of the person, and the fraction of photos that have each."""

BACKDROPS = ("plain", "clouds", "lights", "stripes", "room")


@dataclass(frozen=True)
class Person:
    """What is the same in every photo of a person. Lengths are in half widths of an average face."""

    male: bool
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
    hair: str  # a key of `siamese.data.synthetic.hair.CUTS`
    hair_colour: Colour
    hairline: float
    hair_length: float
    volume: float
    parting: float  # -1 or 1, the side
    beard: str  # none, stubble, moustache, goatee or full
    beard_colour: Colour
    glasses: str  # none, thin, thick or round
    glasses_habit: float  # fraction of the photos with glasses
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
    """What differs between photos of a person. Angles in radians; shifts and scale as fractions of the image side."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    shift_x: float
    shift_y: float
    light_x: float  # direction of the light, -1 left to 1 right
    light_y: float
    light: float  # how uneven the light is
    gain: float
    gamma: float
    cast: tuple[float, float, float]  # factors of the channels
    contrast: float
    offset: float  # grey levels added to all pixels, as by flash, fog or a faded print
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
    blur: float  # radius, in pixels of a 250-pixel photo
    noise: float  # standard deviation in grey levels


def sample_person(rng: np.random.Generator) -> Person:
    """Draw a new person. Traits are correlated where they are in real faces, and otherwise vary widely.

    The order of the draws is part of the data set: changing it changes all people.
    """
    male = bool(rng.random() < 0.55)
    old = float(np.clip(rng.beta(1.2, 2.2), 0, 1))
    skin = _sample_skin(rng)
    dark_skin = sum(skin) < 400
    hair_colour = _sample_hair_colour(rng, dark_skin, old)
    cuts, weights = (_MALE_CUTS, _MALE_SHARES) if male else (_FEMALE_CUTS, _FEMALE_SHARES)
    cut = str(rng.choice(cuts, p=np.array(weights) / sum(weights)))
    beard = str(rng.choice(_BEARDS, p=(0.3, 0.1, 0.16, 0.16, 0.28))) if male else "none"
    chin = rng.uniform(1.04, 1.44)
    eye_y = rng.uniform(-0.2, -0.06)
    nose_y = eye_y + rng.uniform(0.4, 0.6)
    marks = _sample_marks(rng, dark_skin)
    lip_red = rng.uniform(0.3, 0.55) if male else rng.uniform(0.45, 0.95)
    return Person(
        male=male, skin=skin, chin=chin, eye_y=eye_y, nose_y=nose_y, hair=cut, hair_colour=hair_colour, beard=beard,
        wrinkles=old,
        **marks,
        **_sample_head(rng, male),
        **_sample_eyes(rng, male, dark_skin, hair_colour),
        **_sample_nose_and_mouth(rng, male, nose_y, chin, tint(skin, 0.78), lip_red),
        **_sample_hair(rng, hair_colour),
        **_sample_accessories(rng, male),
    )  # fmt: skip


def groups_of(person: Person) -> dict[str, str]:
    """Return the groups that a person belongs to: attribute -> value, the columns of the data set's ``groups.csv``."""
    age, tone = person.wrinkles, sum(person.skin)
    return {
        "gender": "male" if person.male else "female",
        "age_group": "young" if age < 0.2 else "middle" if age < 0.5 else "old",
        "skin_tone": "light" if tone >= 500 else "medium" if tone >= 300 else "dark",
        "glasses": "no" if person.glasses == "none" else "yes",
    }


def _sample_hair_colour(rng: np.random.Generator, dark_skin: bool, old: float) -> Colour:
    names = tuple(_HAIRS)
    shares = np.array(_HAIR_SHARES) * [
        3 if dark_skin and k < 2 else 0.5 if dark_skin and k < 8 else 1 for k in range(10)
    ]
    shares[8:] *= 0.3 + 3.5 * old
    return tint(_HAIRS[str(rng.choice(names, p=shares / shares.sum()))], rng.uniform(0.88, 1.12))


def _sample_marks(rng: np.random.Generator, dark_skin: bool) -> dict[str, Any]:
    """Freckles, moles and a scar."""
    freckled = not dark_skin and rng.random() < 0.16
    spots = rng.uniform((-0.6, 0.02), (0.6, 0.45), (26, 2)) if freckled else np.empty((0, 2))
    moles = rng.uniform((-0.65, 0.05), (0.65, 0.6), (int(rng.choice(3, p=(0.55, 0.3, 0.15))), 2))
    scar: tuple[Point, ...] = ()
    if rng.random() < 0.07:
        x, y = rng.choice((-0.5, 0.5)), rng.uniform(0.1, 0.5)
        scar = ((float(x), float(y)), (float(x + rng.uniform(-0.2, 0.2)), float(y + 0.3)))
    return {
        "freckles": tuple((float(x), float(y)) for x, y in spots),
        "moles": tuple((float(x), float(y)) for x, y in moles),
        "scar": scar,
    }


def _sample_head(rng: np.random.Generator, male: bool) -> dict[str, Any]:
    return {
        "face_width": rng.uniform(0.8, 1.13),
        "jaw": rng.uniform(2.0, 3.0) if male else rng.uniform(1.72, 2.4),
        "neck": rng.uniform(0.52, 0.7) if male else rng.uniform(0.4, 0.54),
        "ear": rng.uniform(0.1, 0.18),
    }


def _sample_eyes(rng: np.random.Generator, male: bool, dark_skin: bool, hair_colour: Colour) -> dict[str, Any]:
    return {
        "eye_gap": rng.uniform(0.36, 0.48),
        "eye_width": rng.uniform(0.16, 0.23),
        "eye_height": rng.uniform(0.07, 0.135),
        "eye_slant": rng.uniform(-0.03, 0.055),
        "iris": tint(_IRISES[int(rng.integers(2 if dark_skin else len(_IRISES)))], rng.uniform(0.85, 1.15)),
        "lashes": rng.uniform(0.0, 0.015) if male else rng.uniform(0.02, 0.06),
        "brow_gap": rng.uniform(0.24, 0.34),
        "brow_thickness": rng.uniform(0.07, 0.2) if male else rng.uniform(0.04, 0.13),
        "brow_arch": rng.uniform(0.01, 0.13),
        "brow_angle": rng.uniform(-0.09, 0.08),
        "brow_colour": tint(mix(hair_colour, (60, 42, 34), 0.35), rng.uniform(0.7, 0.9)),
    }


def _sample_nose_and_mouth(
    rng: np.random.Generator, male: bool, nose_y: float, chin: float, lip_base: Colour, lip_red: float
) -> dict[str, Any]:
    return {
        "nose_width": rng.uniform(0.14, 0.27),
        "nose_tip": rng.uniform(0, 1),
        "mouth_y": nose_y + (chin - nose_y) * rng.uniform(0.4, 0.5),
        "mouth_width": rng.uniform(0.26, 0.45),
        "upper_lip": rng.uniform(0.03, 0.075) if male else rng.uniform(0.04, 0.11),
        "lower_lip": rng.uniform(0.05, 0.11) if male else rng.uniform(0.07, 0.14),
        "lips": tint(mix(lip_base, (188, 62, 72), lip_red), rng.uniform(0.85, 1.0) if male else rng.uniform(0.45, 1.1)),
    }


def _sample_hair(rng: np.random.Generator, hair_colour: Colour) -> dict[str, Any]:
    return {
        "hairline": rng.uniform(-0.05, 0.06),
        "hair_length": rng.uniform(0.85, 1.15),
        "volume": rng.uniform(0.6, 1.5),
        "parting": float(rng.choice((-1.0, 1.0))),
        "beard_colour": tint(hair_colour, rng.uniform(0.75, 1.0)),
    }


def _sample_accessories(rng: np.random.Generator, male: bool) -> dict[str, Any]:
    return {
        "glasses": str(rng.choice(("none", "thin", "thick", "round"), p=(0.52, 0.06, 0.24, 0.18))),
        "glasses_habit": rng.uniform(0.97, 1.0),
        "frame": any_colour(rng, 8, 110),
        "earrings": rng.uniform(0.09, 0.17) if rng.random() < (0.1 if male else 0.5) else 0.0,
        "jewel": any_colour(rng),
        "headband": not male and rng.random() < 0.3,
        "band_colour": any_colour(rng),
    }


def sample_shot(person: Person, rng: np.random.Generator) -> Shot:
    """Draw the pose, light, expression, clothes, background and camera of a new photo."""
    tone = rng.uniform(0.9, 1.1, 3)
    red, green, blue = tone / tone.mean()
    kinds, shares = zip(*PROPS.items(), strict=True)
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
        cloth=any_colour(rng),
        cloth_accent=any_colour(rng),
        stripes=rng.random() < 0.3,
        neckline=rng.uniform(0.05, 0.55),
        backdrop=str(rng.choice(BACKDROPS)),
        prop_kind=str(rng.choice(kinds, p=shares)),
        prop=any_colour(rng),
        blur=float(rng.uniform(0.5, 1.3)) if rng.random() < 0.25 else 0.0,
        noise=rng.uniform(1.0, 7.0),
    )


def any_colour(rng: np.random.Generator, dark: float = 12, light: float = 248) -> Colour:
    """Draw a colour of low saturation, more often dark or light than in between."""
    level = dark + (light - dark) * rng.beta(0.65, 0.65)
    return mix((level,) * 3, tuple(rng.uniform(0, 255, 3)), float(rng.uniform(0.05, 0.45)))


def _sample_skin(rng: np.random.Generator) -> Colour:
    at = rng.beta(0.75, 0.75) * (len(_SKINS) - 1.001)  # both ends are more frequent than in a uniform choice
    base = mix(_SKINS[int(at)], _SKINS[int(at) + 1], at % 1)
    red, green, blue = np.clip(np.array(base) * rng.uniform(0.97, 1.03, 3), 0, 255)
    return round(red), round(green), round(blue)
