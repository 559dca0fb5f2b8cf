"""Drawn faces as a source: one picture of one person, from layers of color to the camera."""

from functools import lru_cache
from math import sin
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from centerarc.data.source import FaceSource
from centerarc.data.synthetic.face import (
    DOME_CENTER,
    STRANDS,
    Outlines,
    Relief,
    View,
    bell,
    coverage,
    direction_index,
    draw_outlines,
    draw_relief,
    paint,
    product,
    sensor_noise,
    texture,
    transform,
    view,
)
from centerarc.data.synthetic.features import (
    paint_eyes,
    paint_glasses,
    paint_hand,
    paint_hat,
    paint_mouth,
    paint_nostrils,
    paint_scarf,
)
from centerarc.data.synthetic.person import Conditions, Person, draw_conditions, draw_person

# From light to pixels: optics, sensor, tone curve and compression.

Floats = NDArray[np.float32]
_LUMA = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
# The luminance table of JPEG's Annex K is about this plane: coarse steps for fine detail.
_STEP_BASE, _STEP_SLOPE = 10.0, 7.0


def _blur_matrix(size: int, sigma: float, resolution: float) -> Floats:
    """Return the (size, size) matrix of a blur, through a smaller image when resolution < 1."""
    places = np.arange(size, dtype=np.float32)
    matrix = bell(places[:, None] - places[None, :], 0.5 / (sigma * sigma))
    matrix /= matrix.sum(axis=1, keepdims=True)
    if resolution < 1.0:
        small = max(int(size * resolution), 4)
        centers = (np.arange(small, dtype=np.float32) + 0.5) * (size / small) - 0.5
        tent = np.maximum(1.0 - np.abs(places[:, None] - centers[None, :]) * (small / size), 0.0)
        tent /= np.maximum(tent.sum(axis=1, keepdims=True), 1e-6)
        down = tent.T / tent.sum(axis=0)[:, None]
        matrix = product(tent.astype(np.float32), product(down.astype(np.float32), matrix))
    return matrix


@lru_cache(maxsize=8)
def _cosines(size: int) -> tuple[Floats, Floats]:
    """Return the blockwise cosine transform (size, size), 8 pixels a block, and frequencies."""
    matrix = np.zeros((size, size), dtype=np.float64)
    frequency = np.zeros(size, dtype=np.float64)
    for start in range(0, size, 8):
        length = min(8, size - start)
        k, i = np.arange(length)[:, None], np.arange(length)[None, :]
        block = np.sqrt(2.0 / length) * np.cos(np.pi * (i + 0.5) * k / length)
        block[0] /= np.sqrt(2.0)
        matrix[start : start + length, start : start + length] = block
        frequency[start : start + length] = np.arange(length)
    steps = _STEP_BASE + _STEP_SLOPE * (frequency[:, None] + frequency[None, :])
    return matrix.astype(np.float32), steps.astype(np.float32)


def _compress(image: Floats, strength: float) -> Floats:
    """Round the blockwise cosine coefficients of (3, H, W) as a JPEG file would."""
    matrix, steps = _cosines(image.shape[-1])
    step = steps * (strength / 255.0)
    luma = np.tensordot(_LUMA, image, axes=1)
    planes = np.stack([luma, image[0] - luma, image[2] - luma])
    coefficients = transform(matrix, planes, matrix)
    # Color is rounded more coarsely than brightness.
    table = np.stack([step, 2.0 * step, 2.0 * step])
    coefficients = np.rint(coefficients / table) * table
    luma, red, blue = transform(matrix.T, coefficients, matrix.T)
    green = luma - (_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]
    return np.stack([luma + red, green, luma + blue])


