"""The relief and the blotches of a face as sums of Gaussians, each map one matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.conditions import Conditions
from centerarc.data.synthetic.geometry import View
from centerarc.data.synthetic.person import Person
from centerarc.data.synthetic.products import product
from centerarc.data.synthetic.shapes import bell

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Relief:
    """Maps (size, size): slopes of the surface, shade in its creases, blood and pigment."""

    slope_x: Floats
    slope_y: Floats
    crease: Floats
    blood: Floats
    pigment: Floats


class _Bumps:
    """Rows of (u, v, width, height of the blob, relief, crease, blood, pigment)."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def one(
        self,
        u: float,
        v: float,
        wide: float,
        high: float,
        *,
        relief: float = 0.0,
        crease: float = 0.0,
        blood: float = 0.0,
        pigment: float = 0.0,
    ) -> None:
        self.rows.append((u, v, wide, high, relief, crease, blood, pigment))

    def pair(
        self,
        u: float,
        v: float,
        wide: float,
        high: float,
        *,
        relief: float = 0.0,
        crease: float = 0.0,
        blood: float = 0.0,
        pigment: float = 0.0,
    ) -> None:
        for side in (-u, u):
            self.rows.append((side, v, wide, high, relief, crease, blood, pigment))


def _bumps(person: Person, conditions: Conditions) -> Floats:
    p, smile = person, conditions.smile
    grin = max(smile, 0.0)
    eyes, tip, mouth = p.eye_spacing, p.nose_tip, p.mouth
    tall = p.nose_height
    b = _Bumps()
    # Nose: bridge, hump, tip, wings, and the shade under it.
    b.one(0, -17, p.nose_bridge, 5.5, relief=2.6 * tall)
    b.one(0, -9.5, p.nose_bridge + 0.3, 5.0, relief=(3.3 + 0.5 * p.nose_hump) * tall)
    b.one(0, -3.5, p.nose_bridge + 0.7, 4.5, relief=3.0 * tall)
    b.one(0, tip, p.nose_bulb, 3.6, relief=5.2 * tall)
    b.pair(0.8 * p.nose_width, tip + 1.6, 2.5, 2.5, relief=2.9)
    b.pair(p.nose_width + 1.2, tip + 1.4, 1.3, 2.6, crease=0.2, relief=-0.6)
    b.one(0, tip + 6.0, 0.75 * p.nose_width, 1.7, crease=0.24)
    cast = -8.0 * conditions.light[0]
    b.one(cast, tip - 1.0, 4.5, 6.5, crease=0.3 * abs(conditions.light[0]) * conditions.key)
    b.one(0, tip + 0.5, p.nose_bulb + 1.0, 4.0, blood=0.35 * p.blush)
    # Eyes: sockets, the ball beneath the lids, bags, brow ridge, crow's feet.
    b.pair(eyes - 1.0, -20.0, 8.0, 5.2, relief=-2.6 * p.eye_deep, crease=0.12 * p.eye_deep)
    b.pair(eyes, -18.4, 5.2, 3.4, relief=1.7)
    b.pair(eyes - 8.6, -19.5, 2.6, 3.6, crease=0.22 + 0.06 * p.eye_deep)
    b.pair(eyes - 1.0, -12.6, 5.6, 1.7, crease=0.14 * p.eye_bags, relief=-0.5 * p.eye_bags)
    b.pair(eyes - 0.5, -15.0, 5.6, 2.2, pigment=0.22 * p.eye_bags, relief=0.4 * p.eye_bags)
    b.pair(0.85 * eyes, -27.5, 9.0, 3.2, relief=1.5 * p.brow_ridge)
    b.pair(eyes + 11.0, -17.5, 2.5, 1.0, relief=-0.35 * p.age * (0.5 + grin))
    b.pair(2.6, -24.0, 0.8, 3.0, relief=-0.5 * (0.7 * p.age + max(-conditions.brow, 0.0)))
    # Cheeks, temples, forehead and its lines.
    b.pair(23.5, -3.0 - 2.0 * grin, 7.5, 6.5, relief=2.0 * p.cheekbone + 1.2 * grin)
    b.pair(22.0, 0.0, 7.5, 6.5, blood=0.75 * p.blush)
    b.pair(27.0, 15.0, 6.0, 8.0, relief=-1.5 * p.cheekbone)
    b.pair(35.0, -28.0, 6.0, 8.0, relief=-1.6)
    b.one(0, -42.0, 17.0, 8.0, relief=1.8)
    lines = 0.24 * p.age * p.age + 0.12 * max(conditions.brow, 0.0)
    for height in (-35.5, -40.0, -44.5):
        b.one(0, height, 12.0, 0.8, relief=-lines)
    # Fold from the nose to the corner of the mouth.
    fold = 0.15 + 0.75 * p.age + 0.6 * grin
    wide = p.mouth_width * (1.0 + 0.12 * grin)
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        u = p.nose_width + 2.2 + t * (wide + 2.8 - p.nose_width) + 1.6 * t * (1 - t)
        v = tip + 1.0 + t * (mouth - 2.5 - tip)
        b.pair(u, v, 1.5, 2.6, relief=-0.5 * fold, crease=0.06 * fold)
    # Mouth and chin.
    b.one(0, mouth - 7.5, 1.5, 3.0, relief=-0.6)
    b.one(0, mouth - 2.2, 8.0, 2.0, relief=0.35 * p.lip_upper)
    b.one(0, mouth + 3.2 + 3.0 * conditions.open, 7.5, 2.2, relief=0.45 * p.lip_lower)
    b.pair(wide + 1.0, mouth - 1.8 * smile, 1.6, 1.9, relief=-0.9, crease=0.16)
    low = mouth + p.lip_lower + 4.0 + 5.0 * conditions.open
    b.one(0, low, 8.0, 2.2, relief=-1.6, crease=0.16)
    b.one(0, p.chin - 8.0, 6.5, 4.6, relief=1.9 * p.chin_boss, blood=0.2 * p.blush)
    b.one(0, p.chin - 6.5, 1.1, 3.0, relief=-0.9 * max(p.chin_boss - 1.3, 0.0))
    table = np.asarray(b.rows, dtype=np.float32)
    if len(p.marks):
        marks = np.zeros((len(p.marks), 8), dtype=np.float32)
        marks[:, :2] = p.marks[:, :2]
        marks[:, 2] = marks[:, 3] = p.marks[:, 2]
        marks[:, 7] = 1.6 * p.marks[:, 3]
        table = np.concatenate([table, marks])
    return table


def draw_relief(person: Person, conditions: Conditions, view: View) -> Relief:
    """Sum the bumps of a face in the pixels of a view."""
    table = _bumps(person, conditions)
    columns, rows = view.pixels(table[:, :2])
    inverse = np.float32(1.0 / view.scale) / table[:, 2:4]
    places = np.arange(view.size, dtype=np.float32)
    across = (places - columns[:, None]) * inverse[:, :1]
    down = (places - rows[:, None]) * inverse[:, 1:]
    wide = bell(across, 0.5)
    high = bell(down, 0.5)
    # (channels, K, size): each map is a (size, K) @ (K, size) product.
    left = high * table[:, 4:].T[:, :, None]
    relief = left[0]
    # Derivatives in units of height by length: one face unit is `scale` pixels.
    unit = (view.scale * inverse).astype(np.float32)
    slope_x = product(relief.T, wide * across * -unit[:, :1])
    slope_y = product((relief * down * -unit[:, 1:]).T, wide)
    crease, blood, pigment = (product(channel.T, wide) for channel in left[1:])
    return Relief(slope_x, slope_y, crease, blood, pigment)
