"""Eyes, brows, mouth and nostrils, painted on small crops of the face."""

from __future__ import annotations

from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.conditions import Conditions
from centerarc.data.synthetic.geometry import View
from centerarc.data.synthetic.noise import texture
from centerarc.data.synthetic.person import Person, linear
from centerarc.data.synthetic.shapes import bell, coverage, paint

Floats = NDArray[np.float32]
_SCLERA = linear((205, 198, 194))
_TEETH = linear((226, 216, 202))
_MOUTH = linear((70, 22, 24))


def paint_eyes(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint both eyes with lids, lashes and brows, in one pass over their mirror images."""
    p, sharp = person, view.scale
    reach_out = p.eye_spacing + 13.5
    corners = np.asarray(
        [
            [-reach_out, -13.0],
            [reach_out, -13.0],
            [-reach_out, -33.5],
            [reach_out, -33.5],
            [0.0, -13.0],
            [0.0, -33.5],
        ],
        dtype=np.float32,
    )
    rows, columns = view.crop(corners, 1.5)
    target = albedo[:, rows, columns]
    # Local coordinates: across points to the ear on both sides, along the tilt of the eye.
    side = np.sign(view.u[rows, columns])
    across = np.abs(view.u[rows, columns]) - np.float32(p.eye_spacing)
    down = view.v[rows, columns] + np.float32(18.3)
    tilt_sin, tilt_cos = np.float32(sin(p.eye_tilt)), np.float32(cos(p.eye_tilt))
    x = across * tilt_cos - down * tilt_sin
    y = down * tilt_cos + across * tilt_sin
    along = x * np.float32(1.0 / p.eye_width)
    bow = np.float32(1.0) - np.square(along)

    squint = 1.0 - 0.35 * max(conditions.smile, 0.0)
    opened = 1.0 - conditions.blink
    upper = p.eye_upper * opened * (1.0 + 0.12 * conditions.brow)
    lower = p.eye_lower * (0.35 + 0.65 * opened) * squint
    lid = (
        y
        + bow * (np.float32(upper) * (np.float32(1.0) + np.float32(p.eye_skew) * along))
        - np.float32(lower * conditions.blink)
    )
    below = bow * np.float32(lower) - y
    inside = coverage(np.minimum(lid, below), sharp)

    gaze_x = side * np.float32(conditions.gaze[0])
    centre_y = -0.5 * (p.eye_upper - p.eye_lower) + conditions.gaze[1]
    round_eye = np.sqrt(np.square(x - gaze_x) + np.square(y - np.float32(centre_y)))
    # The white darkens under the upper lid and towards the corners.
    shade = (np.float32(0.5) + np.float32(0.5) * np.clip(lid * np.float32(0.55), 0.0, 1.0)) * (
        np.float32(0.55) + np.float32(0.45) * np.clip(bow * 2, 0.0, 1.0)
    )
    ball = _SCLERA[:, None, None] * shade
    radius = p.iris_radius
    iris = coverage(np.float32(radius) - round_eye, 0.8 * sharp)
    glow = np.float32(0.55) + np.float32(0.75) * np.clip(
        (y - np.float32(centre_y)) * np.float32(0.5 / radius) + np.float32(0.35), 0.0, 1.0
    )
    limbus = np.float32(1.0) - np.float32(0.65) * np.clip(
        round_eye - np.float32(radius - 1.2), 0.0, 1.0
    )
    paint(ball, person.iris[:, None, None] * (glow * limbus * shade), iris)
    pupil = coverage(np.float32(0.42 * radius) - round_eye, 0.8 * sharp)
    ball *= np.float32(1.0) - np.float32(0.95) * pupil
    spark_x = gaze_x + side * np.float32(conditions.light[0] * 1.5)
    spark_y = centre_y + conditions.light[1] * 1.7 - 0.3
    ball += np.float32(0.8) * bell(x - spark_x, 1.6) * bell(y - np.float32(spark_y), 1.6)

    # Lashes, crease of the lid and lower rim go below or beside the eyeball.
    reach = np.clip((np.float32(1.12) - np.abs(along)) * 6, 0.0, 1.0)
    crease_gap = lid + np.float32(p.lid_crease + 0.6) + np.float32(0.5) * along
    crease = bell(crease_gap, 1.3) * np.clip((np.float32(1.2) - np.abs(along)) * 4, 0.0, 1.0)
    fold = np.clip(0.28 + 0.22 * p.lid_crease, 0.0, 0.75)
    target *= np.float32(1.0) - np.float32(fold) * crease
    rim = bell(below - np.float32(0.1), 1.4) * reach
    target *= np.float32(1.0) - np.float32(0.35) * rim
    paint(target, ball, inside)
    thick = 0.75 + 0.35 * p.lash + 0.3 * conditions.lipstick
    outer = np.float32(thick) * (np.float32(0.85) + np.float32(0.3) * along)
    lash = coverage(outer - np.abs(lid + np.float32(0.3)), 0.9 * sharp) * reach
    lash *= np.float32(0.55 + 0.35 * min(p.lash, 1.0))
    paint(target, person.brow * np.float32(0.25), lash)

    # The brow: an arch that tapers outwards, with hairs from the shared texture.
    base = -p.brow_height - 1.4 * conditions.brow - 0.5 * p.lid_crease
    t = (across + np.float32(p.brow_length - 1.5)) * np.float32(0.5 / p.brow_length)
    arch = (
        np.float32(base + 0.6)
        - np.float32(4.0 * p.brow_arch) * t * (np.float32(1.25) - t)
        + np.float32(14.0 * p.brow_tilt * -1.0 + 2.0 * max(-conditions.brow, 0.0))
        * (t - np.float32(0.5))
    )
    half = np.float32(p.brow_thickness) * (np.float32(1.35) - np.float32(0.9) * t)
    ends = np.clip(t * 7, 0.0, 1.0) * np.clip((np.float32(1.02) - t) * 6, 0.0, 1.0)
    mask = coverage(half - np.abs(down - arch), 0.45 * sharp) * ends
    hairs = texture(view.size)[rows, columns]
    mask *= np.clip(np.float32(p.brow_density) + np.float32(0.16) * hairs, 0.0, 1.0)
    paint(target, person.brow, mask)


def paint_mouth(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint lips, and teeth and the dark behind them when the mouth is open."""
    p, smile, sharp = person, conditions.smile, view.scale
    wide = p.mouth_width * (1.0 + 0.14 * smile - 0.08 * conditions.open)
    drop = 8.0 * conditions.open
    corners = np.asarray(
        [
            [-wide - 1, p.mouth - 6],
            [wide + 1, p.mouth - 6],
            [0, p.mouth + 7 + drop],
            [0, p.mouth - 7],
        ],
        dtype=np.float32,
    )
    rows, columns = view.crop(corners, 1.5)
    target = albedo[:, rows, columns]
    along = view.u[rows, columns] * np.float32(1.0 / wide)
    y = view.v[rows, columns] - np.float32(p.mouth)
    square = np.square(along)
    bow = np.float32(1.0) - square
    arch = np.sqrt(np.maximum(bow, 0.0)) * bow.clip(-1.0, None)
    lift = 3.0 * smile - 0.6 * p.mouth_droop
    seam = np.float32(0.3 * lift) - np.float32(lift) * square
    seam = seam + np.float32(0.5) * bell(along, 22.0)
    top = seam - arch * np.float32(0.25 * drop)
    bottom = seam + arch * np.float32(0.75 * drop)
    cupid = np.float32(1.0) - np.float32(p.cupid) * bell(along, 30.0)
    thin = 1.0 - 0.16 * max(smile, 0.0) - 0.1 * conditions.open
    over = top - (bow * np.float32(p.lip_upper * thin)) * cupid
    under = bottom + np.maximum(arch, bow) * np.float32(p.lip_lower * thin)
    inside = coverage(np.minimum(y - over, under - y), 0.75 * sharp)

    colour = person.lips + (conditions.lipstick_colour - person.lips) * np.float32(
        conditions.lipstick
    )
    upper_lip = coverage(seam - y, 0.6 * sharp)
    tone = np.float32(1.08) - np.float32(0.3) * upper_lip
    gleam = y - (bottom + np.float32(0.45 * p.lip_lower))
    tone += np.float32(0.22) * bell(gleam, 0.8) * bell(along, 5.0)
    paint(target, colour[:, None, None] * tone, np.float32(0.88) * inside)
    seam_line = bell(y - top, 1.6) * np.clip((np.float32(1.06) - np.abs(along)) * 8, 0.0, 1.0)
    target *= np.float32(1.0) - np.float32(0.66) * seam_line
    if drop > 0.3:
        gap = coverage(np.minimum(y - top, bottom - y), sharp)
        teeth = coverage(top + np.float32(0.8 + 0.34 * drop) + np.float32(1.0) * bow - y, sharp)
        paint(target, _MOUTH, gap)
        shade = np.float32(0.35) + np.float32(0.6) * np.clip(bow, 0.0, 1.0)
        paint(target, _TEETH[:, None, None] * shade, gap * teeth)


def paint_nostrils(albedo: Floats, person: Person, view: View) -> None:
    """Paint the nostrils, softly."""
    p = person
    height = p.nose_tip + 4.0
    place = 0.46 * p.nose_width
    corners = np.asarray([[-p.nose_width, height], [p.nose_width, height]], dtype=np.float32)
    rows, columns = view.crop(corners, 4.0)
    target = albedo[:, rows, columns]
    across = np.abs(view.u[rows, columns]) - np.float32(place)
    down = view.v[rows, columns] - np.float32(height) - np.float32(0.2) * across
    hole = np.square(across * np.float32(1.0 / (0.24 * p.nose_width)))
    hole = hole + np.square(down * np.float32(1.0 / (0.75 + 0.45 * p.nostril)))
    target *= np.float32(1.0) - np.float32(0.62) * bell(hole, 1.1)