def develop(light: Floats, conditions: Conditions) -> NDArray[np.uint8]:
    """Turn linear light (3, size, size) into a uint8 image (size, size, 3)."""
    c, size = conditions, light.shape[-1]
    unit = size / 112.0
    down = _blur_matrix(size, max(c.blur, 0.3) * unit, c.resolution)
    across = _blur_matrix(size, (max(c.blur, 0.3) + c.motion) * unit, c.resolution)
    blurred = transform(down, light, across)
    image: Floats = np.sqrt(np.maximum(blurred * c.exposure, np.float32(0.0)))
    # A soft shoulder keeps bright skin from clipping flat.
    image *= 1.28 / (image * 0.42 + 0.86)
    image = (image - 0.45) * c.contrast + 0.45
    if c.saturation != 1.0:
        grey = np.tensordot(_LUMA, image, axes=1)
        image = grey + (image - grey) * c.saturation
    pool = sensor_noise()
    count = image.size
    start = c.noise_offset % max(pool.size - count, 1)
    # A picture larger than the table repeats it.
    grain = pool[start : start + count] if count < pool.size else np.resize(pool, count)
    image = image + grain.reshape(image.shape) * c.noise
    if c.quality < 0.4:
        image = _compress(image, 0.15 + 1.5 * (0.4 - c.quality) / 0.4)
    clipped = np.clip(image * 255.0 + 0.5, 0.0, 255.0)
    return np.ascontiguousarray(clipped.astype(np.uint8).transpose(1, 2, 0))


# One picture of one person: layers of color, shaded by the relief, before a background.

# Red light spreads furthest under the skin, so shadows on a face have a warm edge.
_SPREAD = np.asarray([0.34, 0.2, 0.14], dtype=np.float32)
_BLOOD = np.asarray([0.06, 0.34, 0.28], dtype=np.float32)
_PIGMENT = np.asarray([0.55, 0.85, 1.0], dtype=np.float32)


def render(
    person: Person, outlines: Outlines, conditions: Conditions, size: int
) -> NDArray[np.uint8]:
    """Draw one image, uint8 RGB of shape (size, size, 3)."""
    seen = view(person, conditions, size)
    relief = draw_relief(person, conditions, seen)
    index, radius = direction_index(seen.u, seen.v)
    head_edge = np.take(outlines.head, index) - radius
    jitter = np.float32(1.5 * conditions.hair_jitter)
    hair_edge = np.take(outlines.hair, index) - radius + jitter
    line_edge = radius - np.take(outlines.opening, index) + jitter

    albedo, alpha = _back_layers(person, outlines, conditions, seen, hair_edge)
    head = coverage(head_edge, 0.8 * seen.scale)
    skin = _skin(person, conditions, seen, relief)
    hair_color = albedo.copy()
    paint(albedo, skin, head)
    np.maximum(alpha, head, out=alpha)
    _beard(albedo, person, conditions, seen, head_edge)
    paint_nostrils(albedo, person, seen)
    paint_mouth(albedo, person, conditions, seen)
    paint_eyes(albedo, person, conditions, seen)
    if conditions.glasses:
        paint_glasses(albedo, person, conditions, seen)
    _front_hair(albedo, alpha, person, seen, hair_color, hair_edge, line_edge)
    if conditions.hat:
        paint_hat(albedo, alpha, hair_edge, conditions, seen)
    if conditions.scarf:
        paint_scarf(albedo, alpha, head_edge, conditions, seen)

    light = _shade(albedo, person, conditions, seen, relief, head_edge)
    if conditions.hand:
        paint_hand(light, alpha, person, conditions, seen)
    paint_on = _background(conditions, size)
    paint(paint_on, light, alpha)
    return develop(paint_on, conditions)


