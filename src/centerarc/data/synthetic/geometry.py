"""Pose and alignment: from the pixels of an image to places on a person's face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.conditions import Conditions
from centerarc.data.synthetic.person import Person
from centerarc.data.synthetic.shapes import bell

Floats = NDArray[np.float32]

# The five-point ArcFace template relative to (56, 70): eyes, nose tip, mouth corners.
_TEMPLATE = np.asarray(
    [-17.71 - 18.3j, 17.53 - 18.5j, 0.03 + 1.74j, -14.45 + 22.37j, 14.73 + 22.2j]
)
ORIGIN = 56 + 70j
DOME_CENTRE = -8.0
_DEPTH = 36.0


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[Floats, Floats]:
    places = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(112.0 / size) - 0.5
    return places[None, :] - np.float32(ORIGIN.real), places[:, None] - np.float32(ORIGIN.imag)


@dataclass(frozen=True, eq=False)
class View:
    """An image's pixels in coordinates of the face.

    `x`, `y` are in the plane of the image turned upright, `u`, `v` on the face seen from the
    front; all have shape (size, size) and the unit of the template's pixel. `scale` is the
    number of image pixels to that unit.
    """

    size: int
    scale: float
    x: Floats
    y: Floats
    u: Floats
    v: Floats
    _person: Person
    _turn: tuple[float, float, float, float]
    _a: complex
    _b: complex

    def pixels(self, points: Floats, steps: int = 3) -> tuple[Floats, Floats]:
        """Return columns and rows (K,), in pixels, of points (K, 2) of the face."""
        posed = _to_image_plane(points[:, 0], points[:, 1], self._person, self._turn, steps)
        placed = (self._a * posed + self._b + ORIGIN + (0.5 + 0.5j)) * (self.size / 112.0)
        return (
            (placed.real - 0.5).astype(np.float32),
            (placed.imag - 0.5).astype(np.float32),
        )

    def crop(self, points: Floats, margin: float) -> tuple[slice, slice]:
        """Return the rows and columns that hold points (K, 2) with `margin` around them."""
        columns, rows = self.pixels(points, steps=1)
        room = margin * self.scale
        top, bottom = float(rows.min()) - room, float(rows.max()) + room
        left, right = float(columns.min()) - room, float(columns.max()) + room
        limit = self.size
        return (
            slice(min(max(int(top), 0), limit - 2), max(min(int(bottom) + 2, limit), 2)),
            slice(min(max(int(left), 0), limit - 2), max(min(int(right) + 2, limit), 2)),
        )


def _depth(x: Floats, y: Floats, person: Person, turn: tuple[float, ...]) -> Floats:
    """Return how far a point of the posed face lies before the plane through the ears."""
    sin_yaw, _, sin_pitch, cos_pitch = turn
    wide = np.float32(1.0 / person.head_width)
    high = np.float32(1.0 / 54.0)
    across = np.square(x * wide)
    down = np.square((y - np.float32(DOME_CENTRE)) * high)
    dome = np.maximum(np.float32(1.0) - np.float32(0.86) * (across + down), np.float32(0.05))
    # The nose stands out of the dome, so that its tip moves most when the head turns.
    nose = np.float32(6.5 * person.nose_height)
    reach = _DEPTH + float(nose)
    nose_x = x - np.float32(reach * sin_yaw)
    nose_y = y - np.float32(person.nose_tip * cos_pitch + reach * sin_pitch)
    bump = bell(nose_x, 1 / 98) * bell(nose_y, 1 / 128)
    depth: Floats = np.float32(_DEPTH) * np.sqrt(dome) + nose * bump
    return depth


def _to_image_plane(
    u: Floats,
    v: Floats,
    person: Person,
    turn: tuple[float, float, float, float],
    steps: int = 3,
) -> NDArray[np.complex128]:
    sin_yaw, cos_yaw, sin_pitch, cos_pitch = turn
    # A turned sphere is where this starts; the steps correct for the rest of the head.
    depth = _depth(u, v, person, (0.0, 1.0, 0.0, 1.0))
    x = u * np.float32(cos_yaw) + depth * np.float32(sin_yaw)
    y = v * np.float32(cos_pitch) + depth * np.float32(sin_pitch)
    for _ in range(steps):
        depth = _depth(x, y, person, turn)
        x = (u + depth * np.float32(sin_yaw)) * np.float32(1 / cos_yaw)
        y = (v + depth * np.float32(sin_pitch)) * np.float32(1 / cos_pitch)
    return x + 1j * y


def view(person: Person, conditions: Conditions, size: int) -> View:
    """Turn the head, then align the result to the template by its five landmarks."""
    turn = (
        sin(conditions.yaw),
        cos(conditions.yaw),
        sin(conditions.pitch),
        cos(conditions.pitch),
    )
    corner = person.mouth_width * (1.0 + 0.1 * conditions.smile)
    eyes = person.eye_spacing
    landmarks = np.asarray(
        [
            (-eyes, -18.3),
            (eyes, -18.3),
            (0.0, person.nose_tip),
            (-corner, person.mouth - 1.5 * conditions.smile),
            (corner, person.mouth - 1.5 * conditions.smile),
        ],
        dtype=np.float32,
    )
    posed = _to_image_plane(landmarks[:, 0], landmarks[:, 1], person, turn)
    # Least-squares similarity from the posed landmarks to the template.
    centred = posed - posed.mean()
    a = complex(np.sum(np.conj(centred) * _TEMPLATE) / np.sum(np.abs(centred) ** 2))
    b = complex(_TEMPLATE.mean() - a * posed.mean())
    error = conditions.zoom * complex(cos(conditions.roll), sin(conditions.roll))
    a, b = a * error, b * error + conditions.shift

    columns, rows = _axes(size)
    inverse = 1.0 / a
    shift = -b * inverse
    real, imaginary = np.float32(inverse.real), np.float32(inverse.imag)
    x = (columns * real + np.float32(shift.real)) - rows * imaginary
    y = (columns * imaginary + np.float32(shift.imag)) + rows * real
    depth = _depth(x, y, person, turn)
    u = x * np.float32(turn[1]) - depth * np.float32(turn[0])
    v = y * np.float32(turn[3]) - depth * np.float32(turn[2])
    return View(size, abs(a) * size / 112.0, x, y, u, v, person, turn, a, b)
