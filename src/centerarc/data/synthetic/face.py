"""The shape of a face (pose, outlines, relief), and the brushes that paint it."""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.person import Conditions, Person

# Matrix products that stay on one thread.

Floats = NDArray[np.float32]

# OpenBLAS shares a product of more multiplications (4 x 65536) out among threads. For pictures
# that gains nothing, and beside busy cores the threads wait for each other many times longer
# than the work takes.
_MULTIPLICATIONS = 250_000


def product(left: Floats, right: Floats) -> Floats:
    """Return the product of (M, K) and (K, N), some rows at a time."""
    rows = max(_MULTIPLICATIONS // right.size, 1)
    result: Floats = np.empty((left.shape[0], right.shape[1]), dtype=np.float32)
    for start in range(0, left.shape[0], rows):
        np.matmul(left[start : start + rows], right, out=result[start : start + rows])
    return result


def transform(down: Floats, planes: Floats, across: Floats) -> Floats:
    """Return down @ plane @ across.T for every plane (N, N) of (C, N, N)."""
    count, side, _ = planes.shape
    half = product(planes.reshape(count * side, side), across.T).reshape(planes.shape)
    return np.stack([product(down, plane) for plane in half])


# Fixed noise tables, shared by all people, that the drawing reads slices of.


@lru_cache(maxsize=1)
def sensor_noise() -> Floats:
    """Return 2^20 standard normal numbers; reading a slice is far cheaper than drawing one."""
    return np.random.default_rng(0x6E).standard_normal(2**20, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, length: int, knots: int) -> Floats:
    """Return a smooth random curve of `length` points, of about unit deviation."""
    heights = rng.standard_normal(knots + 3)
    place = np.linspace(0.0, knots - 1e-6, length)
    left = place.astype(np.int64)
    t = place - left
    # Cubic B-spline weights: smooth, and without overshoot. 1.45 restores the deviation.
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    curve = sum(weight * heights[left + shift] for shift, weight in enumerate(weights))
    return np.asarray(1.45 * curve, dtype=np.float32)


@lru_cache(maxsize=8)
def texture(size: int) -> Floats:
    """Return a cloudy (2 size, 2 size) noise picture that looks alike at every image size."""
    rng = np.random.default_rng(0x74)
    side = 2 * size
    total = np.zeros((side, side), dtype=np.float64)
    for knots, weight in ((14, 0.5), (40, 0.6), (110, 0.8)):
        bend = np.stack([smooth_noise(rng, side, knots) for _ in range(knots + 3)])
        place = np.linspace(0.0, knots - 1e-6, side)
        left = place.astype(np.int64)
        t = (place - left)[:, None]
        t = t * t * (3 - 2 * t)
        total += weight * ((1 - t) * bend[left] + t * bend[left + 1])
    return np.asarray(total / total.std(), dtype=np.float32)


# The brushes: soft edges, soft bells, and blending.


def coverage(distance: NDArray[np.floating], sharpness: float) -> Floats:
    """Return how much of a pixel lies inside an outline `distance` away (positive inside)."""
    inside: Floats = np.clip(distance * sharpness + 0.5, 0.0, 1.0)
    return inside


def bell(distance: NDArray[np.floating], sharpness: float) -> Floats:
    """Return exp(-sharpness distance^2), cut off before it becomes a slow denormal number."""
    exponent = np.square(distance) * (-sharpness)
    height: Floats = np.exp(np.maximum(exponent, np.float32(-30.0)))
    return height


def paint(
    target: NDArray[np.floating], color: NDArray[np.floating], mask: NDArray[np.floating]
) -> None:
    """Blend a color (3,) or picture (3, H, W) into `target` (3, H, W) in place."""
    if color.ndim == 1:
        color = color[:, None, None]
    target += (color - target) * mask


# Pose and alignment: from the pixels of an image to places on a person's face.

# The five-point ArcFace template relative to (56, 70): eyes, nose tip, mouth corners.
_TEMPLATE = np.asarray(
    [-17.71 - 18.3j, 17.53 - 18.5j, 0.03 + 1.74j, -14.45 + 22.37j, 14.73 + 22.2j]
)
ORIGIN = 56 + 70j
DOME_CENTER = -8.0
_DEPTH = 36.0


@lru_cache(maxsize=8)
def _axes(size: int) -> tuple[Floats, Floats]:
    places = (np.arange(size, dtype=np.float32) + 0.5) * (112.0 / size) - 0.5
    return places[None, :] - ORIGIN.real, places[:, None] - ORIGIN.imag


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

    def crop(self, points: list[tuple[float, float]], margin: float) -> tuple[slice, slice]:
        """Return the rows and columns that hold points of the face with `margin` around them."""
        columns, rows = self.pixels(np.asarray(points, dtype=np.float32), steps=1)
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
    down = np.square((y - DOME_CENTER) * high)
    dome = np.maximum(1.0 - 0.86 * (across + down), np.float32(0.05))
    # The nose stands out of the dome, so that its tip moves most when the head turns.
    nose = np.float32(6.5 * person.nose_height)
    reach = _DEPTH + float(nose)
    nose_x = x - reach * sin_yaw
    nose_y = y - (person.nose_tip * cos_pitch + reach * sin_pitch)
    bump = bell(nose_x, 1 / 98) * bell(nose_y, 1 / 128)
    depth: Floats = _DEPTH * np.sqrt(dome) + nose * bump
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
    x = u * cos_yaw + depth * sin_yaw
    y = v * cos_pitch + depth * sin_pitch
    for _ in range(steps):
        depth = _depth(x, y, person, turn)
        x = (u + depth * sin_yaw) * (1 / cos_yaw)
        y = (v + depth * sin_pitch) * (1 / cos_pitch)
    return x + 1j * y


def view(person: Person, conditions: Conditions, size: int) -> View:
    """Turn the head, then align the result to the template by its five landmarks."""
    yaw, pitch = conditions.yaw, conditions.pitch
    turn = (sin(yaw), cos(yaw), sin(pitch), cos(pitch))
    corner = person.mouth_width * (1.0 + 0.1 * conditions.smile)
    eyes = person.eye_spacing
    low = person.mouth - 1.5 * conditions.smile
    points = [(-eyes, -18.3), (eyes, -18.3), (0.0, person.nose_tip), (-corner, low), (corner, low)]
    landmarks = np.asarray(points, dtype=np.float32)
    posed = _to_image_plane(landmarks[:, 0], landmarks[:, 1], person, turn)
    # Least-squares similarity from the posed landmarks to the template.
    centered = posed - posed.mean()
    a = complex(np.sum(np.conj(centered) * _TEMPLATE) / np.sum(np.abs(centered) ** 2))
    b = complex(_TEMPLATE.mean() - a * posed.mean())
    error = conditions.zoom * complex(cos(conditions.roll), sin(conditions.roll))
    a, b = a * error, b * error + conditions.shift

    columns, rows = _axes(size)
    inverse = 1.0 / a
    shift = -b * inverse
    real, imaginary = np.float32(inverse.real), np.float32(inverse.imag)
    x = (columns * real + shift.real) - rows * imaginary
    y = (columns * imaginary + shift.imag) + rows * real
    depth = _depth(x, y, person, turn)
    u = x * turn[1] - depth * turn[0]
    v = y * turn[3] - depth * turn[2]
    return View(size, abs(a) * size / 112.0, x, y, u, v, person, turn, a, b)


# The outlines of a person's head and hair as radius tables over direction.

# Entries a side. The tables run over v / (|u| + |v|) in -1..1 (up to down), left side first.
_ENTRIES = 1024
STRANDS = 2048


@dataclass(frozen=True, eq=False)
class Outlines:
    """Radii (2 x 1024,) around the center of the head, and the brightness of hair strands."""

    head: Floats
    hair: Floats
    opening: Floats
    strands: Floats


def direction_index(u: Floats, v: Floats) -> tuple[NDArray[np.int32], Floats]:
    """Return each point's place in the tables and its distance from the center of the head."""
    down = v - DOME_CENTER
    wide = np.abs(u)
    ratio = down / (wide + np.abs(down) + 1e-6)
    index = (ratio * (_ENTRIES / 2 - 0.5) + _ENTRIES / 2).astype(np.int32)
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
    high = np.where(upper, person.skull + DOME_CENTER, person.chin - DOME_CENTER)
    tall = -np.sign(cosine) * high * np.abs(cosine) ** (2.0 / power)
    below = np.clip(tall / (person.chin - DOME_CENTER), 0.0, 1.0)
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
    end = -14.0 + 46.0 * person.hair_length - DOME_CENTER
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
    high = DOME_CENTER - person.hairline - person.fringe * np.clip(sweep, 0.0, 1.9)
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


# The relief and the blotches of a face as sums of Gaussians, each map one matrix product.


@dataclass(frozen=True, eq=False)
class Relief:
    """Maps (size, size): slopes of the surface, shade in its creases, blood and pigment."""

    slope_x: Floats
    slope_y: Floats
    crease: Floats
    blood: Floats
    pigment: Floats


_MAPS = ("relief", "crease", "blood", "pigment")


class _Bumps:
    """Rows of (u, v, width, height of the blob, and its height in each of `_MAPS`)."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def one(self, u: float, v: float, wide: float, high: float, **maps: float) -> None:
        self.rows.append((u, v, wide, high, *(maps.get(name, 0.0) for name in _MAPS)))

    def pair(self, u: float, v: float, wide: float, high: float, **maps: float) -> None:
        self.one(-u, v, wide, high, **maps)
        self.one(u, v, wide, high, **maps)


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
    inverse = (1.0 / view.scale) / table[:, 2:4]
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