def _background(conditions: Conditions, size: int) -> Floats:
    c = conditions
    ramp = np.linspace(0.0, 1.0, size, dtype=np.float32)
    clouds = texture(size)[size // 2 : size // 2 + size, size - 1 : 2 * size - 1]
    across = c.style[2] + 0.5 * np.roll(ramp, int(c.style[3] * size))
    mix = ramp[:, None] * c.style[1] + across[None, :] * 0.5
    mix = np.clip(mix + 0.06 * clouds, 0.0, 1.0)
    first, second, third = (color[:, None, None] for color in c.background)
    picture = first + (second - first) * mix
    # A darker or lighter upright edge: a door, a wall, a tree.
    edge = np.clip((ramp - c.style[0]) * (4 + 40 * c.style[1]), 0.0, 1.0)
    result: Floats = picture + (third - picture) * (edge * 0.8)
    return result


def _back_layers(
    person: Person, outlines: Outlines, conditions: Conditions, seen: View, hair_edge: Floats
) -> tuple[Floats, Floats]:
    """Paint the hair, then neck, clothes and ears over what hangs behind the head."""
    p, sharp = person, seen.scale
    fall = (seen.u - 10.0 * p.parting) / (np.maximum(seen.v, -80.0) + 96.0)
    wave = np.cos(seen.v * (0.35 + 0.2 * p.curl)) * (28.0 * p.curl)
    place = fall * 620.0 + wave + STRANDS / 2
    strand = np.take(outlines.strands, np.clip(place, 0, STRANDS - 1).astype(np.int32))
    if p.curl > 0.4:
        curls = texture(seen.size)[: seen.size, seen.size :]
        strand = strand * (1.0 + (0.2 * min(p.curl, 1.2)) * curls)
    band = bell(hair_edge - 7.0, 0.012)
    gloss = 0.75 + 0.55 * band
    albedo = p.hair[:, None, None] * (strand * gloss)
    alpha = coverage(hair_edge, 0.4 * sharp) * min(3.0 * p.hair_cover, 1.0)

    wide = np.abs(seen.u)
    neck = coverage(0.68 * p.head_width - wide, 0.6 * sharp) * coverage(seen.v - 18.0, 0.5 * sharp)
    paint(albedo, p.skin * 0.5, neck)
    cloth = coverage(seen.v - 58.0 + 0.3 * wide, 0.6 * sharp)
    paint(albedo, conditions.cloth, cloth)
    # Ears sit behind the plane of the head's outline: a turn hides one and shows the other.
    ear_x = np.abs(seen.x + 9.0 * sin(conditions.yaw))
    ear_y = seen.y + (9.0 * sin(conditions.pitch) - p.ear_drop)
    ear_u = (ear_x - (p.head_width + 0.5 * p.ear_out - 1.4)) * (1.0 / (2.5 + 0.55 * p.ear_out))
    ear_v = ear_y * (1.0 / p.ear_size)
    ear_r = np.sqrt(np.square(ear_u + 0.25 * ear_v) + np.square(ear_v))
    # Long hair falls over the ears.
    bare = min(max(2.0 - 3.3 * p.hair_length, 0.0), 1.0)
    ear = coverage(1.0 - ear_r, 4.0 * sharp) * bare
    rim = 0.62 + 0.4 * np.clip(ear_r * 2 - 0.8, 0.0, 1.0)
    paint(
        albedo, (p.skin * np.asarray([1.0, 0.86, 0.84], dtype=np.float32))[:, None, None] * rim, ear
    )
    np.maximum(alpha, neck, out=alpha)
    np.maximum(alpha, cloth, out=alpha)
    np.maximum(alpha, ear, out=alpha)
    return albedo, alpha


def _skin(person: Person, conditions: Conditions, seen: View, relief: Relief) -> Floats:
    grain = texture(seen.size)[: seen.size, : seen.size]
    mottle = 1.0 - conditions.tan + 0.012 * grain
    blood = np.clip(relief.blood + 0.03 * grain, 0.0, 1.2)
    pigment = np.clip(relief.pigment, 0.0, 1.0)
    skin = person.skin[:, None, None] * mottle
    skin *= 1.0 - _BLOOD[:, None, None] * blood
    skin *= 1.0 - _PIGMENT[:, None, None] * pigment * 0.85
    return skin


def _beard(
    albedo: Floats, person: Person, conditions: Conditions, seen: View, head_edge: Floats
) -> None:
    p, growth = person, conditions.growth
    if max(p.stubble, p.moustache, p.goatee, p.cheek_beard) * growth < 0.04:
        return
    start = int(seen.size * 0.55)
    rows = slice(start, seen.size)
    u, v = np.abs(seen.u[rows]), seen.v[rows]
    wide = p.mouth_width
    # Distances inside: the moustache, the chin, and the cheeks along the jaw.
    middle = 0.5 * (p.nose_tip + 6.5 + p.mouth - p.lip_upper)
    lip = 3.2 - np.abs(v - middle - np.square(u) * 0.017)
    lip = np.minimum(lip, wide + 2.0 - u)
    low = v - (p.mouth + p.lip_lower + 2.5) + 0.1 * u
    chin = np.minimum(low, wide + 1.0 - u + 0.2 * (v - p.mouth))
    cheek = v - (p.mouth - 1.0) + 0.75 * (u - (wide + 3.5))
    cheek = np.minimum(cheek, u - (wide - 1.0) + np.maximum(low, 0.0) * 2)
    density = coverage(lip, 0.28) * max(p.moustache, p.stubble)
    density = np.maximum(density, coverage(chin - 1.0, 0.13) * max(p.goatee, p.stubble))
    density = np.maximum(density, coverage(cheek, 0.1) * max(p.cheek_beard, 0.85 * p.stubble))
    grain = texture(seen.size)[: seen.size, seen.size :][rows]
    density = density * (1.0 + 0.14 * grain) * (0.92 * growth)
    density *= coverage(head_edge[rows], 0.5)
    paint(albedo[:, rows], p.brow * 0.85, np.clip(density, 0.0, 0.95))


def _front_hair(
    albedo: Floats,
    alpha: Floats,
    person: Person,
    seen: View,
    color: Floats,
    hair_edge: Floats,
    line_edge: Floats,
) -> None:
    sharp = seen.scale
    # The hair's own shadow falls on the skin just inside the hairline.
    shadow = np.clip(1.0 + line_edge * 0.16, 0.0, 1.0)
    shadow = shadow * (0.34 * person.hair_cover)
    albedo *= 1.0 - shadow * (hair_edge > np.float32(-2.0))
    mask = coverage(line_edge, 0.35 * sharp) * coverage(hair_edge, 0.4 * sharp)
    mask *= person.hair_cover
    paint(albedo, color, mask)
    np.maximum(alpha, mask, out=alpha)


def _shade(
    albedo: Floats,
    person: Person,
    conditions: Conditions,
    seen: View,
    relief: Relief,
    head_edge: Floats,
) -> Floats:
    c = conditions
    # Normal of the head: flat before, turning away fast towards the sides.
    x = np.clip(seen.x * (1.0 / (person.head_width + 3.0)), -1.1, 1.1)
    y = np.clip((seen.y - DOME_CENTER) * (1.0 / 58.0), -1.1, 1.1)
    inside = np.clip(head_edge * 0.25 + 1.0, 0.0, 1.0)
    normal_x = x * (0.32 + 0.95 * np.square(x)) - relief.slope_x * inside
    normal_y = y * (0.25 + 0.6 * np.square(y)) - relief.slope_y * inside
    inverse = 1.0 / np.sqrt(1.0 + np.square(normal_x) + np.square(normal_y))
    lx, ly, lz = (np.float32(value) for value in c.light)
    facing = (normal_x * lx + normal_y * ly + lz) * inverse
    crease = np.clip(1.0 - relief.crease * inside, 0.25, 1.0)
    # Light from all round is weaker below and at the far edge of the head.
    around = (0.85 - 0.2 * normal_y * inverse) * crease * crease
    key = c.key * c.tint
    ambient = c.ambient * c.ambient_tint
    light = np.empty_like(albedo)
    for channel in range(3):
        spread = _SPREAD[channel]
        lit = np.maximum(facing + spread, np.float32(0.0)) * (1.0 / (1.0 + spread))
        lit *= key[channel]
        lit *= crease
        lit += around * ambient[channel]
        np.multiply(albedo[channel], lit, out=light[channel])
    # Highlight of the key light: half way between the light and the viewer.
    half = np.asarray([c.light[0], c.light[1], c.light[2] + 1.0])
    half = (half / np.sqrt(np.sum(half * half))).astype(np.float32)
    gloss = (normal_x * half[0] + normal_y * half[1] + half[2]) * inverse
    gloss = np.maximum(gloss, 0.0)
    for _ in range(4):
        gloss = np.square(gloss)
    gloss *= (c.shine * c.key) * coverage(head_edge - 2.0, 0.3)
    light += gloss * crease * 0.5
    return light


@lru_cache(maxsize=4096)
def _known_person(seed: int, identity: int) -> tuple[Person, Outlines]:
    # Shared by all sets of a process and bounded, so that sets stay small to send to workers.
    person = draw_person(seed, identity)
    return person, draw_outlines(person)


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


# Each has a label in memory.
_MOST = 10**9


class SyntheticFaces(FaceSource):
    """Faces of made-up people, drawn on demand from a seed: no files, no network, no real person.

    Every person is a point in a continuous space of traits (shape of the head, eyes, nose, mouth
    and ears, skin, hair, beard, age, moles), every image a photograph of it under its own pose,
    expression, light, glasses, coverings, background and camera, aligned to the five-point
    ArcFace template up to the error of a landmark detector. An image depends on nothing but the
    seed, the number of the person and the number of the image, so that sets whose ranges of
    people do not overlap share no one.

    Args:
        num_identities: number of people, at least 1.
        images_per_identity: number of images of each, at least 1.
        seed: the population to draw from, at least 0. Default 0.
        image_size: side of the images in pixels, at least 16. Default 112.
        first_identity: number of the first person in the population, at least 0: person k of
            this set is person first_identity + k of a set that starts at 0. Default 0.

    Raises:
        ValueError: an argument is not an integer or is too small, or there are over 10^9 images.

    Example:
        >>> from centerarc.data.synthetic import SyntheticFaces
        >>> training = SyntheticFaces(100, 10)
        >>> held_out = SyntheticFaces(20, 10, first_identity=100)
        >>> training.image(0).shape, len(training), int(training.labels[-1])
        ((112, 112, 3), 1000, 99)
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        *,
        seed: int = 0,
        image_size: int = 112,
        first_identity: int = 0,
    ) -> None:
        self.num_identities = _integer("num_identities", num_identities, 1)
        self.images_per_identity = _integer("images_per_identity", images_per_identity, 1)
        if (count := num_identities * images_per_identity) > _MOST:
            raise ValueError(
                f"num_identities x images_per_identity must be at most {_MOST}, got {count}"
            )
        self.seed = _integer("seed", seed, 0)
        self.image_size: int = _integer("image_size", image_size, 16)
        self.first_identity = _integer("first_identity", first_identity, 0)

    def __len__(self) -> int:
        """Return the number of images."""
        return self.num_identities * self.images_per_identity

    def __repr__(self) -> str:
        """Return the call that makes this set."""
        return (
            f"SyntheticFaces({self.num_identities}, {self.images_per_identity}, seed={self.seed}, "
            f"image_size={self.image_size}, first_identity={self.first_identity})"
        )

    # Made on demand, so that a set is small to send to workers.
    @property
    def labels(self) -> NDArray[np.int64]:  # type: ignore[override]
        """The label 0..num_identities-1 of every image, int64 of shape (len(self),)."""
        return np.repeat(np.arange(self.num_identities, dtype=np.int64), self.images_per_identity)

    @property
    def identities(self) -> list[str]:  # type: ignore[override]
        """The name of the person of every label; it keeps its number when the range shifts."""
        return [f"person-{self.first_identity + label:06d}" for label in range(self.num_identities)]

    def image(self, index: int) -> NDArray[np.uint8]:
        """Draw one image.

        Args:
            index: number of the image, 0..len(self)-1; the images of a person follow each other.

        Returns:
            uint8 RGB of shape (image_size, image_size, 3).

        Raises:
            IndexError: index is out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        label, number = divmod(int(index), self.images_per_identity)
        identity = self.first_identity + label
        person, outlines = _known_person(self.seed, identity)
        conditions = draw_conditions(person, self.seed, identity, number)
        return render(person, outlines, conditions, self.image_size)
