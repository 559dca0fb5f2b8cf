"""The outlines of a person's head and hair as radius tables over direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.geometry import DOME_CENTRE
from centerarc.data.synthetic.noise import smooth_noise
from centerarc.data.synthetic.person import Person

Floats = NDArray[np.float32]

# Entries a side. The tables run over v / (|u| + |v|) in -1..1 (up to down), left side first.
_ENTRIES = 1024
STRANDS = 2048


@dataclass(frozen=True, eq=False)
class Outlines:
    """Radii (2 x 1024,) around the centre of the head, and the brightness of hair strands."""

    head: Floats
    hair: Floats
    opening: Floats
    strands: Floats


def direction_index(u: Floats, v: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Return each point's place in the tables and its distance from the centre of the head."""
    down = v - np.float32(DOME_CENTRE)
    wide = np.abs(u)
    ratio = down / (wide + np.abs(down) + np.float32(1e-6))
    index = (ratio * np.float32(_ENTRIES / 2 - 0.5) + np.float32(_ENTRIES / 2)).astype(np.int32)
    index += (u > 0) * np.int32(_ENTRIES)
    radius: Floats = np.sqrt(np.square(wide) + np.square(down))
    return index, radius


def draw_outlines(person: Person) -> Outlines:
    """Build the tables of a person."""
    ratio = np.linspace(-1.0, 1.0, _ENTRIES)
    length = np.hypot(ratio, 1.0 - np.abs(ratio))
    across, down = (1.0 - np.abs(ratio)) / length, ratio / length

    head = _head(person, ratio)
    rng = np.random.default_rng([0x68, person.hair_seed])
    both_hair: list[Floats] = []
    both_opening: list[Floats] = []
    ragged = smooth_noise(rng, 2 * _ENTRIES, 70)
    locks = smooth_noise(rng, 2 * _ENTRIES, 24)
    for side in (-1.0, 1.0):
        # The two sides must meet at the crown, so the right side reads the noise backwards.
        part = slice(0, _ENTRIES) if side < 0 else slice(_ENTRIES, None)
        order = -1 if side < 0 else 1
        rough, lock = ragged[part][::order], locks[part][::order]
        hair = _hair(person, head, across, down) + rough * (0.25 + 0.5 * person.curl)
        hair = hair + lock * (0.3 + 1.0 * min(person.curl, 1.2))
        both_hair.append(hair.astype(np.float32))
        edge = _opening(person, across, down, side)
        fringe = person.fringe * np.clip(-down, 0.0, 1.0) ** 2
        # Locks show along the forehead; beside the cheeks hair hangs smoothly.
        above = np.clip(0.3 - down, 0.1, 1.0)
        edge = edge + above * (rough * (0.5 + 0.1 * fringe) + lock * (0.5 + 0.14 * fringe))
        both_opening.append(edge.astype(np.float32))

    fine = smooth_noise(rng, STRANDS, int(260 * person.strands))
    coarse = smooth_noise(rng, STRANDS, int(60 * person.strands))
    strands = np.exp(0.16 * fine + 0.16 * coarse).astype(np.float32)
    return Outlines(
        head=np.concatenate([head, head]).astype(np.float32),
        hair=np.concatenate(both_hair),
        opening=np.concatenate(both_opening),
        strands=strands,
    )


def _head(person: Person, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = np.linspace(0.0, np.pi, 600)
    upper = angle < np.pi / 2
    power = np.where(upper, 2.25, person.jaw_square)
    sine, cosine = np.sin(angle), np.cos(angle)
    wide = person.head_width * np.abs(sine) ** (2.0 / power)
    high = np.where(upper, person.skull + DOME_CENTRE, person.chin - DOME_CENTRE)
    tall = -np.sign(cosine) * high * np.abs(cosine) ** (2.0 / power)
    below = np.clip(tall / (person.chin - DOME_CENTRE), 0.0, 1.0)
    wide = wide * (1.0 - person.jaw_taper * below**1.4 * (2.2 - 1.2 * below))
    wide = wide + (0.8 * person.cheekbone - 0.8) * np.exp(-(((tall - 4.0) / 11.0) ** 2)) * (
        np.abs(sine) > 0.3
    )
    wide = wide + (1.5 * person.chin_width) * np.exp(-(((below - 0.88) / 0.16) ** 2)) * sine
    place = tall / (np.abs(wide) + np.abs(tall) + 1e-9)
    radius = np.hypot(wide, tall)
    result: NDArray[np.float64] = np.interp(ratio, place, radius)
    return np.convolve(np.pad(result, 20, mode="edge"), np.full(41, 1 / 41), mode="valid")


def _hair(
    person: Person,
    head: NDArray[np.float64],
    across: NDArray[np.float64],
    down: NDArray[np.float64],
) -> NDArray[np.float64]:
    volume = person.hair_volume * person.hair_cover
    # Above the ears only long hair stands off the head.
    beside = 0.15 + 0.45 * min(person.hair_length, 1.0)
    cap = head + volume * (beside + (1.0 - beside) * np.clip(-1.25 * down, 0.0, 1.0))
    # Long hair hangs as a box around the face; short hair ends beside the ears.
    end = -14.0 + 46.0 * person.hair_length - DOME_CENTRE
    wide = person.head_width + 0.75 * volume + 3.0 * min(person.hair_length, 1.3)
    # A smooth minimum of the two sides of the box rounds its corners.
    hang = ((across / wide) ** 5 + (np.maximum(down, 1e-3) / max(end, 1.0)) ** 5) ** -0.2
    long = np.clip((person.hair_length - 0.25) / 0.35, 0.0, 1.0)
    fade = np.clip((0.14 - down) / 0.3, 0.0, 1.0)
    short_side = head - 9.0 + (cap - head + 9.0) * fade
    blend = np.clip((down + 0.35) / 0.5, 0.0, 1.0)
    long_side = cap + (np.minimum(hang, 110.0) - cap) * blend
    return np.asarray(short_side + (long_side - short_side) * long)


def _opening(
    person: Person, across: NDArray[np.float64], down: NDArray[np.float64], side: float
) -> NDArray[np.float64]:
    sweep = 1.0 + side * person.parting * across
    high = DOME_CENTRE - person.hairline - person.fringe * np.clip(sweep, 0.0, 1.9)
    high = high + 0.35 * person.receding + 2.5 * side * person.parting * across
    framing = np.clip((person.hair_length - 0.35) / 0.4, 0.0, 1.0)
    wide = person.head_width - 2.0 - 2.0 * framing
    power = 2.6
    up = np.clip(-down, 0.0, 1.0)
    nearness = (across / wide) ** power + (up / np.maximum(high, 12.0)) ** power
    radius = np.maximum(nearness, 1e-6) ** (-1 / power)
    temples = np.exp(-(((across - 0.62) / 0.22) ** 2)) * (down < 0)
    radius = radius + 0.75 * person.receding * temples
    below = np.clip(down / 0.6, 0.0, 1.0) ** 1.5
    # Below the ears the opening of short hair widens for good; long hair stays beside the cheeks.
    open_side = np.minimum(wide / np.maximum(across, 0.05) + 40.0 * below * (1 - framing), 150.0)
    return np.asarray(np.where(down < 0, radius, open_side))
