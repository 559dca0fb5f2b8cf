"""Who is drawn, and how each picture of them is taken."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Who is drawn: one made-up person as a point in a continuous space of facial traits.

Floats = NDArray[np.float32]

# Stops of the population's palettes in sRGB 0..255; a trait in 0..1 picks a color between them.
_SKIN = ((238, 203, 182), (226, 182, 153), (205, 152, 117), (158, 106, 77), (98, 63, 47))
_HAIR = ((206, 170, 112), (152, 108, 62), (98, 64, 40), (56, 38, 28), (24, 19, 18))
_IRIS = ((120, 158, 180), (112, 138, 118), (128, 108, 66), (92, 60, 36), (52, 33, 24))


def linear(color: object) -> Floats:
    """Turn an sRGB color in 0..255 into linear light in 0..1 (display gamma taken as 2)."""
    light: Floats = np.square(np.asarray(color, dtype=np.float32) / 255.0)
    return light


def _palette(stops: tuple[tuple[int, int, int], ...], position: float) -> Floats:
    places = np.linspace(0.0, 1.0, len(stops))
    rgb = [np.interp(position, places, [stop[channel] for stop in stops]) for channel in range(3)]
    return linear(rgb)


@dataclass(frozen=True, eq=False)
class Person:
    """The traits of one person; lengths are in pixels of the 112 x 112 ArcFace template.

    Positions are relative to the point (56, 70) of the template: u to the right, v down.
    """

    # Head outline.
    head_width: float
    chin: float
    jaw_square: float
    jaw_taper: float
    chin_width: float
    skull: float
    cheekbone: float
    chin_boss: float
    # Eyes and brows.
    eye_spacing: float
    eye_width: float
    eye_upper: float
    eye_lower: float
    eye_tilt: float
    eye_skew: float
    eye_deep: float
    eye_bags: float
    lid_crease: float
    lash: float
    iris_radius: float
    brow_height: float
    brow_thickness: float
    brow_length: float
    brow_arch: float
    brow_tilt: float
    brow_density: float
    brow_ridge: float
    # Nose, mouth, ears.
    nose_tip: float
    nose_width: float
    nose_bridge: float
    nose_bulb: float
    nose_height: float
    nose_hump: float
    nostril: float
    mouth: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    cupid: float
    mouth_droop: float
    ear_size: float
    ear_out: float
    ear_drop: float
    # Hair.
    hair_length: float
    hair_volume: float
    hair_cover: float
    hairline: float
    receding: float
    fringe: float
    parting: float
    curl: float
    strands: float
    # Beard (0..1 densities) and age.
    stubble: float
    moustache: float
    goatee: float
    cheek_beard: float
    age: float
    # Colors in linear light, shape (3,).
    skin: Floats
    hair: Floats
    brow: Floats
    iris: Floats
    lips: Floats
    blush: float
    # Marks on the skin, rows of (u, v, radius, darkness), shape (marks, 4).
    marks: Floats
    # Habits: how likely glasses and make-up are, and the noise that shapes the hair.
    glasses: float
    makeup: float
    hair_seed: int


def draw_person(seed: int, identity: int) -> Person:
    """Draw person number `identity` of the population `seed`, the same in every process."""
    rng = np.random.default_rng([0x70, seed, identity])

    def normal(mean: float, deviation: float, low: float = -1e9, high: float = 1e9) -> float:
        # Clipped at 2.5 deviations: rarer values leave the range in which the drawing holds up.
        value = mean + 0.8 * deviation * float(np.clip(rng.standard_normal(), -2.5, 2.5))
        return float(min(max(value, low), high))

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    # Two people-wide latents correlate many traits, as in a real population.
    sex = normal(1.0 if chance(0.5) else -1.0, 0.45)
    man = float(np.clip(0.5 + 0.5 * sex, 0.0, 1.0))
    age = float(rng.beta(1.3, 1.9))

    melanin = float(np.clip(rng.beta(1.3, 1.9) + normal(0.0, 0.04), 0.0, 1.0))
    skin = _palette(_SKIN, melanin) * np.asarray(
        [normal(1.0, 0.05), normal(1.0, 0.035), normal(1.0, 0.08)], dtype=np.float32
    )
    hair_melanin = float(np.clip(0.25 + 0.75 * melanin + normal(0.18, 0.25), 0.0, 1.0))
    hair = _palette(_HAIR, hair_melanin)
    red = max(normal(-0.15, 0.28), 0.0) * (1.0 - melanin)
    hair = hair * np.asarray([1.0 + 0.9 * red, 1.0 - 0.2 * red, 1.0 - 0.5 * red], dtype=np.float32)
    grey = float(np.clip((age - 0.6) * 2.2 + normal(-0.2, 0.3), 0.0, 0.9))
    brow = hair * 0.6
    hair = hair + (linear((176, 174, 172)) - hair) * grey
    brow = brow + (linear((150, 146, 142)) - brow) * (0.6 * grey)
    iris = _palette(
        _IRIS, float(np.clip(0.1 + 0.9 * melanin + 0.35 * hair_melanin + normal(0, 0.3), 0, 1))
    )
    lips = skin * linear(
        (238 + normal(0, 8), 178 + normal(0, 12) + 22 * melanin, 178 + normal(0, 12))
    )

    shaven = chance(0.45)
    beard = 0.0 if shaven else man * man * max(normal(0.55, 0.5), 0.0)
    bald = max(normal(-0.9, 0.75) + 1.3 * age * man, 0.0) * man
    length = normal(1.5 * (1.0 - man) + 0.12, 0.33, 0.0, 2.0)

    marks = [
        tuple(
            float(rng.uniform(*ends)) for ends in ((-30, 30), (-34, 36), (0.6, 1.15), (0.35, 0.75))
        )
        for _ in range(int(rng.poisson(1.1)))
    ]
    freckles = max(normal(-0.6, 0.8), 0.0) * (1.0 - melanin) + 0.6 * max(red - 0.1, 0.0)
    for _ in range(min(int(70 * freckles), 60)):
        side = 1.0 if chance(0.5) else -1.0
        place = (side * abs(normal(13.0, 8.0)), normal(-5.0, 5.5))
        marks.append((*place, float(rng.uniform(0.5, 0.95)), float(rng.uniform(0.1, 0.3))))

    return Person(
        head_width=normal(37.6 + 0.8 * sex, 2.0),
        chin=normal(42.5 + 1.2 * sex, 2.4),
        jaw_square=normal(2.15 + 0.17 * sex, 0.22, 1.6, 3.0),
        jaw_taper=normal(0.13 - 0.04 * sex, 0.06, 0.0, 0.3),
        chin_width=normal(0.0, 1.0),
        skull=normal(61.0, 3.0),
        cheekbone=normal(1.0, 0.35, 0.2),
        chin_boss=normal(1.0, 0.5),
        eye_spacing=normal(17.3, 0.95),
        eye_width=normal(7.9 - 0.1 * sex, 0.6),
        eye_upper=normal(3.5 - 0.3 * sex, 0.6, 2.1),
        eye_lower=normal(2.1, 0.4, 1.1),
        eye_tilt=normal(0.05 - 0.02 * sex, 0.07),
        eye_skew=normal(0.0, 0.16),
        eye_deep=normal(1.0 + 0.15 * sex, 0.5, 0.0),
        eye_bags=max(normal(0.1 + 0.7 * age, 0.35), 0.0),
        lid_crease=normal(1.9, 0.75, 0.3),
        lash=normal(0.85 - 0.25 * sex, 0.2, 0.3),
        iris_radius=normal(3.8, 0.2),
        brow_height=normal(10.2 - 1.0 * sex, 1.3, 6.8),
        brow_thickness=normal(2.05 + 0.4 * sex, 0.42, 1.1),
        brow_length=normal(10.4, 0.9),
        brow_arch=normal(1.5 - 0.5 * sex, 0.85),
        brow_tilt=normal(0.04, 0.09),
        brow_density=normal(0.75 + 0.08 * sex, 0.15, 0.3, 1.0),
        brow_ridge=normal(0.6 + 0.5 * sex, 0.35, 0.0),
        nose_tip=normal(1.8, 1.9),
        nose_width=normal(8.0 + 0.6 * sex + 1.6 * melanin, 0.95, 5.5),
        nose_bridge=normal(3.4 + 0.8 * melanin, 0.55, 2.2),
        nose_bulb=normal(4.1 + 0.25 * sex, 0.6, 2.8),
        nose_height=normal(1.05 - 0.2 * melanin, 0.22, 0.5),
        nose_hump=normal(0.0, 1.0),
        nostril=normal(1.0, 0.35, 0.3),
        mouth=normal(22.6, 1.6),
        mouth_width=normal(13.6 + 0.5 * sex, 1.3),
        lip_upper=normal(3.1 - 0.35 * sex + 0.9 * melanin - 0.8 * age, 0.65, 1.2),
        lip_lower=normal(4.3 - 0.4 * sex + 1.0 * melanin - 0.8 * age, 0.75, 1.9),
        cupid=normal(0.28, 0.14, 0.0),
        mouth_droop=normal(0.0, 0.8),
        ear_size=normal(8.4 + 0.6 * sex, 0.9),
        ear_out=normal(1.9, 1.1),
        ear_drop=normal(-10.0, 2.0),
        hair_length=length,
        hair_volume=normal(4.5, 2.6, 0.6) + 2.2 * min(length, 1.0),
        hair_cover=float(np.clip(normal(1.2, 0.3) - 0.55 * bald, 0.0, 1.0)),
        hairline=normal(-48.5, 2.8),
        receding=bald * 7.0 + max(normal(0.0, 2.0), 0.0),
        fringe=max(normal(-0.55, 0.75), 0.0) * (1.0 - 0.5 * man) * 13.0,
        parting=normal(0.0, 0.7),
        curl=max(normal(0.05 + 0.7 * melanin, 0.42), 0.0),
        strands=normal(1.0, 0.3, 0.3),
        stubble=float(np.clip(man * normal(0.25, 0.22), 0.0, 0.6)),
        moustache=float(np.clip(beard * normal(0.9, 0.5), 0.0, 1.0)),
        goatee=float(np.clip(beard * normal(0.9, 0.5), 0.0, 1.0)),
        cheek_beard=float(np.clip(beard * normal(0.7, 0.6), 0.0, 1.0)),
        age=age,
        skin=np.clip(skin, 0.01, 0.98).astype(np.float32),
        hair=hair.astype(np.float32),
        brow=brow.astype(np.float32),
        iris=iris,
        lips=lips.astype(np.float32),
        blush=max(normal(0.5, 0.4), 0.0) * (1.0 - 0.6 * melanin),
        marks=np.asarray(marks, dtype=np.float32).reshape(-1, 4),
        glasses=float(rng.choice([0.03, 0.15, 0.6], p=[0.6, 0.2, 0.2])),
        makeup=0.45 * (1.0 - man),
        hair_seed=int(rng.integers(2**31)),
    )


# How a person is photographed: everything that changes from one image to the next.


@dataclass(frozen=True, eq=False)
class Conditions:
    """The state of one photograph; angles in radians, lengths in template pixels."""

    # Pose, and what is left of it after an imperfect alignment.
    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: complex
    # Expression.
    smile: float
    open: float
    blink: float
    brow: float
    gaze: tuple[float, float]
    # Light: a key light (unit vector towards it), its strength against the ambient light, tint.
    light: tuple[float, float, float]
    key: float
    ambient: float
    tint: Floats
    ambient_tint: Floats
    shine: float
    # Hair of the day, make-up, tan and beard growth.
    hair_jitter: float
    tan: float
    growth: float
    lipstick: float
    lipstick_color: Floats
    # What is worn, or in the way: each 0 for no, else a style number.
    glasses: int
    hat: int
    scarf: int
    hand: int
    item_color: Floats
    frame_color: Floats
    style: tuple[float, float, float, float]
    # Background and clothes.
    background: Floats
    cloth: Floats
    # Camera.
    exposure: float
    contrast: float
    saturation: float
    blur: float
    motion: float
    resolution: float
    noise: float
    quality: float
    noise_offset: int


def draw_conditions(person: Person, seed: int, identity: int, number: int) -> Conditions:
    """Draw the conditions of a person's image `number`, the same in every process.

    Of the person only habits (glasses, make-up) are read.
    """
    rng = np.random.default_rng([0x63, seed, identity, number])
    gauss = np.clip(rng.standard_normal(24), -2.4, 2.4).tolist()
    uniform = rng.random(48).tolist()
    yaw = 0.29 * gauss[0]
    pitch = 0.16 * gauss[1]

    azimuth = 0.95 * gauss[2]
    height = 0.35 + 0.4 * gauss[3]
    light = np.asarray([np.sin(azimuth), -np.sin(height), 0.75 * np.cos(azimuth) + 0.35])
    light = light / np.sqrt(np.sum(light * light))
    warmth = 0.2 * gauss[4]
    tint = np.asarray([1 + warmth, 1 + 0.03 * gauss[5], 1 - 1.2 * warmth], dtype=np.float32)
    cool = 0.16 * gauss[6]
    ambient_tint = np.asarray([1 + cool, 1 + 0.03 * gauss[7], 1 - cool], dtype=np.float32)
    hardness = uniform[0]

    smile = max(-0.45, 0.3 + 0.5 * gauss[8])
    mouth_open = max(0.0, 0.55 * gauss[9] - 0.25 + 0.25 * smile)
    blink = 1.0 if uniform[1] < 0.03 else max(0.0, 0.18 * gauss[10] + 0.12 * smile)

    eyewear = 0
    if uniform[2] < 0.09:
        eyewear = 2
    elif uniform[3] < person.glasses:
        eyewear = 1
    hat = (1 + int(uniform[4] * 2)) if uniform[5] < 0.2 else 0
    scarf = (1 + int(uniform[6] * 2)) if uniform[7] < 0.12 else 0
    hand = (1 if uniform[8] < 0.5 else 2) if uniform[9] < 0.09 and not scarf else 0

    def color(start: int, low: float, high: float) -> Floats:
        grey = low + (high - low) * uniform[start]
        chroma = 0.42 * uniform[start + 1] ** 1.5
        hue = 2.0 * np.pi * uniform[start + 2]
        turn = np.cos(hue + np.asarray([0.0, -2.094, 2.094]))
        return linear(np.clip(grey * (1.0 + chroma * turn), 4.0, 250.0))

    frame = color(10, 15.0, 60.0) if uniform[13] < 0.7 else color(10, 60.0, 190.0)
    low_quality = uniform[14] < 0.4
    return Conditions(
        yaw=yaw,
        pitch=pitch,
        roll=0.055 * gauss[11],
        zoom=1.0 + 0.04 * gauss[12],
        shift=complex(1.6 * gauss[13], 1.6 * gauss[14]),
        smile=smile,
        open=min(mouth_open, 1.1),
        blink=min(blink, 1.0),
        brow=0.55 * gauss[15],
        gaze=(1.0 * gauss[16], 0.5 * gauss[17]),
        light=(float(light[0]), float(light[1]), float(light[2])),
        key=0.35 + 0.75 * hardness,
        ambient=0.62 - 0.42 * hardness,
        tint=tint,
        ambient_tint=ambient_tint,
        shine=0.05 + 0.2 * uniform[15] ** 2,
        hair_jitter=gauss[18],
        tan=0.1 * gauss[19],
        growth=max(0.0, 0.9 + 0.55 * gauss[20]),
        lipstick=(0.35 + 0.5 * uniform[16]) if uniform[17] < person.makeup else 0.0,
        lipstick_color=linear(
            (150 + 70 * uniform[18], 30 + 60 * uniform[19], 55 + 50 * uniform[20])
        ),
        glasses=eyewear,
        hat=hat,
        scarf=scarf,
        hand=hand,
        item_color=color(21, 35.0, 200.0),
        frame_color=frame,
        style=(uniform[24], uniform[25], uniform[26], uniform[27]),
        background=np.stack(
            [color(28, 20.0, 235.0), color(31, 20.0, 235.0), color(34, 20.0, 235.0)]
        ),
        cloth=color(37, 20.0, 225.0),
        exposure=0.92 * float(np.exp(0.32 * gauss[21])),
        contrast=1.0 + 0.12 * gauss[22],
        saturation=max(0.0, 1.0 + 0.17 * gauss[23]) * (0.0 if uniform[40] < 0.08 else 1.0),
        blur=0.35 + (1.05 * uniform[41] if low_quality else 0.25 * uniform[41]),
        motion=2.5 * uniform[42] if uniform[43] < 0.08 else 0.0,
        resolution=0.36 + 0.5 * uniform[44] if uniform[45] < 0.15 else 1.0,
        noise=0.006 + (0.045 * uniform[46] if low_quality else 0.012 * uniform[46]),
        quality=uniform[47],
        noise_offset=int(rng.integers(2**20)),
    )
