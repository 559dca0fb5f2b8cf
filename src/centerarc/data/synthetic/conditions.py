"""How a person is photographed: everything that changes from one image to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.person import Person, linear

Floats = NDArray[np.float32]


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
    lipstick_colour: Floats
    # What is worn, or in the way: each 0 for no, else a style number.
    glasses: int
    hat: int
    scarf: int
    hand: int
    item_colour: Floats
    frame_colour: Floats
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
    """Draw the conditions of image `number` of a person.

    Args:
        person: the traits of `identity`; only habits (glasses, make-up) are read.
        seed: the population, an integer >= 0.
        identity: the number of the person in it, an integer >= 0.
        number: the number of the image among the person's, an integer >= 0.

    Returns:
        The same conditions for the same numbers, in every process.
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

    def colour(start: int, low: float, high: float) -> Floats:
        grey = low + (high - low) * uniform[start]
        chroma = 0.42 * uniform[start + 1] ** 1.5
        hue = 2.0 * np.pi * uniform[start + 2]
        turn = np.cos(hue + np.asarray([0.0, -2.094, 2.094]))
        return linear(np.clip(grey * (1.0 + chroma * turn), 4.0, 250.0))

    frame = colour(10, 15.0, 60.0) if uniform[13] < 0.7 else colour(10, 60.0, 190.0)
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
        lipstick_colour=linear(
            (150 + 70 * uniform[18], 30 + 60 * uniform[19], 55 + 50 * uniform[20])
        ),
        glasses=eyewear,
        hat=hat,
        scarf=scarf,
        hand=hand,
        item_colour=colour(21, 35.0, 200.0),
        frame_colour=frame,
        style=(uniform[24], uniform[25], uniform[26], uniform[27]),
        background=np.stack(
            [colour(28, 20.0, 235.0), colour(31, 20.0, 235.0), colour(34, 20.0, 235.0)]
        ),
        cloth=colour(37, 20.0, 225.0),
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
